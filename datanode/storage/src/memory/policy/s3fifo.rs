//! S3-FIFO: three queues, each first in, first out. An entry that is not read again is soon
//! evicted from the small queue.
//!
//! J. Yang, Y. Zhang, Z. Qiu, Y. Yue, K. V. Rashmi, "FIFO queues are all you need for
//! cache eviction", SOSP 2023.
//!
//! ```text
//!  new ──► small (10 %) ──hit twice──► main (90 %) ◄──┐
//!               │                        │  └──hit────┘
//!               └─not──► ghost           └─not──► gone
//!  new, but in ghost ──────────────────► main
//! ```
//!
//! A hit only increments a counter, up to 3, so most hits of hot entries write nothing. If both
//! limits are set, the small queue is full as soon as it has its share of one of them.

use super::{Policy, ghost::Ghost};
use crate::memory::slab::{Queue, Size, Slab, Slot};

const SMALL: Queue = Queue::FIRST;
const MAIN: Queue = Queue::SECOND;

const SMALL_PERCENT: u64 = 10;
const MAX_FREQUENCY: u8 = 3;
/// Hits after which an entry leaves the small queue for the main one.
const PROMOTING_FREQUENCY: u8 = 2;
/// Most entries that one eviction skips because they were hit. The work is amortised over these
/// hits, but a single reader should not wait for thousands.
const MAX_SECOND_CHANCES: usize = 1024;

#[derive(Debug)]
pub(super) struct S3Fifo {
    ghost: Ghost,
}

impl S3Fifo {
    pub(super) const fn new() -> Self {
        Self {
            ghost: Ghost::new(),
        }
    }
}

impl Policy for S3Fifo {
    fn admit(&mut self, slab: &mut Slab, _bound: Size, slot: Slot) -> u32 {
        let queue = if self.ghost.take(slot.hash) {
            MAIN
        } else {
            SMALL
        };
        slab.push_front(queue, slot)
    }

    fn hit(&mut self, slab: &mut Slab, _bound: Size, at: u32) {
        if slab.slot(at).frequency < MAX_FREQUENCY {
            slab.slot_mut(at).frequency += 1;
        }
    }

    fn victim(&mut self, slab: &mut Slab, bound: Size) -> Option<u32> {
        let share = bound.percent(SMALL_PERCENT);
        for passed in 0.. {
            let last_chance = passed == MAX_SECOND_CHANCES;
            let small = slab.back(SMALL);
            let at = match small {
                Some(at) if slab.size_of(SMALL).reaches(share) => at,
                _ => slab.back(MAIN).or(small)?,
            };
            let slot = slab.slot_mut(at);
            if slot.queue() == SMALL {
                if slot.frequency < PROMOTING_FREQUENCY || last_chance {
                    let hash = slot.hash;
                    self.ghost.remember(hash, main_records(slab));
                    return Some(at);
                }
                slot.frequency = 0;
            } else {
                if slot.frequency == 0 || last_chance {
                    return Some(at);
                }
                slot.frequency -= 1;
            }
            slab.move_to_front(at, MAIN);
        }
        None
    }

    fn survivors(&self) -> Queue {
        MAIN
    }
}

/// The entries of the main queue when the small one has its share; the ghost remembers so many.
/// Computed from the entries present, as a limit in bytes gives no number of entries.
fn main_records(slab: &Slab) -> usize {
    slab.len() - slab.len() / 10
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::policy::tests::Driver;

    #[test]
    fn two_hits_promote_one_does_not_and_a_ghost_returns_to_main() {
        let mut cache = Driver::new(S3Fifo::new(), 10);
        (0..10).for_each(|nth| cache.admit(nth));
        [0, 1, 1].into_iter().for_each(|nth| cache.hit(nth));
        cache.admit(10);
        assert_eq!(cache.last_victim(), Some(0), "one hit is not enough");
        cache.admit(11);
        assert_eq!(cache.last_victim(), Some(2));
        assert_eq!(cache.queue_of(1), MAIN);
        cache.admit(0);
        assert_eq!(cache.queue_of(0), MAIN, "it was in the ghost");
        // A scan passes through the small queue alone.
        (20..60).for_each(|nth| cache.admit(nth));
        assert_eq!((cache.queue_of(0), cache.queue_of(1)), (MAIN, MAIN));
    }

    #[test]
    fn a_hit_in_main_is_one_more_round_there() {
        let mut cache = Driver::new(S3Fifo::new(), 20);
        (0..20).for_each(|nth| cache.admit(nth));
        (0..20).for_each(|nth| (0..3).for_each(|_| cache.hit(nth)));
        cache.admit(20);
        // All but one left the small queue; hits counted there are forgotten.
        assert_eq!(cache.last_victim(), Some(0));
        cache.hit(1);
        cache.admit(21);
        assert_eq!(cache.last_victim(), Some(2));
        assert_eq!(cache.queue_of(1), MAIN);
    }
}
