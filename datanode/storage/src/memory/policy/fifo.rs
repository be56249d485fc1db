//! First in, first out: the entry admitted first is evicted first, read or not.
//!
//! A hit writes nothing. The order is that of the queue at a counter; see L. A. Belady,
//! "A study of replacement algorithms for a virtual-storage computer", IBM Systems
//! Journal 5(2), 1966.

use super::Policy;
use crate::memory::slab::{Queue, Size, Slab, Slot};

const QUEUE: Queue = Queue::FIRST;

#[derive(Debug)]
pub(super) struct Fifo;

impl Policy for Fifo {
    fn admit(&mut self, slab: &mut Slab, _bound: Size, slot: Slot) -> u32 {
        slab.push_front(QUEUE, slot)
    }

    fn hit(&mut self, _slab: &mut Slab, _bound: Size, _at: u32) {}

    fn victim(&mut self, slab: &mut Slab, _bound: Size) -> Option<u32> {
        slab.back(QUEUE)
    }

    fn survivors(&self) -> Queue {
        QUEUE
    }
}
