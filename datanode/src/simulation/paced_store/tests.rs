//! Checkpoints overtake reads, are refused for a time, and there is one run for each seed.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use tierkv_storage::Entry;
use tierkv_types::ChangeKind;

use super::*;
use crate::simulation::scheduler::Scheduler;

const SLOW: StoreFaults = StoreFaults {
    busy: 20,
    full: 20,
    pace: Pace {
        steps: 6,
        late: 20,
        late_millis: 30,
    },
};

/// A store with the features for these tests: rows that a checkpoint changes at one moment.
#[derive(Debug, Default)]
struct Rows(Mutex<BTreeMap<ItemKey, Entry>>);

#[derive(Debug)]
struct RowsOnce(Vec<(ItemKey, Item)>);

#[async_trait]
impl Store for Rows {
    async fn claim(&self, _: Incarnation) -> Result<StoreState, StorageError> {
        Ok(StoreState::default())
    }

    async fn get_many(&self, keys: &[ItemKey]) -> Result<Vec<Option<Item>>, StorageError> {
        let rows = self.0.lock().unwrap();
        let found = keys.iter().map(|key| rows.get(key)?.item().cloned());
        Ok(found.collect())
    }

    async fn snapshot(&self, _: &ItemRange) -> Result<Box<dyn StoreSnapshot>, StorageError> {
        let rows = self.0.lock().unwrap();
        let items = (rows.iter()).filter_map(|(key, row)| Some((key.clone(), row.item()?.clone())));
        Ok(Box::new(RowsOnce(items.collect())))
    }

    async fn node_snapshot(&self, _: usize) -> Result<Box<dyn StoreNodeSnapshot>, StorageError> {
        unreachable!("no node joins in these tests")
    }

    async fn begin_install(&self, _: Incarnation) -> Result<(), StorageError> {
        unreachable!("no node joins in these tests")
    }

    async fn outcomes(&self) -> Result<Vec<(RequestId, Outcome)>, StorageError> {
        Ok(Vec::new())
    }

    async fn expired(&self, _: Version, _: usize) -> Result<Vec<(ItemKey, Version)>, StorageError> {
        Ok(Vec::new())
    }

    async fn oldest_tombstone(&self) -> Result<Option<Version>, StorageError> {
        Ok(None)
    }

    async fn scrub(&self, _: Option<ItemKey>, _: usize) -> Result<ScrubbedRows, StorageError> {
        Err(StorageError::Closed)
    }

    async fn checkpoint(&self, _: Incarnation, batch: CheckpointBatch) -> Result<(), StorageError> {
        self.0.lock().unwrap().extend(batch.changes);
        Ok(())
    }

    async fn close(&self) {}
}

#[async_trait]
impl StoreSnapshot for RowsOnce {
    async fn next(&mut self, _: usize) -> Result<Vec<(ItemKey, Item)>, StorageError> {
        Ok(std::mem::take(&mut self.0))
    }

    async fn count(&mut self, _: Version) -> Result<u64, StorageError> {
        Ok(self.0.len() as u64)
    }

    async fn count_among(&mut self, keys: &[ItemKey], _: Version) -> Result<u64, StorageError> {
        let among = self.0.iter().filter(|(key, _)| keys.contains(key));
        Ok(among.count() as u64)
    }
}

fn key() -> ItemKey {
    ItemKey::new("n", b"k").unwrap()
}

fn batch(millis: u64) -> CheckpointBatch {
    let put = ChangeKind::Put {
        value: format!("{millis}").into(),
        expires: None,
    };
    let entry = Entry::of(&put, Version::from_millis(millis));
    CheckpointBatch {
        changes: vec![(key(), entry)],
        ..CheckpointBatch::default()
    }
}

#[derive(Debug, Default, PartialEq)]
struct Sightings {
    refusals: BTreeSet<String>,
    /// A checkpoint began and ended while a read was on its way.
    overtaken: bool,
}

