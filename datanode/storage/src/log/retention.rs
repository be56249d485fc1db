//! [`Retention`]: the segments that the log has, and which of them may leave it.
//!
//! A segment leaves, oldest first, once the store has all its records and they are older than the
//! retention, or earlier if the log is over its limit. A [`LogHold`] keeps segments longer, for a
//! node that joins the cluster: until the log has twice its limit. Beyond that the hold is broken.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use tierkv_types::{Index, Position, Version};
use tokio::sync::watch;

use super::{queue::Queue, segment::SegmentHeader};
use crate::{locked, meters};

/// The log may have so many times its limit of bytes before a hold is broken.
const HELD_LIMIT_FACTOR: u64 = 2;

/// The segments of a log, and the rules by which they leave it.
#[derive(Debug)]
pub(crate) struct Retention {
    state: Mutex<State>,
    rules: Rules,
}

/// When segments may leave a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// The allocated size of each segment.
    pub(crate) segment_bytes: u64,
    /// How long records are kept once the store has them, by their versions.
    pub(crate) retention: Duration,
    /// Bytes over which they are removed earlier.
    pub(crate) limit_bytes: u64,
}

#[derive(Debug)]
struct State {
    /// Oldest first; the last one is the one that is written to.
    segments: VecDeque<SegmentHeader>,
    /// How often the log's end was cut.
    cuts: u64,
    holds: BTreeMap<u64, Hold>,
    next_hold: u64,
    /// The log has ended: nothing is kept any more.
    ended: bool,
}

#[derive(Debug)]
struct Hold {
    from: Index,
    broken: watch::Sender<bool>,
}

impl Hold {
    /// Whether it keeps a segment that ends with the record `last`.
    fn keeps(&self, last: Index) -> bool {
        self.from < last && !*self.broken.borrow()
    }
}

impl State {
    /// The position before the first record.
    fn begin(&self) -> Position {
        self.segments[0].previous()
    }

    fn since(&self, since: Version, up_to: Index) -> Position {
        // A segment whose header has no clock was written by an earlier release.
        let is_before = |header: &&SegmentHeader| {
            let is_dated = header.clock > Version::ZERO;
            is_dated && header.clock < since && header.previous().index <= up_to
        };
        let found = self.segments.iter().rev().find(is_before);
        found.map_or_else(|| self.begin(), SegmentHeader::previous)
    }

    /// Places a hold; returns its id.
    fn hold(&mut self, from: Index) -> (u64, watch::Receiver<bool>) {
        let is_broken = self.ended || self.begin().index > from;
        let (broken, is_broken) = watch::channel(is_broken);
        let id = self.next_hold;
        self.next_hold += 1;
        self.holds.insert(id, Hold { from, broken });
        (id, is_broken)
    }
}

impl Retention {
    /// The segments are at least one.
    pub(super) fn new(segments: impl IntoIterator<Item = SegmentHeader>, rules: Rules) -> Self {
        Self {
            state: Mutex::new(State {
                segments: segments.into_iter().collect(),
                cuts: 0,
                holds: BTreeMap::new(),
                next_hold: 0,
                ended: false,
            }),
            rules,
        }
    }

    /// The number of segments.
    pub(crate) fn segments(&self) -> usize {
        locked(&self.state).segments.len()
    }

    /// Bytes of the segments of which the record `index` is before the first one.
    pub(crate) fn bytes_after(&self, index: Index) -> u64 {
        let state = locked(&self.state);
        let after = state.segments.iter().rev();
        let after = after.take_while(|header| header.first > index).count();
        after as u64 * self.rules.segment_bytes
    }

    /// The position before the first record that the log has.
    pub(crate) fn begin(&self) -> Position {
        locked(&self.state).begin()
    }

    /// A position, at or before the record `up_to`, after which the log has all its records with
    /// versions from `since` on. The log's begin if it does not reach back so far.
    pub(crate) fn since(&self, since: Version, up_to: Index) -> Position {
        locked(&self.state).since(since, up_to)
    }

    /// Whether a segment is complete, so that nothing is written to it unless the log is cut.
    pub(crate) fn is_finished(&self, number: u64) -> bool {
        let state = locked(&self.state);
        (state.segments.back()).is_some_and(|active| number < active.number)
    }

    /// How often the log's end was cut. A segment that was read meanwhile may have changed.
    pub(crate) fn cuts(&self) -> u64 {
        locked(&self.state).cuts
    }

    /// The segment with the record `next`, or that begins with it, and how many are before it.
    /// Segments have all records from the log's begin on.
    pub(super) fn segment_of(&self, next: Index) -> Option<(usize, SegmentHeader)> {
        let state = locked(&self.state);
        let nth = (state.segments.iter()).rposition(|header| header.first <= next)?;
        Some((nth, state.segments[nth]))
    }

    /// Adds the segment that is written to from now on.
    pub(super) fn grow(&self, segment: SegmentHeader) {
        locked(&self.state).segments.push_back(segment);
    }

