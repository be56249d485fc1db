//! Eviction policies: the order of a shard's entries in the slab's queues, and other state of
//! a policy.
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

/// One shard's eviction policy. `bound` is the shard's limit in each call.
pub(super) trait Policy: fmt::Debug + Send {
    /// Adds a new entry, for which there is room, and returns its place.
    fn admit(&mut self, slab: &mut Slab, bound: Size, slot: Slot) -> u32;

    /// Records that the entry at `at` was read or replaced.
    fn hit(&mut self, slab: &mut Slab, bound: Size, at: u32);

    /// The entry to evict next; `None` if there is none. The caller removes it.
    fn victim(&mut self, slab: &mut Slab, bound: Size) -> Option<u32>;

    /// The queue for entries that an earlier policy kept.
    fn survivors(&self) -> Queue;
}

/// A policy in its initial state.
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
