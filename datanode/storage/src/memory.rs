//! The memory tier: what the store does not have yet, and what it does and is cheap to
//! have here.
//!
//! Each key lives in one of 64 shards, by its slot. Within a shard it moves
//!
//! ```text
//! apply ──► active ──freeze──► frozen ──settle, once stored──► clean ──evicted──► (store)
//! ```
//!
//! Active and frozen entries (values and tombstones) are pinned: nothing evicts them
//! before the store has them (I7). Clean ones are values only, bounded by bytes. A key is
//! never clean while it is active or frozen, and every step happens under its shard's
//! lock, so a reader sees no gap and never an older value after a newer one (I5).
//!
//! A value read from the store is let in only if no checkpoint ended since the read
//! began (the *generation*): else the read may predate an entry that has come and gone.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use quick_cache::{Weighter, sync::Cache};
use tierkv_types::{Change, ItemKey, Slot, Version};

use crate::{Entry, Item, Residence, locked};

const SHARDS: usize = 64;
/// What an entry costs beside its key and value.
const ENTRY_OVERHEAD_BYTES: u64 = 128;
/// What an entry is guessed to weigh, to size the tables of the clean ones.
const TYPICAL_ENTRY_BYTES: u64 = 1024;

/// One generation of a shard's entries.
pub(crate) type Generation = Arc<HashMap<ItemKey, Entry>>;

#[derive(Debug, Default)]
struct Shard {
    active: HashMap<ItemKey, Entry>,
    frozen: Generation,
}

#[derive(Clone, Debug)]
struct ItemWeight;

impl Weighter<ItemKey, Item> for ItemWeight {
    fn weight(&self, key: &ItemKey, item: &Item) -> u64 {
        weight(key, Some(item))
    }
}

fn weight(key: &ItemKey, item: Option<&Item>) -> u64 {
    let value = item.map_or(0, |item| item.value.len());
    key.as_bytes().len() as u64 + value as u64 + ENTRY_OVERHEAD_BYTES
}

/// What came of offering memory a value that was read from the store.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The key holds this now: memory's own entry if it has one, else what was offered.
    Settled(Option<Item>),
    /// A checkpoint ended meanwhile: read the store again.
    Outrun,
}

/// The memory tier.
#[derive(Debug)]
pub(crate) struct Memory {
    shards: Box<[Mutex<Shard>]>,
    clean: Cache<ItemKey, Item, ItemWeight>,
    generation: AtomicU64,
    active_bytes: AtomicU64,
    frozen_bytes: AtomicU64,
}

