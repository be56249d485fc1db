//! Limits the bytes of answers that wait for clients.
//!
//! ```text
//!   stream ──► StreamShare ──┐
//!   stream ──► StreamShare ──┼─► StreamBytes: one bound
//!   calls  ──► StreamShare ──┘
//! ```
//!
//! Answers count from when they are produced until their connection has sent them. At the limit,
//! streams stop producing and wait; streams whose clients read make room. A stream whose client has
//! read nothing for three seconds is closed together with its connection, the largest first:
//! nothing else frees what HTTP/2 buffers for it. Redis closes clients over
//! `client-output-buffer-limit` in the same way.

use std::{
    cmp::Reverse,
    fmt,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Context,
    time::Duration,
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use metrics::{Counter, Gauge, counter, gauge};
use slab::Slab;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

/// A stream without progress for this long is stalled.
const STALL_TIME: Duration = Duration::from_secs(3);
/// How often stalled streams are looked for while there is no room.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Smaller answers do not count: counting them would cost more than they do.
const LEAST_COUNTED_BYTES: usize = 4 << 10;

/// The limit on bytes that wait for clients, for all doors that share it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct StreamBytes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    held: AtomicUsize,
    began: Instant,
    /// Whether a task is looking for stalled streams.
    is_watched: AtomicBool,
    shares: Mutex<Slab<Weak<Share>>>,
    /// Notified when there is room again.
    room: Notify,
    meters: Meters,
}

struct Meters {
    held: Gauge,
    /// Counts closed connections.
    closed: Counter,
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meters")
    }
}

/// The bytes held by one stream, or by all unary calls of one connection.
#[derive(Debug)]
struct Share {
    of: Arc<Shared>,
    key: usize,
    held: AtomicUsize,
    /// When it last began to hold bytes, or released some; in milliseconds since the limit was
    /// created.
    progress: AtomicU64,
    line: Line,
}

impl StreamBytes {
    /// Up to `limit` bytes at the tier of this name.
    pub(crate) fn new(tier: &'static str, limit: usize) -> Self {
        metrics::describe_gauge!(
            "tierkv_stream_bytes",
            "Bytes of answers that wait for clients which have not taken them yet."
        );
        metrics::describe_gauge!(
            "tierkv_stream_bytes_limit",
            "The bound of tierkv_stream_bytes (limits.stream_bytes). At it streams wait, and \
             connections whose clients take nothing are closed."
        );
        metrics::describe_counter!(
            "tierkv_stalled_connections_total",
            "Connections closed because their clients took nothing while limits.stream_bytes \
             was reached."
        );
        gauge!("tierkv_stream_bytes_limit", "tier" => tier).set(approximate(limit));
        let meters = Meters {
            held: gauge!("tierkv_stream_bytes", "tier" => tier),
            closed: counter!("tierkv_stalled_connections_total", "tier" => tier),
        };
        Self {
            shared: Arc::new(Shared {
                limit,
                held: AtomicUsize::new(0),
                began: Instant::now(),
                is_watched: AtomicBool::new(false),
                shares: Mutex::default(),
                room: Notify::new(),
                meters,
            }),
        }
    }

    /// A share for the connection of `line`.
    pub(crate) fn share(&self, line: &Line) -> StreamShare {
        let mut shares = self.shared.shares();
        let place = shares.vacant_entry();
        let share = Arc::new(Share {
            of: Arc::clone(&self.shared),
            key: place.key(),
            held: AtomicUsize::new(0),
            progress: AtomicU64::new(0),
            line: line.clone(),
        });
        place.insert(Arc::downgrade(&share));
        StreamShare { share }
    }
}

impl Shared {
    fn shares(&self) -> MutexGuard<'_, Slab<Weak<Share>>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room(&self) -> bool {
        self.held.load(Ordering::Relaxed) < self.limit
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Looks for stalled streams until there is room, unless a task already does.
    fn watch_over(self: &Arc<Self>) {
        if !self.is_watched.swap(true, Ordering::AcqRel) {
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                while !shared.has_room() {
                    sleep(LOOK_INTERVAL).await;
                    shared.close_stalled();
                }
                shared.is_watched.store(false, Ordering::Release);
                // The limit may have been reached again in between.
                if !shared.has_room() {
                    shared.watch_over();
                }
            });
        }
    }

    /// Closes connections with stalled streams, the largest first, until the rest is below the
    /// limit.
    fn close_stalled(&self) {
        let now = self.now();
        // None is dropped here while the list is locked: the last drop of a share locks it.
        let shares: Vec<Arc<Share>> = (self.shares().iter())
            .filter_map(|(_, share)| share.upgrade())
            .collect();
        let mut shares: Vec<(usize, Arc<Share>)> = (shares.into_iter())
            .filter(|share| !share.line.is_over())
            .map(|share| (share.held.load(Ordering::Relaxed), share))
            .collect();
        let mut staying: usize = shares.iter().map(|(held, _)| held).sum();
        shares.retain(|(held, share)| *held > 0 && share.is_stalled(now));
        shares.sort_unstable_by_key(|(held, _)| Reverse(*held));
        for (held, share) in shares {
            if staying < self.limit {
                return;
            }
            staying -= held;
            if !share.line.hang_up() {
                continue;
            }
            self.meters.closed.increment(1);
            tracing::warn!(
                bytes = held,
                limit = self.limit,
                "closing a connection: its client reads nothing, and limits.stream_bytes is \
                 reached"
            );
        }
    }
}

