//! The memory tier: entries that the store does not have yet, and a cache of those it has.
//!
//! Each key belongs to one shard, by its slot. Within a shard an entry moves
//!
//! ```text
//! apply ──► active ──freeze──► frozen ──settle, once stored──► clean ──evicted──► (store)
//! ```
//!
//! Active and frozen entries (values and tombstones) are pinned: they are not evicted before
//! the store has them (I7). Clean entries are values only, limited by records and by bytes,
//! with an eviction policy that may change at run time. A key is never clean while it is
//! active or frozen, and every move is under its shard's lock. So a reader never misses an
//! entry and never sees an older value after a newer one (I5).
//!
//! A value read from the store is admitted only if no checkpoint ended since the read began
//! (the *generation*). Otherwise the read may be older than an entry that has left memory
//! since.
//!
//! Reading order: [`Memory`], then `clean` (the clean entries of one shard), `packed` (one
//! entry), `slab` (all entries, in queues; `chunked` stores them), `policy` (eviction order).
//!
//! The clean part is our own code because of its memory use: with mimalloc, a million entries
//! of 36 B keys and 224 B values take 396 B each here, and 474 to 491 B in foyer-memory 0.22,
//! which also can't change its policy at run time.

mod chunked;
mod clean;
mod packed;
mod policy;
mod slab;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use hashbrown::HashMap;
use tierkv_types::{ItemKey, ItemRange, Slot};

use self::{
    clean::{Clean, share},
    packed::PackedItem,
    slab::{Size, size},
};
use crate::{Entry, Item, MemoryLimits, Residence, locked, meters::EVICTIONS};

/// Shards of a node's memory tier.
pub(crate) const SHARDS: usize = 64;
/// Most active entries that a shard keeps capacity for after a checkpoint.
const KEPT_ENTRIES: usize = 1_024;
/// An estimate of a pinned entry's bytes beside key and value.
const PINNED_OVERHEAD_BYTES: u64 = 128;

/// The entries of a shard that a checkpoint is writing.
pub(crate) type FrozenEntries = Arc<HashMap<ItemKey, Entry>>;

#[derive(Debug)]
struct Shard {
    active: HashMap<ItemKey, Entry>,
    frozen: FrozenEntries,
    clean: Clean,
}

/// A pinned entry's bytes.
fn weight(key: &ItemKey, item: Option<&Item>) -> u64 {
    let value = item.map_or(0, |item| item.value.len());
    key.as_bytes().len() as u64 + value as u64 + PINNED_OVERHEAD_BYTES
}

/// The result of admitting a value that was read from the store.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// What the key holds now: memory's own entry if it has one, else the value from the store.
    Settled(Option<Item>),
    /// A checkpoint ended since the read: read the store again.
    Outrun,
}

/// The pinned entries of a range at one moment.
#[derive(Debug, Default)]
pub(crate) struct Pinned {
    active: Vec<(ItemKey, Entry)>,
    frozen: Vec<FrozenEntries>,
}

impl Pinned {
    /// The entries of `range` in key order, and their bytes. Of a key that is both active and
    /// frozen, the active entry is returned.
    pub(crate) fn sorted(self, range: &ItemRange) -> (Vec<(ItemKey, Entry)>, u64) {
        let mut entries = self.active;
        for frozen in self.frozen {
            let frozen = frozen.iter();
            let frozen = frozen.filter(|(key, _)| range.contains(key.as_bytes()));
            entries.extend(frozen.map(|(key, entry)| (key.clone(), entry.clone())));
        }
        // The sort is stable, so the active one stays before the frozen one.
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        entries.dedup_by(|(later, _), (earlier, _)| later == earlier);
        let weights = entries.iter().map(|(key, entry)| weight(key, entry.item()));
        let weight = weights.sum();
        (entries, weight)
    }
}

/// The memory tier.
#[derive(Debug)]
pub(crate) struct Memory {
    shards: Box<[Mutex<Shard>]>,
    /// Locked while the shards' limits change, so that all shards get the same limits.
    limiting: Mutex<()>,
    /// Bytes of the largest entry that a shard may keep (an upper estimate).
    largest_bytes: AtomicU64,
    generation: AtomicU64,
    applied_bytes: AtomicU64,
    active_bytes: AtomicU64,
    frozen_bytes: AtomicU64,
}

