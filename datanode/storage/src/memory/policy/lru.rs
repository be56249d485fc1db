//! Least recently used: the entry whose last use is longest ago is evicted first.
//!
//! R. L. Mattson, J. Gecsei, D. R. Slutz, I. L. Traiger, "Evaluation techniques for
//! storage hierarchies", IBM Systems Journal 9(2), 1970.

use super::Policy;
use crate::memory::slab::{Queue, Size, Slab, Slot};

const QUEUE: Queue = Queue::FIRST;

#[derive(Debug)]
pub(super) struct Lru;

impl Policy for Lru {
    fn admit(&mut self, slab: &mut Slab, _bound: Size, slot: Slot) -> u32 {
        slab.push_front(QUEUE, slot)
    }

    fn hit(&mut self, slab: &mut Slab, _bound: Size, at: u32) {
        if !slab.is_front(at) {
            slab.move_to_front(at, QUEUE);
        }
    }

    fn victim(&mut self, slab: &mut Slab, _bound: Size) -> Option<u32> {
        slab.back(QUEUE)
    }

    fn survivors(&self) -> Queue {
        QUEUE
    }
}
