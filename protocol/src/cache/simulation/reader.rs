//! A reader: its answers from each cluster, and the steps of one read.

use std::time::Duration;

use tierkv_types::{BootTime, Round, Slot, Version};

use super::{
    Rules,
    node::{Looked, Token},
};
use crate::cache::{Entry, Freshness, Mark, ReadBound, Verdict, judge};

/// The slot that all keys of the simulation live in.
pub(super) const SLOT: u16 = 7;

/// The revision that every answer names where the rule of the owned slot is switched off.
pub(super) const ANY_REVISION: u64 = u64::MAX;

/// One client coordinator.
pub(super) struct Reader {
    /// Its answers, by cluster.
    pub(super) freshness: [Freshness; 2],
    /// How far its boot clock is from the world's time.
    pub(super) offset: u64,
}

impl Reader {
    pub(super) fn boot(&self, now: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(now + self.offset))
    }

    /// Judges what a read found, with the rules that are switched on.
    pub(super) fn judge(&self, read: &Read, entry: &Entry, now: u64, rules: Rules) -> Verdict {
        let freshness = &self.freshness[read.cluster];
        let newest = freshness.newest();
        let mut mark = read.mark;
        let mut revision = read.revision;
        if let (Some(mark), Some(newest)) = (&mut mark, newest) {
            if !rules.same_epoch {
                mark.epoch = newest.epoch;
            }
            if !rules.greater_round {
                mark.round = Round(u64::MAX);
            }
        }
        if !rules.owned_slot {
            revision = ANY_REVISION;
        }
        let mut bound = read.bound;
        if !rules.min_version {
            bound.min_version = Version::ZERO;
        }
        if !rules.bounded_age {
            bound.max_age = Duration::MAX;
        }
        let mut clock = freshness.cluster_clock(self.boot(now));
        if !rules.entry_life {
            clock = clock.min(entry.expires().unwrap_or(entry.filled()));
        }
        let mut judged = entry.clone();
        if let (false, Entry::Value(value)) = (rules.expiry, &mut judged) {
            value.expires = None;
        }
        let now = self.boot(now);
        judge(
            freshness,
            mark.as_ref(),
            &judged,
            slot(),
            revision,
            &bound,
            now,
            clock,
        )
    }
}

pub(super) fn slot() -> Slot {
    Slot::new(SLOT).unwrap()
}

/// One read in progress; between two steps it may pause for any time.
pub(super) struct Read {
    pub(super) reader: usize,
    pub(super) key: usize,
    /// The slot's cluster and revision in the reader's placement map.
    pub(super) cluster: usize,
    pub(super) revision: u64,
    pub(super) bound: ReadBound,
    pub(super) mark: Option<Mark>,
    /// What was read below before the lookup, where CACHE-CONFIRM is switched off.
    pub(super) early: Option<Entry>,
    pub(super) step: Step,
}

/// The next step of a read.
pub(super) enum Step {
    /// Read the first of mark and entry.
    First,
    /// Read the second.
    Second(Option<Looked>),
    /// Judge the entry found.
    Judge(Entry),
    /// Read below, with the lease won.
    Below(Token),
    /// Fill.
    Fill(Token, Entry),
}