impl Memory {
    /// An empty memory tier of `shards` shards, over which `limits` are split.
    pub(crate) fn new(limits: MemoryLimits, shards: usize) -> Self {
        let shard = |nth| {
            Mutex::new(Shard {
                active: HashMap::new(),
                frozen: FrozenEntries::default(),
                clean: Clean::new(limits.policy, share(limits, nth, shards)),
            })
        };
        Self {
            shards: (0..shards).map(shard).collect(),
            limiting: Mutex::new(()),
            largest_bytes: AtomicU64::new(largest_bytes(limits, shards)),
            generation: AtomicU64::new(0),
            applied_bytes: AtomicU64::new(0),
            active_bytes: AtomicU64::new(0),
            frozen_bytes: AtomicU64::new(0),
        }
    }

    /// Changes policy and limits of the clean entries. On return the limits hold.
    pub(crate) fn set_limits(&self, limits: MemoryLimits) {
        let _one_at_a_time = locked(&self.limiting);
        let count = self.shards.len();
        self.largest_bytes
            .store(largest_bytes(limits, count), Ordering::Relaxed);
        for (nth, shard) in self.shards.iter().enumerate() {
            let bound = share(limits, nth, count);
            let evicted = locked(shard).clean.limit(limits.policy, bound);
            count_evictions(evicted);
        }
    }

    fn shard(&self, key: &[u8]) -> &Mutex<Shard> {
        &self.shards[Slot::of(key).index() % self.shards.len()]
    }

    /// Copies an entry into its own allocation, so that it keeps no larger buffer alive; `None`
    /// if it is too large for any shard. Takes no lock: a value may have 1 MiB.
    fn packed(&self, key: &ItemKey, item: &Item) -> Option<PackedItem> {
        let bytes = size(PackedItem::bytes_of(key.as_bytes(), item)).bytes;
        let keep = bytes <= self.largest_bytes.load(Ordering::Relaxed);
        keep.then(|| PackedItem::new(key.as_bytes(), item))
    }

    /// Stores the entry of a committed change. The caller applies changes one after the other.
    pub(crate) fn apply(&self, key: &ItemKey, entry: Entry) {
        let added = weight(key, entry.item());
        self.applied_bytes.fetch_add(added, Ordering::Relaxed);
        let mut shard = locked(self.shard(key.as_bytes()));
        shard.clean.remove(key.as_bytes());
        let replaced = shard.active.insert(key.clone(), entry);
        // Counted under the lock, so that a freeze moves exactly the counted entries.
        self.active_bytes.fetch_add(added, Ordering::Relaxed);
        if let Some(replaced) = &replaced {
            let removed = weight(key, replaced.item());
            self.active_bytes.fetch_sub(removed, Ordering::Relaxed);
        }
    }

    /// Looks a key up.
    pub(crate) fn get(&self, key: &[u8]) -> Residence {
        locked(self.shard(key)).get(key)
    }

    /// The number of ended checkpoints; read it before the store.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Admits a key's item read from the store after `generation`. An entry in memory wins.
    pub(crate) fn admit(&self, key: &ItemKey, item: Option<Item>, generation: u64) -> Admission {
        let packed = item.as_ref().and_then(|item| self.packed(key, item));
        let mut shard = locked(self.shard(key.as_bytes()));
        match shard.get(key.as_bytes()) {
            Residence::Found(own) => return Admission::Settled(Some(own)),
            Residence::Absent => return Admission::Settled(None),
            Residence::Unknown => {}
        }
        if self.generation() != generation {
            return Admission::Outrun;
        }
        if let Some(packed) = packed {
            let evicted = shard.clean.insert(packed);
            drop(shard);
            count_evictions(evicted);
        }
        Admission::Settled(item)
    }