    /// Keeps the first `kept` segments, of which the last is written to again. Returns the others,
    /// newest first, whose files the caller then removes.
    pub(super) fn cut(&self, kept: usize) -> Vec<SegmentHeader> {
        let mut state = locked(&self.state);
        state.cuts += 1;
        let mut removed: Vec<_> = state.segments.drain(kept..).collect();
        removed.reverse();
        removed
    }

    /// Takes the oldest segment out if it may leave the log, with the store at `stored` and the
    /// clock of the last record; the caller then removes its file.
    pub(super) fn trim(&self, stored: Index, clock: Version) -> Option<SegmentHeader> {
        let mut state = locked(&self.state);
        let next = state.segments.get(1)?;
        let last = next.previous().index;
        if last > stored {
            return None;
        }
        let age = (clock.millis()).saturating_sub(next.clock.millis());
        let is_old = u128::from(age) >= self.rules.retention.as_millis();
        let bytes = state.segments.len() as u64 * self.rules.segment_bytes;
        if !is_old && bytes <= self.rules.limit_bytes {
            return None;
        }
        let mut holds = state.holds.values().filter(|hold| hold.keeps(last));
        let is_held = holds.next().is_some();
        if is_held && bytes <= self.held_limit_bytes() {
            return None;
        }
        for hold in state.holds.values().filter(|hold| hold.keeps(last)) {
            hold.broken.send_replace(true);
            metrics::counter!(meters::HOLDS_BROKEN).increment(1);
            tracing::warn!(
                needed_after = %hold.from,
                log_bytes = bytes,
                limit_bytes = self.rules.limit_bytes,
                "a node that joins the cluster needs more of the log than twice wal.max_bytes: \
                 these records are removed now, and the node must start again; raise \
                 wal.max_bytes, or find out why the node is slow"
            );
        }
        state.segments.pop_front()
    }

    /// Puts a segment back whose file could not be removed.
    pub(super) fn untrim(&self, segment: SegmentHeader) {
        locked(&self.state).segments.push_front(segment);
    }

    /// Bytes of log over which holds are broken.
    const fn held_limit_bytes(&self) -> u64 {
        self.rules.limit_bytes.saturating_mul(HELD_LIMIT_FACTOR)
    }

    /// The log has ended: it keeps nothing for anyone.
    pub(super) fn end(&self) {
        let mut state = locked(&self.state);
        state.ended = true;
        for hold in state.holds.values() {
            hold.broken.send_replace(true);
        }
    }

    fn advance(&self, id: u64, to: Index) {
        if let Some(hold) = locked(&self.state).holds.get_mut(&id) {
            hold.from = hold.from.max(to);
        }
    }

    fn drop_hold(&self, id: u64) {
        locked(&self.state).holds.remove(&id);
    }
}

/// Keeps the records after an index in the log, for a node that joins the cluster, although the
/// log would remove them because of its retention or its limit. Dropping it lets them leave.
///
/// It is broken once the log has twice its limit of bytes: the records are removed then, and the
/// node that needs them must start again. It is broken from the start if some of the records have
/// left the log already, and when the log ends.
#[derive(Debug)]
pub struct LogHold {
    retention: Arc<Retention>,
    queue: Arc<Queue>,
    id: u64,
    broken: watch::Receiver<bool>,
}

impl LogHold {
    pub(super) fn after(from: Index, retention: &Arc<Retention>, queue: &Arc<Queue>) -> Self {
        let (id, broken) = locked(&retention.state).hold(from);
        Self::new(id, broken, retention, queue)
    }

    /// A hold after [`Retention::since`], and that position.
    pub(super) fn since(
        since: Version,
        up_to: Index,
        retention: &Arc<Retention>,
        queue: &Arc<Queue>,
    ) -> (Self, Position) {
        let (place, (id, broken)) = {
            let mut state = locked(&retention.state);
            let place = state.since(since, up_to);
            (place, state.hold(place.index))
        };
        (Self::new(id, broken, retention, queue), place)
    }

    fn new(
        id: u64,
        broken: watch::Receiver<bool>,
        retention: &Arc<Retention>,
        queue: &Arc<Queue>,
    ) -> Self {
        Self {
            retention: Arc::clone(retention),
            queue: Arc::clone(queue),
            id,
            broken,
        }
    }

    /// Records up to `to` are not needed any more. An earlier index changes nothing. Segments that
    /// are free now leave the log after the next checkpoint.
    pub fn advance(&self, to: Index) {
        self.retention.advance(self.id, to);
    }

    /// Whether records that it should keep may have left the log.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        *self.broken.borrow()
    }

    /// Waits until it is broken. Safe to cancel.
    pub async fn broken(&self) {
        let mut broken = self.broken.clone();
        // The sender lives as long as `self`.
        let _ = broken.wait_for(|is_broken| *is_broken).await;
    }
}

impl Drop for LogHold {
    fn drop(&mut self) {
        self.retention.drop_hold(self.id);
        self.queue.trim();
    }
}
