//! [`Retention`]: the segments that the log has, and which of them may leave it.
//!
//! A segment leaves, oldest first, once the store has all its records and they are older than the
//! retention, or earlier if the log is over its limit.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use tierkv_types::{Index, Version};

use super::segment::SegmentHeader;
use crate::locked;

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
}

impl Retention {
    /// The segments are at least one.
    pub(super) fn new(segments: impl IntoIterator<Item = SegmentHeader>, rules: Rules) -> Self {
        Self {
            state: Mutex::new(State {
                segments: segments.into_iter().collect(),
                cuts: 0,
            }),
            rules,
        }
    }

    /// The number of segments.
    pub(crate) fn segments(&self) -> usize {
        locked(&self.state).segments.len()
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
        state.segments.pop_front()
    }

    /// Puts a segment back whose file could not be removed.
    pub(super) fn untrim(&self, segment: SegmentHeader) {
        locked(&self.state).segments.push_front(segment);
    }
}
