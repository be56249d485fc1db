//! The timeouts of a REST connection: for a request's head, and for being idle.
//!
//! ```text
//!   Head ──── the head is whole ───► Busy ──── all is answered ───► Idle
//!    ▲  head_timeout                  no limit: bodies and           │ idle_timeout
//!    │                                operations have their own      │
//!    └────────────────────── the first byte of the next head ────────┘
//! ```
//!
//! A request is in progress until its body was read or abandoned and the body of the answer is
//! handed to the connection; an answer may come before the request's body is complete (`leftover`).
//! After that, a client that is slow to receive the answer counts as idle since its last progress.
//!
//! With HTTP/2 there is no wait for heads between requests: pings find a dead client, and a live
//! one without requests is idle.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tierkv_rpc::Connection;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::{Instant, sleep_until},
};

/// The first bytes of every HTTP/2 connection; no HTTP/1 request begins with them.
const HTTP2: &[u8] = b"PRI";

/// The timeouts of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Timeout of a request's head, from its first byte, or from the start of the connection.
    pub(super) head: Duration,
    /// Idle timeout of a connection.
    pub(super) idle: Duration,
}

/// Which timeout has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Head,
    Idle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A head has been arriving since then.
    Head(Instant),
    /// This many requests are in progress.
    Busy(usize),
    /// Nothing has been in progress since then.
    Idle(Instant),
}

/// The phase and timeouts of one connection.
#[derive(Debug)]
pub(super) struct Pace {
    times: Times,
    state: Mutex<State>,
    /// Notified when the timeout may be due earlier than the waiter expects.
    sooner: Notify,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    has_begun: bool,
    is_http2: bool,
    /// When the timeout is checked next.
    looked_at: Instant,
}

impl Pace {
    /// The pace of a connection that starts now.
    pub(super) fn new(times: Times) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            times,
            state: Mutex::new(State {
                phase: Phase::Head(now),
                has_begun: false,
                is_http2: false,
                looked_at: now,
            }),
            sooner: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the next timeout is due in this phase, and which one.
    fn due(&self, phase: Phase) -> Option<(Instant, Over)> {
        match phase {
            Phase::Head(since) => Some((since + self.times.head, Over::Head)),
            Phase::Busy(_) => None,
            Phase::Idle(since) => Some((since + self.times.idle, Over::Idle)),
        }
    }

    fn change(&self, mut state: MutexGuard<'_, State>, phase: Phase) {
        state.phase = phase;
        let is_sooner = (self.due(phase)).is_some_and(|(due, _)| due < state.looked_at);
        drop(state);
        if is_sooner {
            self.sooner.notify_one();
        }
    }

    /// Records received bytes.
    fn received(&self, bytes: &[u8]) {
        let mut state = self.state();
        if !state.has_begun {
            state.has_begun = true;
            state.is_http2 = bytes.starts_with(HTTP2);
            if state.is_http2 {
                self.change(state, Phase::Idle(Instant::now()));
            }
            return;
        }
        if matches!(state.phase, Phase::Idle(_)) && !state.is_http2 {
            self.change(state, Phase::Head(Instant::now()));
        }
    }

    /// Records that something was sent.
    fn sent(&self) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Idle(_)) && !state.is_http2 {
            state.phase = Phase::Idle(Instant::now());
        }
    }

    /// Records that a request's head is complete.
    pub(super) fn begin(self: &Arc<Self>) -> Underway {
        let state = self.state();
        let count = match state.phase {
            Phase::Busy(count) => count,
            Phase::Head(_) | Phase::Idle(_) => 0,
        };
        self.change(state, Phase::Busy(count + 1));
        Underway(Arc::clone(self))
    }

    fn end(&self) {
        let state = self.state();
        let phase = match state.phase {
            Phase::Busy(count) if count > 1 => Phase::Busy(count - 1),
            _ => Phase::Idle(Instant::now()),
        };
        self.change(state, phase);
    }

    /// Waits until a timeout has passed; returns which one.
    pub(super) async fn over(&self) -> Over {
        loop {
            let sooner = self.sooner.notified();
            let look_at = {
                let mut state = self.state();
                let now = Instant::now();
                let look_at = match self.due(state.phase) {
                    Some((due, over)) if due <= now => return over,
                    Some((due, _)) => due,
                    // Often enough for any timeout that may start later.
                    None => now + self.times.head.min(self.times.idle),
                };
                state.looked_at = look_at;
                look_at
            };
            tokio::select! {
                () = sleep_until(look_at) => {}
                () = sooner => {}
            }
        }
    }
}