impl Share {
    fn is_stalled(&self, now: u64) -> bool {
        let stall_time = u64::try_from(STALL_TIME.as_millis()).unwrap_or(u64::MAX);
        now.saturating_sub(self.progress.load(Ordering::Relaxed)) >= stall_time
    }

    fn take(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        if self.held.fetch_add(bytes, Ordering::Relaxed) == 0 {
            self.progress.store(self.of.now(), Ordering::Relaxed);
        }
        let before = self.of.held.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes >= self.of.limit {
            self.of.watch_over();
        }
        self.of.meters.held.increment(approximate(bytes));
    }

    fn give_back(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.progress.store(self.of.now(), Ordering::Relaxed);
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        let before = self.of.held.fetch_sub(bytes, Ordering::Relaxed);
        self.of.meters.held.decrement(approximate(bytes));
        if before >= self.of.limit && before - bytes < self.of.limit {
            self.of.room.notify_waiters();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.shares().remove(self.key);
    }
}

/// The bytes held by one stream, or by all unary calls of one connection. Cheap to clone; a clone
/// counts for the same stream.
#[derive(Clone, Debug)]
pub struct StreamShare {
    share: Arc<Share>,
}

impl StreamShare {
    /// Counts `bytes` of an answer until the result is dropped; `None` if they are too few to
    /// count.
    #[must_use]
    pub fn hold(&self, bytes: usize) -> Option<HeldBytes> {
        if bytes < LEAST_COUNTED_BYTES {
            return None;
        }
        self.share.take(bytes);
        Some(HeldBytes {
            share: Arc::clone(&self.share),
            bytes,
        })
    }

    /// A count of 0; see [`HeldBytes::add`].
    #[must_use]
    pub fn nothing(&self) -> HeldBytes {
        HeldBytes {
            share: Arc::clone(&self.share),
            bytes: 0,
        }
    }

    /// Whether a stream may produce another answer.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.share.of.has_room()
    }

    /// Waits until a stream may produce another answer.
    pub async fn room(&self) {
        let bound = &self.share.of;
        loop {
            let mut room = pin!(bound.room.notified());
            room.as_mut().enable();
            if bound.has_room() {
                return;
            }
            room.await;
        }
    }
}

/// Bytes that count until dropped.
#[derive(Debug)]
pub struct HeldBytes {
    share: Arc<Share>,
    bytes: usize,
}

impl HeldBytes {
    /// Counts `bytes` more.
    pub fn add(&mut self, bytes: usize) {
        self.share.take(bytes);
        self.bytes += bytes;
    }

    /// Takes over the count of `other`, of the same stream.
    pub fn merge(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Stops counting `bytes` of them.
    pub fn give_back(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.share.give_back(bytes);
    }

    /// Attaches the count to `bytes`, a part of these: it lasts until the connection has sent and
    /// dropped them.
    #[must_use]
    pub fn attach(&mut self, bytes: Bytes) -> Bytes {
        let part = bytes.len().min(self.bytes);
        self.bytes -= part;
        let held = Self {
            share: Arc::clone(&self.share),
            bytes: part,
        };
        Bytes::from_owner(Attached { bytes, _held: held })
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.share.give_back(self.bytes);
    }
}

/// Bytes with their count.
struct Attached {
    bytes: Bytes,
    _held: HeldBytes,
}

impl AsRef<[u8]> for Attached {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Lets a connection be closed from outside. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line(Arc<LineState>);

#[derive(Debug, Default)]
struct LineState {
    is_over: AtomicBool,
    /// The waker of the task that serves the connection.
    server: AtomicWaker,
}

impl Line {
    /// Requests the closing of the connection; `true` for the first request.
    fn hang_up(&self) -> bool {
        let is_first = !self.0.is_over.swap(true, Ordering::AcqRel);
        self.0.server.wake();
        is_first
    }