impl Memory {
    pub(crate) fn new(clean_limit_bytes: u64) -> Self {
        let items = usize::try_from(clean_limit_bytes / TYPICAL_ENTRY_BYTES);
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            clean: Cache::with_weighter(
                items.unwrap_or(usize::MAX).max(1),
                clean_limit_bytes,
                ItemWeight,
            ),
            generation: AtomicU64::new(0),
            active_bytes: AtomicU64::new(0),
            frozen_bytes: AtomicU64::new(0),
        }
    }

    fn shard(&self, key: &[u8]) -> &Mutex<Shard> {
        &self.shards[Slot::of(key).index() % SHARDS]
    }

    /// Takes a committed change in. The caller applies changes one after the other.
    pub(crate) fn apply(&self, change: &Change, version: Version) {
        let entry = Entry::of(&change.kind, version);
        let added = weight(&change.key, entry.item());
        let mut shard = locked(self.shard(change.key.as_bytes()));
        self.clean.remove(change.key.as_bytes().as_ref());
        let replaced = shard.active.insert(change.key.clone(), entry);
        // Counted before the lock goes: a freeze moves exactly what it finds.
        self.active_bytes.fetch_add(added, Ordering::Relaxed);
        if let Some(replaced) = &replaced {
            let removed = weight(&change.key, replaced.item());
            self.active_bytes.fetch_sub(removed, Ordering::Relaxed);
        }
    }

    /// What memory knows of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Residence {
        self.look(&locked(self.shard(key)), key)
    }

    fn look(&self, shard: &Shard, key: &[u8]) -> Residence {
        let pinned = shard.active.get(key).or_else(|| shard.frozen.get(key));
        match pinned {
            Some(Entry::Value(item)) => Residence::Found(item.clone()),
            Some(Entry::Tombstone(_)) => Residence::Absent,
            None => match self.clean.get(key) {
                Some(item) => Residence::Found(item),
                None => Residence::Unknown,
            },
        }
    }

    /// How many checkpoints have ended; to be read before the store is.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Offers what the store holds for a key, read since `generation` was. Memory wins.
    pub(crate) fn admit(&self, key: &ItemKey, item: Option<Item>, generation: u64) -> Admission {
        let shard = locked(self.shard(key.as_bytes()));
        match self.look(&shard, key.as_bytes()) {
            Residence::Found(own) => return Admission::Settled(Some(own)),
            Residence::Absent => return Admission::Settled(None),
            Residence::Unknown => {}
        }
        if self.generation() != generation {
            return Admission::Outrun;
        }
        if let Some(item) = &item {
            // In memory of its own: the caller's key may be a part of a network frame.
            self.clean.insert(key.detached(), item.clone());
        }
        Admission::Settled(item)
    }

    /// Makes the active entries frozen and answers them. The caller lets no change be
    /// applied meanwhile, and nothing is frozen.
    pub(crate) fn freeze(&self) -> Vec<Generation> {
        let frozen = self.shards.iter().map(|shard| {
            let mut shard = locked(shard);
            debug_assert!(shard.frozen.is_empty(), "frozen entries would be lost");
            shard.frozen = Arc::new(std::mem::take(&mut shard.active));
            Arc::clone(&shard.frozen)
        });
        let frozen = frozen.collect();
        let bytes = self.active_bytes.swap(0, Ordering::Relaxed);
        self.frozen_bytes.store(bytes, Ordering::Relaxed);
        frozen
    }

    /// The frozen entries are in the store for good: they become clean.
    pub(crate) fn settle(&self) {
        // First the generation, then the entries: a store read that missed this
        // checkpoint must not find an entry gone and the generation unchanged.
        self.generation.fetch_add(1, Ordering::AcqRel);
        for shard in &self.shards {
            let settled = {
                let mut shard = locked(shard);
                let settled = std::mem::take(&mut shard.frozen);
                for (key, entry) in settled.iter() {
                    if let Entry::Value(item) = entry
                        && !shard.active.contains_key(key)
                    {
                        self.clean.insert(key.clone(), item.clone());
                    }
                }
                settled
            };
            // Many entries may be freed here; no reader waits for that.
            drop(settled);
        }
        self.frozen_bytes.store(0, Ordering::Relaxed);
    }

    pub(crate) fn active_bytes(&self) -> u64 {
        self.active_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that nothing may evict.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.active_bytes() + self.frozen_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn clean_bytes(&self) -> u64 {
        self.clean.weight()
    }

    pub(crate) fn clean_entries(&self) -> usize {
        self.clean.len()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tierkv_types::ChangeKind;

    use super::*;

    fn key(name: &str) -> ItemKey {
        ItemKey::new("n", name.as_bytes()).unwrap()
    }

    fn item(version: u64) -> Item {
        Item {
            version: Version::from_bits(version),
            expires: None,
            value: Bytes::from(version.to_string()),
        }
    }

    fn put(memory: &Memory, name: &str, version: u64) {
        let change = Change {
            key: key(name),
            kind: ChangeKind::Put {
                value: item(version).value,
                expires: None,
            },
        };
        memory.apply(&change, Version::from_bits(version));
    }

    fn delete(memory: &Memory, name: &str, version: u64) {
        let change = Change {
            key: key(name),
            kind: ChangeKind::Delete { existed: true },
        };
        memory.apply(&change, Version::from_bits(version));
    }

    fn get(memory: &Memory, name: &str) -> Residence {
        memory.get(key(name).as_bytes())
    }

    #[test]
    fn an_entry_is_there_at_every_step_of_a_checkpoint() {
        let memory = Memory::new(1 << 20);
        put(&memory, "a", 1);
        put(&memory, "b", 2);
        delete(&memory, "c", 3);
        assert_eq!(memory.freeze().iter().map(|g| g.len()).sum::<usize>(), 3);
        put(&memory, "b", 4);
        for settled in [false, true] {
            if settled {
                memory.settle();
            }
            assert_eq!(get(&memory, "a"), Residence::Found(item(1)));
            assert_eq!(get(&memory, "b"), Residence::Found(item(4)));
        }
        // The store has the tombstone now, that is, it has no such row.
        assert_eq!(get(&memory, "c"), Residence::Unknown);
        assert_eq!(memory.clean_entries(), 1);
        memory.freeze();
        memory.settle();
        assert_eq!(get(&memory, "b"), Residence::Found(item(4)));
        assert_eq!(memory.pinned_bytes(), 0);
    }

    #[test]
    fn a_store_read_that_a_checkpoint_outran_is_not_let_in() {
        let memory = Memory::new(1 << 20);
        let began = memory.generation();
        delete(&memory, "k", 2);
        let outdated = Some(item(1));
        let admitted = memory.admit(&key("k"), outdated.clone(), began);
        assert_eq!(admitted, Admission::Settled(None));
        memory.freeze();
        memory.settle();
        let admitted = memory.admit(&key("k"), outdated, began);
        assert_eq!(admitted, Admission::Outrun);
        let again = memory.admit(&key("k"), None, memory.generation());
        assert_eq!(again, Admission::Settled(None));
    }

    /// The steps of a checkpoint against a reader of the store, as fast as they can go,
    /// with a key of the shard that is settled first and no room for clean entries.
    #[test]
    fn no_interleaving_lets_an_outdated_store_read_in() {
        const ROUNDS: u64 = 100_000;
        let mut names = (0..).map(|nth| format!("k{nth}"));
        let name = names
            .find(|name| key(name).slot().index().is_multiple_of(SHARDS))
            .unwrap();
        let memory = Memory::new(1);
        let store: Mutex<Option<Item>> = Mutex::new(None);
        let applied = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for version in 1..=ROUNDS {
                    put(&memory, &name, version);
                    applied.store(version, Ordering::Release);
                    memory.freeze();
                    *locked(&store) = Some(item(version));
                    memory.settle();
                }
            });
            let key = key(&name);
            while applied.load(Ordering::Acquire) < ROUNDS {
                let before = applied.load(Ordering::Acquire);
                let generation = memory.generation();
                let row = locked(&store).clone();
                if let Admission::Settled(found) = memory.admit(&key, row, generation) {
                    let version = found.map_or(0, |item| item.version.to_bits());
                    assert!(version >= before, "{version} after {before} was applied");
                }
            }
        });
    }

    #[test]
    fn pinned_bytes_are_exact_and_clean_ones_bounded() {
        let memory = Memory::new(100 << 10);
        for version in 1..2_000 {
            put(&memory, &format!("k{}", version % 1_000), version);
        }
        let expected = (1_000..2_000).map(|version: u64| {
            weight(&key(&format!("k{}", version % 1_000)), Some(&item(version)))
        });
        assert_eq!(memory.pinned_bytes(), expected.sum::<u64>());
        memory.freeze();
        memory.settle();
        assert_eq!(memory.pinned_bytes(), 0);
        assert!(memory.clean_bytes() <= 100 << 10);
        assert!(memory.clean_entries() > 100);
    }

    #[test]
    fn a_change_hides_the_clean_value_under_it() {
        let memory = Memory::new(1 << 20);
        put(&memory, "k", 1);
        memory.freeze();
        memory.settle();
        delete(&memory, "k", 2);
        assert_eq!(get(&memory, "k"), Residence::Absent);
        memory.freeze();
        memory.settle();
        assert_eq!(get(&memory, "k"), Residence::Unknown);
    }
}