/// A request in progress, until dropped.
#[derive(Debug)]
pub(super) struct Underway(Arc<Pace>);

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The body of a request or of its answer; the request is in progress until it ends.
pub(super) struct PacedBody<B> {
    pub(super) body: B,
    pub(super) _underway: Underway,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for PacedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection with its timeouts.
#[derive(Debug)]
pub(super) struct Paced {
    pub(super) connection: Connection,
    pub(super) pace: Arc<Pace>,
}

impl AsyncRead for Paced {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.connection).poll_read(context, buffer);
        if let Some(received @ [_, ..]) = buffer.filled().get(before..) {
            this.pace.received(received);
        }
        read
    }
}

impl Paced {
    fn sent(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(1..)) = written {
            self.pace.sent();
        }
        written
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.connection).poll_write(context, bytes);
        this.sent(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.connection).poll_write_vectored(context, pieces);
        this.sent(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;

    const TIMES: Times = Times {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(75),
    };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The next timeout, and in how many seconds from now it passes.
    async fn over(pace: &Pace) -> (Over, u64) {
        let began = Instant::now();
        let over = pace.over().await;
        (over, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_has_the_timeout_of_a_head() {
        let pace = Pace::new(TIMES);
        assert_eq!(over(&pace).await, (Over::Head, 10));
        let pace = Pace::new(TIMES);
        sleep(seconds(9)).await;
        // A byte now and then does not extend the timeout.
        pace.received(b"G");
        assert_eq!(over(&pace).await, (Over::Head, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_have_their_own_time_and_a_pause_is_idle() {
        let pace = Pace::new(TIMES);
        pace.received(b"GET / HTTP/1.1\r\n\r\n");
        let (one, other) = (pace.begin(), pace.begin());
        assert!(timeout(seconds(1_000), pace.over()).await.is_err());
        drop(one);
        assert!(timeout(seconds(1_000), pace.over()).await.is_err());
        drop(other);
        assert_eq!(over(&pace).await, (Over::Idle, 75));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_head_ends_the_idle_time_while_somebody_waits_for_it() {
        let pace = Pace::new(TIMES);
        pace.received(b"GET / HTTP/1.1\r\n\r\n");
        drop(pace.begin());
        let waiting = {
            let pace = Arc::clone(&pace);
            tokio::spawn(async move { over(&pace).await })
        };
        sleep(seconds(20)).await;
        pace.received(b"GE");
        sleep(seconds(5)).await;
        pace.received(b"T ");
        assert_eq!(waiting.await.unwrap(), (Over::Head, 30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_its_answer_slowly_is_not_idle() {
        let pace = Pace::new(TIMES);
        pace.received(b"GET / HTTP/1.1\r\n\r\n");
        drop(pace.begin());
        sleep(seconds(70)).await;
        pace.sent();
        assert_eq!(over(&pace).await, (Over::Idle, 75));
    }

    #[tokio::test(start_paused = true)]
    async fn frames_of_http2_between_requests_are_no_heads() {
        let pace = Pace::new(TIMES);
        pace.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        sleep(seconds(20)).await;
        pace.received(b"ping");
        pace.sent();
        assert_eq!(over(&pace).await, (Over::Idle, 55));
    }
}
