//! One shard's clean entries: a cache limited by records and by bytes.
//!
//! The slab stores the entries, a table of u32 finds them by hash, the policy chooses which to
//! evict. All of it is under the shard's lock.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::{
    packed::PackedItem,
    policy::{self, Policy},
    slab::{MAX_ENTRIES, Size, Slab, Slot, size},
};
use crate::{EvictionPolicy, Item, MemoryLimits};

/// The index shrinks once it has more than so many places per entry.
const MAX_SPARSENESS: usize = 4;
/// The smallest index that shrinks.
const MIN_SPARSE: usize = 64;

/// The clean entries of a shard.
#[derive(Debug)]
pub(super) struct Clean {
    slab: Slab,
    index: HashTable<u32>,
    policy: Box<dyn Policy>,
    kind: EvictionPolicy,
    bound: Size,
    /// Seeded randomly in each process, so that a client can't choose keys that collide.
    hasher: DefaultHashBuilder,
}

impl Clean {
    /// Without entries, limited by this shard's `bound`.
    pub(super) fn new(kind: EvictionPolicy, bound: Size) -> Self {
        Self {
            slab: Slab::new(),
            index: HashTable::new(),
            policy: policy::new(kind),
            kind,
            bound,
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// The number of entries, and their bytes with index and queues.
    pub(super) fn size(&self) -> Size {
        self.slab.size()
    }

    /// A key's item, if it is kept. Counts as a use.
    pub(super) fn get(&mut self, key: &[u8]) -> Option<Item> {
        if self.slab.len() == 0 {
            return None;
        }
        let at = self.find(self.hash(key), key)?;
        self.policy.hit(&mut self.slab, self.bound, at);
        Some(self.slab.slot(at).item.item())
    }

    /// Keeps an entry, replacing its key's earlier one; returns how many were evicted for it. An
    /// entry that alone is over the bound is not kept, and its key's earlier one is removed.
    pub(super) fn insert(&mut self, item: PackedItem) -> usize {
        let hash = self.hash(item.key());
        let found = self.find(hash, item.key());
        let added = size(item.bytes());
        if added.exceeds(self.bound) {
            if let Some(at) = found {
                self.take(at);
            }
            return 0;
        }
        if let Some(at) = found {
            self.slab.replace(at, item);
            self.policy.hit(&mut self.slab, self.bound, at);
            return self.evict(Size::default());
        }
        let evicted = self.evict(added);
        let slot = Slot::new(item, hash);
        let at = self.policy.admit(&mut self.slab, self.bound, slot);
        let slab = &self.slab;
        let rehash = |at: &u32| spread(slab.slot(*at).hash);
        self.index.insert_unique(spread(hash), at, rehash);
        evicted
    }

    /// Removes a key, because its item has changed.
    pub(super) fn remove(&mut self, key: &[u8]) {
        if self.slab.len() == 0 {
            return;
        }
        if let Some(at) = self.find(self.hash(key), key) {
            self.take(at);
        }
    }

    /// Changes policy and bound; returns how many entries were evicted, in the order of the
    /// earlier policy.
    pub(super) fn limit(&mut self, kind: EvictionPolicy, bound: Size) -> usize {
        self.bound = bound;
        let evicted = self.evict(Size::default());
        if kind != self.kind {
            self.kind = kind;
            self.policy = policy::new(kind);
            self.slab.merge(self.policy.survivors());
        }
        evicted
    }

    /// Evicts entries until `more` fits.
    fn evict(&mut self, more: Size) -> usize {
        let mut evicted = 0;
        while self.slab.size().plus(more).exceeds(self.bound) {
            let Some(at) = self.policy.victim(&mut self.slab, self.bound) else {
                break;
            };
            self.take(at);
            evicted += 1;
        }
        evicted
    }

    fn take(&mut self, at: u32) {
        let (slot, moved) = self.slab.remove(at);
        if let Ok(place) = self
            .index
            .find_entry(spread(slot.hash), |other| *other == at)
        {
            place.remove();
        }
        let slab = &self.slab;
        if let Some(moved) = moved {
            let hash = spread(slab.slot(moved.to).hash);
            if let Some(place) = self.index.find_mut(hash, |other| *other == moved.from) {
                *place = moved.to;
            }
        }
        if self.index.capacity() > MIN_SPARSE.max(slab.len() * MAX_SPARSENESS) {
            let rehash = |at: &u32| spread(slab.slot(*at).hash);
            self.index.shrink_to(slab.len() * 2, rehash);
        }
    }

    fn find(&self, hash: u32, key: &[u8]) -> Option<u32> {
        let found = self.index.find(spread(hash), |at| {
            let slot = self.slab.slot(*at);
            slot.hash == hash && slot.item.key() == key
        });
        found.copied()
    }

    fn hash(&self, key: &[u8]) -> u32 {
        // The lower half of the hash; all its bits are well distributed.
        #[allow(clippy::cast_possible_truncation)]
        let hash = self.hasher.hash_one(key) as u32;
        hash
    }
}

/// The share of `limits` of shard `nth` of `shards`; all shares add up to `limits`.
pub(super) fn share(limits: MemoryLimits, nth: usize, shards: usize) -> Size {
    let (nth, shards) = (nth as u64, shards as u64);
    let part = |whole: u64| whole / shards + u64::from(nth < whole % shards);
    Size {
        records: part(limits.max_records).min(MAX_ENTRIES),
        bytes: part(limits.max_bytes),
    }
}

/// A stored hash for the table, which uses the highest and the lowest bits.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests;
