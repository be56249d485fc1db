//! Limits the bytes of answers that wait for clients.
//!
//! ```text
//!   stream ──► StreamShare ──┐
//!   stream ──► StreamShare ──┼─► StreamBytes: one limit
//!   calls  ──► StreamShare ──┘
//! ```
//!
//! Answers count from when they are produced until their connection has sent them. As with the
//! soft and hard limit of Redis's `client-output-buffer-limit`, there are two thresholds:
//!
//! - From half of the limit on, a stream produces another answer only while it holds none: a
//!   client that reads slowly stops its own streams, and those of clients that read continue. A
//!   connection with a stream whose client has read nothing for 3 s is closed: nothing else frees
//!   what HTTP/2 buffers for it. If that makes no room for 6 s, the slowest connection is closed
//!   although its client reads, and another one every 3 s.
//! - At the limit, no stream produces, and connections without progress for 1 s are closed.
//!
//! The limit is exceeded by at most one answer of each stream that was producing one when it was
//! reached, and by the answers of unary calls, which never wait.
//!
//! Between tiers, a connection carries the calls of many users, and closing it ends them all.
//! These doors have a multiple of the users' limit, so that the slow user's own connection is
//! closed first. They close a connection only at that multiple, and never one that makes progress.

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
use futures::{future::select, task::AtomicWaker};
use metrics::{Counter, Gauge, counter, gauge};
use slab::Slab;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

/// A stream without progress for this long is stalled.
const STALL_TIME: Duration = Duration::from_secs(3);
/// As [`STALL_TIME`], while the limit is reached.
const URGENT_STALL_TIME: Duration = Duration::from_secs(1);
/// After this time without room, the slowest stream ends although it makes progress.
const SLOW_TIME: Duration = Duration::from_secs(6);
/// The time from then to the end of the next slowest stream.
const NEXT_SLOW_TIME: Duration = STALL_TIME;
/// How often stalled streams are looked for while there is no room.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Smaller answers do not count: counting them would cost more than they do.
const LEAST_COUNTED_BYTES: usize = 4 << 10;
/// The limit of a door between tiers is this multiple of the users' limit: as a watch or scan of a
/// user waits, each tier holds up to one frame of it, and the users' door may hold less.
const PEERS_FACTOR: usize = 4;

/// The limit on bytes that wait for clients, for all doors that share it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct StreamBytes {
    shared: Arc<Shared>,
}

/// Whose connections a limit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clients {
    Users,
    /// Other tiers.
    Peers,
}

#[derive(Debug)]
struct Shared {
    clients: Clients,
    limit: usize,
    /// From here on only streams that hold nothing produce.
    soft_limit: usize,
    /// The held bytes. Sequentially consistent, as [`Share::held`] and `is_watched`: who adds
    /// bytes and who stops looking must not miss each other.
    held: AtomicUsize,
    began: Instant,
    /// Whether a task is looking for stalled streams.
    is_watched: AtomicBool,
    shares: Mutex<Slab<Weak<Share>>>,
    /// Notified when the held bytes fall below a threshold.
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
    /// Notified when it holds nothing more while there is no room for all.
    drained: Notify,
    /// When it last began to hold bytes, or released some; in milliseconds since the limit was
    /// created.
    progress: AtomicU64,
    line: Line,
}

/// A stream that holds bytes.
struct Holder {
    share: Arc<Share>,
    held: usize,
    /// How long it has made no progress.
    still: Duration,
}

impl StreamBytes {
    /// Up to `limit` bytes at the users' doors of the tier of this name.
    pub(crate) fn of_users(tier: &'static str, limit: usize) -> Self {
        Self::new(tier, limit, Clients::Users)
    }

    /// The limit at a door for other tiers; `limit` is the one of the users' doors.
    pub(crate) fn of_peers(tier: &'static str, limit: usize) -> Self {
        Self::new(tier, limit.saturating_mul(PEERS_FACTOR), Clients::Peers)
    }

