//! The cache tier inside one process, without a network: the same trait and guarantees as over
//! memcached.
//!
//! Entries are in a bounded concurrent map, leases in a small table beside it (`leases`). A hit
//! only touches the map. Everything else about a key (winning a lease, filling, deleting) happens
//! under the lock of the key's lease shard. So a delete and a fill can't overtake each other: the
//! second sees the effect of the first.
//!
//! Reading order: `stored` (the map's entries), `leases`, then this file.

mod leases;
mod stored;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use quick_cache::{DefaultHashBuilder, OptionsBuilder, sync};
use tierkv_protocol::cache::{Entry, Mark};
use tierkv_types::{BootTime, Clock, ClusterId};

use self::{
    leases::{Grant, LeaseTable},
    stored::{OwnedKey, Stored, WeightInBytes, weight},
};
use crate::{
    key::CacheKey,
    tier::{Cache, Fill, Found, Lease, MAX_ENTRY_BYTES, NodeReport, State, Undelivered},
};

pub use self::leases::MAX_LEASES;

/// The name of the one node.
pub const NODE: &str = "embedded";

/// The assumed size of an entry, for the initial size of the map's tables.
const TYPICAL_ENTRY_BYTES: u64 = 512;

/// Maximum parts of the map; writers of different parts don't wait for each other.
const MAX_PARTS: u64 = 32;

/// Each part has room for this many of the largest entries, if the capacity allows.
const LARGEST_ENTRIES_PER_PART: u64 = 4;

type Entries = sync::Cache<OwnedKey, Stored, WeightInBytes>;

/// An in-memory cache tier of one node.
pub struct EmbeddedCache {
    entries: Entries,
    leases: LeaseTable,
    marks: RwLock<BTreeMap<ClusterId, Mark>>,
    clock: Arc<dyn Clock>,
    lookups: AtomicU64,
    hits: AtomicU64,
}

impl EmbeddedCache {
    /// A cache whose entries, with keys and overhead, take at most `capacity_bytes`; the coldest
    /// are evicted.
    #[must_use]
    pub fn new(capacity_bytes: u64, clock: Arc<dyn Clock>) -> Self {
        Self {
            entries: entries(capacity_bytes),
            leases: LeaseTable::new(),
            marks: RwLock::default(),
            clock,
            lookups: AtomicU64::new(0),
            hits: AtomicU64::new(0),
        }
    }

