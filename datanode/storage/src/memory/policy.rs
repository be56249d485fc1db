//! Which clean entry goes first: the order of a shard's entries, kept in the slab's
//! queues, and what a policy must remember beside them.
//!
//! Reading order: [`Policy`], then `fifo`, `lru`, `s3fifo` (with `ghost`), `lfu` (with
//! `sketch`).

mod fifo;
mod ghost;
mod lfu;
mod lru;
mod s3fifo;
mod sketch;

use std::fmt;

use super::slab::{Queue, Size, Slab, Slot};
use crate::EvictionPolicy;

/// One shard's eviction policy. `bound` is the shard's, in each call.
pub(super) trait Policy: fmt::Debug + Send {
    /// Takes a new entry in and answers its place. There is room for it.
    fn admit(&mut self, slab: &mut Slab, bound: Size, slot: Slot) -> u32;

    /// The entry at `at` was read, or written anew.
    fn hit(&mut self, slab: &mut Slab, bound: Size, at: u32);

    /// The entry that goes next; `None` if there is none. The caller removes it.
    fn victim(&mut self, slab: &mut Slab, bound: Size) -> Option<u32>;

    /// Where entries wait that another policy had kept.
    fn survivors(&self) -> Queue;
}

/// A policy that knows nothing yet.
pub(super) fn new(policy: EvictionPolicy) -> Box<dyn Policy> {
    match policy {
        EvictionPolicy::Lru => Box::new(lru::Lru),
        EvictionPolicy::Lfu => Box::new(lfu::Lfu::new()),
        EvictionPolicy::Fifo => Box::new(fifo::Fifo),
        EvictionPolicy::S3Fifo => Box::new(s3fifo::S3Fifo::new()),
    }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