fn race(seed: u64) -> (u64, Sightings) {
    let mut scheduler = Scheduler::new(seed);
    let trace = scheduler.trace().clone();
    let weather = StoreWeather::new(seed, SLOW, trace.clone());
    let rows: Arc<dyn Store> = Arc::new(Rows::default());
    let store = PacedStore::over(Arc::clone(&rows), Arc::clone(&weather));
    let seen = Rc::new(RefCell::new(Sightings::default()));
    // The newest checkpoint that was started, and the newest that succeeded.
    let checkpoints = Rc::new(RefCell::new((0, 0)));
    let (writing, noted, counted) = (
        Arc::clone(&store),
        Rc::clone(&seen),
        Rc::clone(&checkpoints),
    );
    scheduler.spawn("users", "checkpointer", async move {
        for version in 1..20 {
            counted.borrow_mut().0 += 1;
            match writing.checkpoint(Incarnation(1), batch(version)).await {
                Ok(()) => {
                    let (begun, _) = *counted.borrow();
                    *counted.borrow_mut() = (begun, begun);
                }
                Err(error) => {
                    assert!(error.is_passing());
                    noted.borrow_mut().refusals.insert(format!("{error:?}"));
                }
            }
        }
    });
    let (reading, noted) = (Arc::clone(&store), Rc::clone(&seen));
    scheduler.spawn("users", "reader", async move {
        let mut last = None;
        for _ in 0..20 {
            let begun = checkpoints.borrow().0;
            let found = reading.get_many(&[key()]).await.unwrap().remove(0);
            let version = found.map(|item| item.version);
            assert!(version >= last, "a row went back");
            last = version;
            noted.borrow_mut().overtaken |= checkpoints.borrow().1 > begun;
        }
    });
    while scheduler.alive("users") > 0 {
        if !scheduler.step() {
            scheduler.advance(1);
        }
    }
    drop(scheduler);
    (trace.hash(), Rc::into_inner(seen).unwrap().into_inner())
}

#[test]
fn one_seed_is_one_run_and_the_seeds_see_every_fault() {
    let mut all = Sightings::default();
    for seed in 0..40 {
        let (hash, seen) = race(seed);
        if seed < 10 {
            assert_eq!((hash, &seen), (race(seed).0, &race(seed).1));
        }
        all.refusals.extend(seen.refusals);
        all.overtaken |= seen.overtaken;
    }
    assert_eq!(all.refusals.len(), 2, "{all:?}");
    assert!(all.overtaken, "no checkpoint overtook a read");
}

#[test]
fn without_faults_it_is_the_store_beneath() {
    let mut scheduler = Scheduler::new(1);
    let weather = StoreWeather::new(1, SLOW, scheduler.trace().clone());
    weather.set_faults(StoreFaults::NONE);
    let store = PacedStore::over(Arc::new(Rows::default()), weather);
    let whole = ItemRange::of_prefix("n", b"").unwrap();
    scheduler.complete("one", "uses it", async move {
        let now = Version::from_millis(9);
        assert_eq!(
            store.claim(Incarnation(1)).await.unwrap(),
            StoreState::default()
        );
        store.checkpoint(Incarnation(1), batch(1)).await.unwrap();
        let found = store.get_many(&[key()]).await.unwrap();
        assert_eq!(found[0].as_ref().unwrap().version, Version::from_millis(1));
        let mut snapshot = store.snapshot(&whole).await.unwrap();
        assert_eq!(snapshot.count_among(&[key()], now).await.unwrap(), 1);
        assert_eq!(snapshot.count(now).await.unwrap(), 1);
        assert_eq!(snapshot.next(1).await.unwrap().len(), 1);
        assert!(store.outcomes().await.unwrap().is_empty());
        assert!(store.expired(now, 1).await.unwrap().is_empty());
        assert_eq!(store.oldest_tombstone().await.unwrap(), None);
        assert!(store.scrub(None, 1).await.is_err());
        store.close().await;
    });
}
