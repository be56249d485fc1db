//! Many readers and writers at once.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tierkv_protocol::cache::{Entry, Mark};
use tierkv_types::{Epoch, Index, Round};
use tokio::task::JoinSet;

use super::{Backend, cluster, key, value};
use crate::{Cache, Found, State};

const ITEMS: usize = 64;
const WRITES: u64 = 1_500;
const READERS: usize = 6;

/// The store below: one version per key, which only grows.
struct Store([AtomicU64; ITEMS]);

impl Store {
    fn version(&self, item: usize) -> u64 {
        self.0[item].load(Ordering::SeqCst)
    }
}

/// Writers change and delete; readers fill what they read after winning a lease. No entry read
/// after a mark is older than the deletes that the mark covers.
///
/// This tests CACHE-LEASE, CACHE-DELETE and the order of mark and entry (CACHE-MARK) together,
/// under real concurrency.
pub async fn no_fill_survives_a_delete_that_came_after_its_read(backend: &impl Backend) {
    let cache = Arc::new(backend.cache().await);
    let store = Arc::new(Store(std::array::from_fn(|_| AtomicU64::new(0))));
    let mut tasks = JoinSet::new();
    for _ in 0..READERS {
        tasks.spawn(read_and_fill(cache.clone(), store.clone()));
    }
    // One writer: the round of its mark is the version up to which everything is deleted.
    for version in 1..=WRITES {
        for item in 0..ITEMS {
            store.0[item].store(version, Ordering::SeqCst);
            tokio::task::yield_now().await;
            assert_eq!(cache.delete(&[key(&[item_byte(item)])]).await, Ok(()));
        }
        let mark = Mark {
            epoch: Epoch(1),
            round: Round(version),
            index: Index(version),
        };
        assert_eq!(cache.write_mark(&cluster(), mark).await, Ok(()));
    }
    let hits: u64 = tasks.join_all().await.iter().sum();
    assert!(hits > 0, "the storm had no hit");
}

fn item_byte(item: usize) -> u8 {
    u8::try_from(item).expect("there are few items")
}

async fn read_and_fill(cache: Arc<impl Cache>, store: Arc<Store>) -> u64 {
    let mut hits = 0;
    let mut results: Vec<Found> = Vec::new();
    let mut seen: HashMap<usize, u64> = HashMap::new();
    let items: Vec<[u8; 1]> = (0..ITEMS).map(|item| [item_byte(item)]).collect();
    // The item deleted last is looked up first: if the mark were read after the entries, that
    // delete and its mark could happen in between.
    let keys: Vec<_> = items.iter().rev().map(|item| key(item)).collect();
    while seen.values().filter(|version| **version == WRITES).count() < ITEMS {
        cache.lookup(&cluster(), &keys, &mut results).await;
        for (item, found) in (0..ITEMS).rev().zip(results.drain(..)) {
            let vouched = found.mark.map_or(0, |mark| mark.round.0);
            match found.state {
                State::Entry(Entry::Value(entry)) => {
                    let version = entry.version.to_bits();
                    assert!(
                        version >= vouched,
                        "item {item}: version {version} outlived the deletes up to {vouched}"
                    );
                    hits += 1;
                    seen.insert(item, version);
                }
                State::Entry(Entry::Absent(_)) => panic!("no absence was filled"),
                State::Leased(lease) => {
                    let version = store.version(item);
                    tokio::task::yield_now().await;
                    let entry = value(version, version.to_string());
                    cache.fill(key(&items[item]), lease, entry).await;
                }
                State::Busy | State::Unreachable => {}
            }
        }
        tokio::task::yield_now().await;
    }
    hits
}
