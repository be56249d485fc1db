//! The timeouts of a REST connection: for a request's head, and for being idle.
//!
//! ```text
//!   Head ── the head is complete ──► Busy ── all requests are answered ──► Idle
//!    ▲  head_timeout                  no limit: bodies and                  │ idle_timeout
//!    │                                operations have their own             │
//!    └──────────────────── the first byte of the next head ─────────────────┘
//! ```
//!
//! A request is in progress until its body was read or abandoned and the body of the answer is
//! handed to the connection; an answer may come before the request's body is complete (`leftover`).
//! After that, the connection is idle, and each time the system accepts more of the answer for the
//! client, the idle time starts again. With HTTP/2 only bytes of an answer's body restart it,
//! because the connection also sends pings, which say nothing about a request.
//!
//! With HTTP/2 the head timeout ends with the preface: pings find a dead client, and a live one
//! without requests is idle. Until the whole preface has arrived, a connection is timed as HTTP/1.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tierkv_rpc::Connection;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::{Instant, sleep_until},
};

/// The preface: the first bytes of every HTTP/2 connection (RFC 9113, section 3.4). No shorter part
/// of it is enough, because the method of an HTTP/1 request may begin in the same way.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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

/// The protocol of a connection, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// Only this many bytes have arrived, and all of them belong to the preface of HTTP/2.
    Undecided(usize),
    Http1,
    Http2,
}

impl Protocol {
    /// The protocol after these bytes were received, too.
    fn after(self, bytes: &[u8]) -> Self {
        let Self::Undecided(length) = self else {
            return self;
        };
        let awaited = &PREFACE[length..];
        if bytes.starts_with(awaited) {
            Self::Http2
        } else if awaited.starts_with(bytes) {
            Self::Undecided(length + bytes.len())
        } else {
            Self::Http1
        }
    }
}

#[derive(Debug)]
struct State {
    phase: Phase,
    protocol: Protocol,
    /// When the timeout is checked next.
    next_check: Instant,
}

impl Pace {
    /// Starts to measure a connection: the timeout of its first head begins now.
    pub(super) fn new(times: Times) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            times,
            state: Mutex::new(State {
                phase: Phase::Head(now),
                protocol: Protocol::Undecided(0),
                next_check: now,
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
        let is_sooner = (self.due(phase)).is_some_and(|(due, _)| due < state.next_check);
        drop(state);
        if is_sooner {
            self.sooner.notify_one();
        }
    }

    /// Records received bytes.
    fn received(&self, bytes: &[u8]) {
        let mut state = self.state();
        let before = state.protocol;
        state.protocol = before.after(bytes);
        match state.protocol {
            Protocol::Http2 if before != Protocol::Http2 => {
                self.change(state, Phase::Idle(Instant::now()));
            }
            Protocol::Http1 if matches!(state.phase, Phase::Idle(_)) => {
                self.change(state, Phase::Head(Instant::now()));
            }
            _ => {}
        }
    }

    /// Records that the system accepted bytes for the client. With HTTP/2 they may be a ping, so
    /// they don't count.
    fn sent(&self) {
        self.progressed(Protocol::Http1);
    }

    /// Records that bytes of an answer's body were taken from it to be sent. With HTTP/1 they don't
    /// count before the system has accepted them.
    fn sent_body(&self) {
        self.progressed(Protocol::Http2);
    }

    /// Restarts the idle time of a connection of this protocol.
    fn progressed(&self, protocol: Protocol) {
        let mut state = self.state();
        if state.protocol == protocol && matches!(state.phase, Phase::Idle(_)) {
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
            let check_at = {
                let mut state = self.state();
                let now = Instant::now();
                let check_at = match self.due(state.phase) {
                    Some((due, over)) if due <= now => return over,
                    Some((due, _)) => due,
                    // Often enough for any timeout that may start later.
                    None => now + self.times.head.min(self.times.idle),
                };
                state.next_check = check_at;
                check_at
            };
            tokio::select! {
                () = sleep_until(check_at) => {}
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

/// The body of a request, which is in progress until this body is dropped.
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

/// The body of an answer. Its request is in progress until this body is dropped.
pub(super) struct PacedAnswer<B> {
    pub(super) body: B,
    pub(super) underway: Underway,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for PacedAnswer<B> {
    type Data = PacedBytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<PacedBytes>, B::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(context);
        frame.map_ok(|frame| {
            frame.map_data(|bytes| PacedBytes {
                bytes,
                pace: Arc::clone(&this.underway.0),
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of an answer's body. HTTP/2 takes them from here as the client makes room for them, which
/// may be long after the body was dropped.
pub(super) struct PacedBytes {
    bytes: Bytes,
    pace: Arc<Pace>,
}

impl Buf for PacedBytes {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if count > 0 {
            self.pace.sent_body();
        }
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
    use http_body_util::{BodyExt, Full};
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
        pace.received(PREFACE);
        sleep(seconds(20)).await;
        pace.received(b"ping");
        pace.sent();
        assert_eq!(over(&pace).await, (Over::Idle, 55));
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_whole_preface_of_http2_ends_the_timeout_of_the_first_head() {
        // A client that stops within the preface, and one of HTTP/1 that begins like it.
        for begun in [&PREFACE[..3], &PREFACE[..23], b"PRINT / HTTP/1.1"] {
            let pace = Pace::new(TIMES);
            sleep(seconds(9)).await;
            pace.received(begun);
            assert_eq!(over(&pace).await, (Over::Head, 1), "{begun:?}");
        }
        let pace = Pace::new(TIMES);
        for byte in PREFACE {
            pace.received(&[*byte]);
        }
        assert_eq!(over(&pace).await, (Over::Idle, 75));
        // The first byte alone decides nothing.
        let pace = Pace::new(TIMES);
        pace.received(b"P");
        pace.received(b"OST / HTTP/1.1\r\n\r\n");
        drop(pace.begin());
        sleep(seconds(20)).await;
        pace.received(b"P");
        assert_eq!(over(&pace).await, (Over::Head, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_of_http2_that_takes_its_answer_slowly_is_not_idle() {
        let pace = Pace::new(TIMES);
        pace.received(PREFACE);
        let mut answer = PacedAnswer {
            body: Full::new(Bytes::from_static(b"value")),
            underway: pace.begin(),
        };
        let frame = answer.frame().await.unwrap().unwrap();
        let mut bytes = frame.into_data().unwrap_or_else(|_| panic!("no data"));
        drop(answer);
        sleep(seconds(70)).await;
        bytes.advance(2);
        sleep(seconds(70)).await;
        assert_eq!(bytes.copy_to_bytes(3), b"lue"[..]);
        assert_eq!(over(&pace).await, (Over::Idle, 75));
    }
}