    /// Freezes the active entries and returns them. The caller applies no change meanwhile,
    /// and no entries are frozen before.
    pub(crate) fn freeze(&self) -> Vec<FrozenEntries> {
        let frozen = self.shards.iter().map(|shard| {
            let mut shard = locked(shard);
            debug_assert!(shard.frozen.is_empty(), "frozen entries would be lost");
            // Mostly as many entries follow; growing the map again would move them all.
            let next = HashMap::with_capacity(shard.active.len().min(KEPT_ENTRIES));
            shard.frozen = Arc::new(std::mem::replace(&mut shard.active, next));
            Arc::clone(&shard.frozen)
        });
        let frozen = frozen.collect();
        let bytes = self.active_bytes.swap(0, Ordering::Relaxed);
        self.frozen_bytes.store(bytes, Ordering::Relaxed);
        frozen
    }

    /// Makes the frozen entries clean, once they are durable in the store.
    pub(crate) fn settle(&self) {
        // First the generation, then the entries: a store read that missed this
        // checkpoint must not find an entry gone and the generation unchanged.
        self.generation.fetch_add(1, Ordering::AcqRel);
        for shard in &self.shards {
            // Nothing else changes the frozen entries, so the copies stay valid.
            let frozen = Arc::clone(&locked(shard).frozen);
            let packed = frozen.iter().filter_map(|(key, entry)| {
                let packed = self.packed(key, entry.item()?)?;
                Some((key, packed))
            });
            let packed: Vec<(&ItemKey, PackedItem)> = packed.collect();
            let mut shard = locked(shard);
            // `frozen` keeps the entries alive, so they are freed outside of the lock.
            shard.frozen = FrozenEntries::default();
            let mut evicted = 0;
            for (key, packed) in packed {
                if !shard.active.contains_key(key) {
                    evicted += shard.clean.insert(packed);
                }
            }
            drop(shard);
            count_evictions(evicted);
        }
        self.frozen_bytes.store(0, Ordering::Relaxed);
    }

    /// The pinned entries of a range. The caller applies no change meanwhile, and reads the
    /// generation afterwards: if it has changed, some entries may have moved to the store.
    ///
    /// Takes about 15 ns for each active entry, in the range or not.
    pub(crate) fn pinned(&self, range: &ItemRange) -> Pinned {
        let mut pinned = Pinned::default();
        for shard in &self.shards {
            let shard = locked(shard);
            let active = shard.active.iter();
            let active = active.filter(|(key, _)| range.contains(key.as_bytes()));
            pinned
                .active
                .extend(active.map(|(key, entry)| (key.clone(), entry.clone())));
            // Frozen entries do not change, so they are filtered later.
            pinned.frozen.push(Arc::clone(&shard.frozen));
        }
        pinned
    }

    /// The bytes of all entries ever applied.
    pub(crate) fn applied_bytes(&self) -> u64 {
        self.applied_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn active_bytes(&self) -> u64 {
        self.active_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of pinned entries.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.active_bytes() + self.frozen_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn clean_bytes(&self) -> u64 {
        self.clean_size().bytes
    }

    pub(crate) fn clean_entries(&self) -> usize {
        // Entries in memory are fewer than its addresses.
        usize::try_from(self.clean_size().records).unwrap_or(usize::MAX)
    }

    fn clean_size(&self) -> Size {
        let sizes = self.shards.iter().map(|shard| locked(shard).clean.size());
        sizes.fold(Size::default(), Size::plus)
    }
}

impl Shard {
    fn get(&mut self, key: &[u8]) -> Residence {
        let pinned = self.active.get(key).or_else(|| self.frozen.get(key));
        match pinned {
            Some(Entry::Value(item)) => Residence::Found(item.clone()),
            Some(Entry::Tombstone(_)) => Residence::Absent,
            None => match self.clean.get(key) {
                Some(item) => Residence::Found(item),
                None => Residence::Unknown,
            },
        }
    }
}

fn largest_bytes(limits: MemoryLimits, shards: usize) -> u64 {
    // The first shard has the largest share.
    let bound = share(limits, 0, shards);
    if bound.records == 0 { 0 } else { bound.bytes }
}

fn count_evictions(evicted: usize) {
    if evicted > 0 {
        metrics::counter!(EVICTIONS).increment(evicted as u64);
    }
}

#[cfg(test)]
mod tests;