    /// Whether the connection must be closed.
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::Acquire)
    }

    /// As [`is_over`](Self::is_over); if not, wakes `context` when it must.
    pub(crate) fn poll_over(&self, context: &Context<'_>) -> bool {
        self.0.server.register(context.waker());
        self.is_over()
    }
}

/// The shares of a connection's calls and streams; tonic passes it to each request.
#[derive(Clone, Debug)]
pub struct ConnectionShares {
    bound: StreamBytes,
    line: Line,
    calls: StreamShare,
}

impl ConnectionShares {
    pub(crate) fn new(bound: &StreamBytes) -> Self {
        let line = Line::default();
        Self {
            calls: bound.share(&line),
            bound: bound.clone(),
            line,
        }
    }

    pub(crate) const fn line(&self) -> &Line {
        &self.line
    }

    /// The share of all unary calls.
    #[must_use]
    pub const fn calls(&self) -> &StreamShare {
        &self.calls
    }

    /// A share for a new stream of answers.
    #[must_use]
    pub fn stream(&self) -> StreamShare {
        self.bound.share(&self.line)
    }
}

#[allow(clippy::cast_precision_loss)] // They are far below 2^53.
fn approximate(bytes: usize) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use std::{future::Future, task::Waker};

    use tokio::time::timeout;

    use super::*;

    const LIMIT: usize = 1 << 20;

    fn bytes(count: usize) -> Bytes {
        Bytes::from(vec![7; count])
    }

    /// Bytes on their way to a client.
    fn sent(share: &StreamShare, count: usize) -> Bytes {
        share.hold(count).unwrap().attach(bytes(count))
    }

    fn is_closed(connection: &ConnectionShares) -> bool {
        connection
            .line()
            .poll_over(&Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn bytes_count_until_they_are_sent() {
        let bound = StreamBytes::new("test", LIMIT);
        let connection = ConnectionShares::new(&bound);
        let share = connection.stream();
        assert!(share.hold(LEAST_COUNTED_BYTES - 1).is_none());
        let mut held = share.hold(LIMIT).unwrap();
        assert!(!share.has_room() && !connection.calls().has_room());
        let (first, second) = (held.attach(bytes(10)), held.attach(bytes(20)));
        drop(held);
        assert_eq!(bound.shared.held.load(Ordering::Relaxed), 30);
        let part = first.slice(5..);
        drop(first);
        assert_eq!(bound.shared.held.load(Ordering::Relaxed), 30);
        assert_eq!(part, bytes(5));
        drop((part, second));
        assert_eq!(bound.shared.held.load(Ordering::Relaxed), 0);
        drop((share, connection));
        assert!(bound.shared.shares().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_stream_continues_when_bytes_are_sent() {
        let bound = StreamBytes::new("test", LIMIT);
        let connection = ConnectionShares::new(&bound);
        let share = connection.stream();
        let waiting = sent(&share, LIMIT);
        let mut room = pin!(share.room());
        let mut context = Context::from_waker(Waker::noop());
        assert!(room.as_mut().poll(&mut context).is_pending());
        drop(waiting);
        let began = Instant::now();
        room.await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(!is_closed(&connection));
    }

    #[tokio::test(start_paused = true)]
    async fn the_stalled_stream_that_holds_most_ends_and_no_other() {
        let bound = StreamBytes::new("test", LIMIT);
        let [small, large, reading] = [(); 3].map(|()| ConnectionShares::new(&bound));
        let (_small, _large) = (
            sent(&small.stream(), LIMIT / 8),
            sent(&large.stream(), LIMIT / 4),
        );
        let stream = reading.stream();
        let taken = sent(&stream, LIMIT);
        let mut room = pin!(stream.room());
        for _ in 0..10 {
            // The client reads, but slowly.
            drop(sent(&stream, LEAST_COUNTED_BYTES));
            assert!(timeout(STALL_TIME / 2, room.as_mut()).await.is_err());
        }
        assert!(is_closed(&large) && is_closed(&small) && !is_closed(&reading));
        drop(taken);
        room.await;

        let [small, large] = [(); 2].map(|()| ConnectionShares::new(&bound));
        let (_small, held) = (
            sent(&small.stream(), LIMIT / 8),
            sent(&large.calls().clone(), LIMIT),
        );
        assert!(
            timeout(STALL_TIME - LOOK_INTERVAL, stream.room())
                .await
                .is_err()
        );
        assert!(!is_closed(&large));
        assert!(timeout(2 * LOOK_INTERVAL, stream.room()).await.is_err());
        assert!(is_closed(&large) && !is_closed(&small));
        drop(held);
        stream.room().await;
    }
}