    fn new(tier: &'static str, limit: usize, clients: Clients) -> Self {
        metrics::describe_gauge!(
            "tierkv_stream_bytes",
            "Bytes of answers that wait for clients which have not taken them yet."
        );
        metrics::describe_gauge!(
            "tierkv_stream_bytes_limit",
            "The bound of tierkv_stream_bytes (limits.stream_bytes, between tiers four times as \
             much). From half of it on, streams wait that hold answers, and connections of slow \
             clients are closed."
        );
        metrics::describe_counter!(
            "tierkv_stalled_connections_total",
            "Connections closed because their clients took nothing, or took it too slowly, while \
             there was no room under limits.stream_bytes."
        );
        gauge!("tierkv_stream_bytes_limit", "tier" => tier).set(approximate(limit));
        let meters = Meters {
            held: gauge!("tierkv_stream_bytes", "tier" => tier),
            closed: counter!("tierkv_stalled_connections_total", "tier" => tier),
        };
        Self {
            shared: Arc::new(Shared {
                clients,
                limit,
                soft_limit: limit / 2,
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
            drained: Notify::new(),
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

    fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    /// The bytes up to the soft limit.
    fn free_bytes(&self) -> usize {
        self.soft_limit.saturating_sub(self.held())
    }

    /// From here on connections may be closed.
    const fn closing_limit(&self) -> usize {
        match self.clients {
            Clients::Users => self.soft_limit,
            Clients::Peers => self.limit,
        }
    }

    /// Whether `held` bytes leave hardly any room. The threshold is below the limit, so that a slow
    /// client that takes a piece now and then does not make it look as if there were room.
    const fn is_crowded(&self, held: usize) -> bool {
        let limit = self.closing_limit();
        held >= limit - limit / 8
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Looks for stalled and slow streams until there is room, unless a task already does.
    fn watch_over(self: &Arc<Self>) {
        if !self.is_watched.swap(true, Ordering::SeqCst) {
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                let mut slow_at = Instant::now() + SLOW_TIME;
                while shared.is_crowded(shared.held()) {
                    sleep(LOOK_INTERVAL).await;
                    shared.close_stalled();
                    if shared.clients == Clients::Users && Instant::now() >= slow_at {
                        shared.close_slowest();
                        slow_at = Instant::now() + NEXT_SLOW_TIME;
                    }
                }
                shared.is_watched.store(false, Ordering::SeqCst);
                // The limit may have been reached again in between.
                if shared.held() >= shared.closing_limit() {
                    shared.watch_over();
                }
            });
        }
    }

    /// The streams that hold bytes and whose connections are not being closed.
    fn holders(&self) -> Vec<Holder> {
        let now = self.now();
        // None is dropped here while the list is locked: the last drop of a share locks it.
        let shares: Vec<Arc<Share>> = (self.shares().iter())
            .filter_map(|(_, share)| share.upgrade())
            .collect();
        let holders = shares.into_iter().map(|share| Holder {
            held: share.held.load(Ordering::SeqCst),
            still: share.still(now),
            share,
        });
        let holders = holders.filter(|holder| holder.held > 0 && !holder.share.line.is_over());
        holders.collect()
    }

    /// Closes connections with stalled streams, the largest first, until the rest is below the
    /// soft limit, or, if the limit is reached, below the limit.
    fn close_stalled(&self) {
        let is_full = self.held() >= self.limit;
        let (stall_time, goal) = match self.clients {
            Clients::Users if is_full => (URGENT_STALL_TIME, self.limit),
            Clients::Users => (STALL_TIME, self.soft_limit),
            Clients::Peers => (STALL_TIME, self.limit),
        };
        let mut holders = self.holders();
        let mut staying: usize = holders.iter().map(|holder| holder.held).sum();
        holders.retain(|holder| holder.still >= stall_time);
        holders.sort_unstable_by_key(|holder| Reverse(holder.held));
        for holder in holders {
            if staying < goal {
                return;
            }
            staying -= holder.held;
            self.close(&holder, "its client reads nothing");
        }
    }

    /// Closes the connection of the stream that holds most bytes for longest, unless those that are
    /// being closed make enough room.
    fn close_slowest(&self) {
        let holders = self.holders();
        if !self.is_crowded(holders.iter().map(|holder| holder.held).sum()) {
            return;
        }
        let slowness = |holder: &Holder| {
            // The interval: one that has just made progress for once may be slow, too.
            (holder.still + LOOK_INTERVAL).as_millis() * holder.held as u128
        };
        if let Some(slowest) = holders.iter().max_by_key(|holder| slowness(holder)) {
            self.close(slowest, "its client reads too slowly");
        }
    }

    fn close(&self, holder: &Holder, why: &'static str) {
        if holder.share.line.hang_up() {
            self.meters.closed.increment(1);
            tracing::warn!(
                bytes = holder.held,
                limit = self.limit,
                why,
                "closing a connection: there is no room under limits.stream_bytes"
            );
        }
    }
}

impl Share {
    /// How long it has made no progress.
    fn still(&self, now: u64) -> Duration {
        Duration::from_millis(now.saturating_sub(self.progress.load(Ordering::Relaxed)))
    }

    /// Whether its stream may produce another answer.
    fn has_room(&self) -> bool {
        let held = self.of.held();
        held < self.of.soft_limit || (held < self.of.limit && self.is_drained())
    }

    fn is_drained(&self) -> bool {
        self.held.load(Ordering::SeqCst) < LEAST_COUNTED_BYTES
    }

    fn take(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        if self.held.fetch_add(bytes, Ordering::SeqCst) == 0 {
            self.progress.store(self.of.now(), Ordering::Relaxed);
        }
        let before = self.of.held.fetch_add(bytes, Ordering::SeqCst);
        if before + bytes >= self.of.closing_limit() {
            self.of.watch_over();
        }
        self.of.meters.held.increment(approximate(bytes));
    }

    fn give_back(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.progress.store(self.of.now(), Ordering::Relaxed);
        self.held.fetch_sub(bytes, Ordering::SeqCst);
        let before = self.of.held.fetch_sub(bytes, Ordering::SeqCst);
        self.of.meters.held.decrement(approximate(bytes));
        let after = before - bytes;
        let falls_below = |limit| before >= limit && after < limit;
        if falls_below(self.of.limit) || falls_below(self.of.soft_limit) {
            self.of.room.notify_waiters();
        } else if after >= self.of.soft_limit && self.is_drained() {
            self.drained.notify_waiters();
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

    /// The bytes of answers that all streams together may still produce before those that hold
    /// some must wait.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.share.of.free_bytes()
    }

    /// Whether this stream may produce another answer: there is room for all streams, or it holds
    /// nothing itself and the limit is not reached.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.share.has_room()
    }

    /// Waits until this stream may produce another answer.
    pub async fn room(&self) {
        loop {
            let mut room = pin!(self.share.of.room.notified());
            let mut drained = pin!(self.share.drained.notified());
            room.as_mut().enable();
            drained.as_mut().enable();
            if self.has_room() {
                return;
            }
            select(room, drained).await;
        }
    }

    /// Waits until there is room for all streams.
    pub async fn room_for_all(&self) {
        loop {
            let mut room = pin!(self.share.of.room.notified());
            room.as_mut().enable();
            if self.free_bytes() > 0 {
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
mod tests;