    fn look_up(&self, cluster: &ClusterId, keys: &[CacheKey<'_>], results: &mut Vec<Found>) {
        results.clear();
        // The mark is read once for all keys, before every entry.
        let mark = self.mark(cluster);
        let now = self.clock.boot_time();
        let mut hits = 0;
        results.extend(keys.iter().map(|key| {
            let state = match self.live_entry(key, now) {
                Some(entry) => State::Entry(entry),
                None => self.miss(key),
            };
            hits += u64::from(matches!(state, State::Entry(_)));
            Found { mark, state }
        }));
        self.hits.fetch_add(hits, Ordering::Relaxed);
        self.lookups.fetch_add(keys.len() as u64, Ordering::Relaxed);
    }

    fn miss(&self, key: &CacheKey<'_>) -> State {
        let (shard, place) = self.leases.shard(key);
        let mut shard = shard.lock();
        let now = self.clock.boot_time();
        // A fill may have happened between the lookup without the lock and this one.
        if let Some(entry) = self.live_entry(key, now) {
            return State::Entry(entry);
        }
        match shard.grant(place, now) {
            Grant::Won(token) => State::Leased(Lease::new(token)),
            Grant::Held => State::Busy,
        }
    }

    fn live_entry(&self, key: &CacheKey<'_>, now: BootTime) -> Option<Entry> {
        let stored = self.entries.get(key)?;
        (now < stored.until).then_some(stored.entry)
    }

    fn store(&self, key: &CacheKey<'_>, lease: &Lease, entry: Entry) -> Fill {
        let weight = weight(key, &entry);
        // The entry is copied outside the lock, so that it does not keep a network frame alive.
        let entry = (weight <= MAX_ENTRY_BYTES as u64).then(|| entry.detached());
        let (shard, place) = self.leases.shard(key);
        let mut shard = shard.lock();
        let now = self.clock.boot_time();
        let live = shard.take(place, lease.token(), now);
        match entry {
            Some(entry) if live => {
                let until = now.after(entry.life());
                let stored = Stored { entry, until };
                self.entries.insert(OwnedKey::from(key), stored);
                Fill::Stored
            }
            _ => Fill::Refused,
        }
    }

    fn remove(&self, key: &CacheKey<'_>) {
        let (shard, place) = self.leases.shard(key);
        let mut shard = shard.lock();
        shard.revoke(place);
        self.entries.remove(key);
    }

    fn mark(&self, cluster: &ClusterId) -> Option<Mark> {
        let marks = self.marks.read().unwrap_or_else(PoisonError::into_inner);
        marks.get(cluster).copied()
    }

    fn raise_mark(&self, cluster: &ClusterId, mark: Mark) {
        let mut marks = self.marks.write().unwrap_or_else(PoisonError::into_inner);
        match marks.get_mut(cluster) {
            Some(held) if held.outranks(&mark) => {}
            Some(held) => *held = mark,
            None => {
                marks.insert(cluster.clone(), mark);
            }
        }
    }
}

impl Cache for EmbeddedCache {
    async fn lookup(&self, cluster: &ClusterId, keys: &[CacheKey<'_>], results: &mut Vec<Found>) {
        self.look_up(cluster, keys, results);
    }

    async fn fill(&self, key: CacheKey<'_>, lease: Lease, entry: Entry) -> Fill {
        self.store(&key, &lease, entry)
    }

    async fn release(&self, key: CacheKey<'_>, lease: Lease) {
        let (shard, place) = self.leases.shard(&key);
        shard.lock().take(place, lease.token(), BootTime::default());
    }

    async fn delete(&self, keys: &[CacheKey<'_>]) -> Result<(), Undelivered> {
        for key in keys {
            self.remove(key);
        }
        Ok(())
    }

    async fn write_mark(&self, cluster: &ClusterId, mark: Mark) -> Result<(), Undelivered> {
        self.raise_mark(cluster, mark);
        Ok(())
    }

    async fn read_marks(&self, cluster: &ClusterId) -> Vec<(String, Option<Mark>)> {
        vec![(NODE.to_owned(), self.mark(cluster))]
    }

    async fn holds_anything(&self) -> bool {
        let now = self.clock.boot_time();
        // Leases first: one that is filled in between is then seen as an entry.
        self.leases
            .shards()
            .any(|shard| shard.lock().holds_any(now))
            || !self.entries.is_empty()
    }

    fn node_of(&self, _: CacheKey<'_>) -> &str {
        NODE
    }

    async fn nodes(&self) -> Vec<NodeReport> {
        vec![NodeReport {
            node: NODE.to_owned(),
            up: true,
            lookups: self.lookups.load(Ordering::Relaxed),
            hits: self.hits.load(Ordering::Relaxed),
            entries: self.entries.len() as u64,
            bytes: self.entries.weight(),
        }]
    }
}

fn entries(capacity_bytes: u64) -> Entries {
    let largest = MAX_ENTRY_BYTES as u64 * LARGEST_ENTRIES_PER_PART;
    let parts = (capacity_bytes / largest).clamp(1, MAX_PARTS);
    let items = capacity_bytes / TYPICAL_ENTRY_BYTES;
    // The map rounds the number of parts up to a power of two; rounding down keeps enough room in
    // each.
    let parts = 1_usize << parts.ilog2();
    let items = usize::try_from(items).unwrap_or(usize::MAX);
    let options = OptionsBuilder::new()
        .shards(parts)
        .estimated_items_capacity(items)
        .weight_capacity(capacity_bytes)
        .build();
    match options {
        Ok(options) => Entries::with_options(
            options,
            WeightInBytes,
            DefaultHashBuilder::default(),
            sync::DefaultLifecycle::default(),
        ),
        Err(_) => Entries::with_weighter(items, capacity_bytes, WeightInBytes),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use bytes::Bytes;
    use tierkv_protocol::cache::{ENTRY_LIFE, ValueEntry};
    use tierkv_types::{Boot, Version};

    use super::*;

    /// A clock that fills a key at its second reading. A lookup reads the clock first without the
    /// key's lock and then, after a miss, with it, so the fill happens in between.
    struct FillingClock {
        cache: Weak<EmbeddedCache>,
        readings: AtomicU64,
    }

    const KEY: CacheKey<'static> = CacheKey {
        item: b"item",
        slot_revision: 1,
    };

    impl Clock for FillingClock {
        fn boot_time(&self) -> BootTime {
            if self.readings.fetch_add(1, Ordering::SeqCst) == 1 {
                let entry = Entry::Value(ValueEntry {
                    version: Version::from_bits(7),
                    expires: None,
                    filled: Version::ZERO,
                    value: Bytes::from_static(b"value"),
                });
                let until = BootTime::default().after(ENTRY_LIFE);
                let stored = Stored { entry, until };
                let cache = self.cache.upgrade().unwrap();
                cache.entries.insert(OwnedKey::from(&KEY), stored);
            }
            BootTime::default()
        }

        fn boot(&self) -> Option<Boot> {
            None
        }

        fn wall_millis(&self) -> u64 {
            0
        }

        fn is_synchronised(&self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn an_entry_that_is_filled_during_its_lookup_is_a_hit() {
        let cache = Arc::new_cyclic(|cache| {
            let clock = FillingClock {
                cache: Weak::clone(cache),
                readings: AtomicU64::new(0),
            };
            EmbeddedCache::new(1 << 20, Arc::new(clock))
        });
        let cluster = ClusterId::new("c1").unwrap();
        let mut found = Vec::new();
        cache.lookup(&cluster, &[KEY], &mut found).await;
        assert!(matches!(found[0].state, State::Entry(_)), "{found:?}");
        let report = &cache.nodes().await[0];
        assert_eq!((report.lookups, report.hits), (1, 1));
    }
}
