//! Least frequently used, as W-TinyLFU: an entry stays if it was recently used more often than
//! the entry that would be evicted for it. Uses before an entry's admission count too.
//!
//! G. Einziger, R. Friedman, B. Manes, "TinyLFU: a highly efficient cache admission
//! policy", ACM Transactions on Storage 13(4), 2017.
//!
//! ```text
//!  new ──► window (1 %, LRU) ──more used than probation's last──► probation
//!                │                                                 │    ▲
//!                └─not──► gone                              hit ◄──┘    └──► over its share
//!                                                            └──► protected (80 %) ─┘
//! ```
//!
//! A counter in each entry (plain LFU with aging) would be smaller, but is lost when the entry
//! is evicted, so that keys of a scan then compete with it on equal terms. Here a key's
//! frequency outlives its entry, in a sketch of 8 bytes for each entry.

use super::{Policy, sketch::Sketch};
use crate::memory::slab::{Queue, Size, Slab, Slot};

const WINDOW: Queue = Queue::FIRST;
const PROBATION: Queue = Queue::SECOND;
const PROTECTED: Queue = Queue::THIRD;

const WINDOW_PERCENT: u64 = 1;
/// 80 % of the rest after the window.
const PROTECTED_PERCENT: u64 = 79;

#[derive(Debug)]
pub(super) struct Lfu {
    sketch: Sketch,
}

impl Lfu {
    pub(super) const fn new() -> Self {
        Self {
            sketch: Sketch::new(),
        }
    }
}

impl Policy for Lfu {
    fn admit(&mut self, slab: &mut Slab, bound: Size, slot: Slot) -> u32 {
        self.sketch.add(slot.hash, slab.len());
        let at = slab.push_front(WINDOW, slot);
        // There is room: what overflows the window moves on without a comparison.
        spill(slab, WINDOW, bound.percent(WINDOW_PERCENT));
        at
    }

    fn hit(&mut self, slab: &mut Slab, bound: Size, at: u32) {
        let slot = slab.slot(at);
        self.sketch.add(slot.hash, slab.len());
        if slot.queue() == WINDOW {
            slab.move_to_front(at, WINDOW);
        } else {
            slab.move_to_front(at, PROTECTED);
            spill(slab, PROTECTED, bound.percent(PROTECTED_PERCENT));
        }
    }

    fn victim(&mut self, slab: &mut Slab, bound: Size) -> Option<u32> {
        let window = slab.back(WINDOW);
        let Some(last) = slab.back(PROBATION).or_else(|| slab.back(PROTECTED)) else {
            return window;
        };
        let share = bound.percent(WINDOW_PERCENT);
        let Some(candidate) = window.filter(|_| slab.size_of(WINDOW).reaches(share)) else {
            return Some(last);
        };
        let candidates = self.sketch.estimate(slab.slot(candidate).hash);
        if candidates > self.sketch.estimate(slab.slot(last).hash) {
            slab.move_to_front(candidate, PROBATION);
            Some(last)
        } else {
            Some(candidate)
        }
    }

    fn survivors(&self) -> Queue {
        PROBATION
    }
}

/// Moves what is over the share of `queue` from its back to probation. One entry stays, however
/// large.
fn spill(slab: &mut Slab, queue: Queue, share: Size) {
    while slab.size_of(queue).exceeds(share) && slab.size_of(queue).records > 1 {
        let Some(at) = slab.back(queue) else {
            return;
        };
        slab.move_to_front(at, PROBATION);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::policy::tests::Driver;

    #[test]
    fn a_newcomer_stays_only_if_it_was_used_more_often() {
        let mut cache = Driver::new(Lfu::new(), 100);
        (0..100).for_each(|nth| cache.admit(nth));
        cache.admit(100);
        assert_eq!(cache.last_victim(), Some(99), "as often is not more often");
        cache.hit(100);
        cache.admit(101);
        assert_eq!(cache.last_victim(), Some(0));
        assert_eq!(cache.queue_of(100), PROBATION);
        // It is remembered though it went.
        cache.admit(99);
        cache.admit(102);
        assert_eq!(cache.queue_of(99), PROBATION);
    }

    #[test]
    fn a_hit_protects_and_the_protected_have_their_share() {
        let mut cache = Driver::new(Lfu::new(), 100);
        (0..100).for_each(|nth| cache.admit(nth));
        (0..90).for_each(|nth| cache.hit(nth));
        assert_eq!(cache.queue_of(89), PROTECTED);
        assert_eq!(cache.queue_of(10), PROBATION, "the oldest ones make room");
        assert_eq!(cache.queue_of(11), PROTECTED);
        assert_eq!(cache.queue_of(99), WINDOW);
    }
}
