//! Start-up: store plus log is exactly the state before.

use std::sync::atomic::Ordering;

use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use super::*;
use crate::{
    EvictionPolicy, MemoryLimits, RealDisk, Residence, StorageError, disk::TestDisk,
    state::REQUEST_LIMIT,
};

#[tokio::test]
async fn a_fresh_directory_is_empty_and_a_closed_one_comes_back() {
    let dir = TempDir::new().unwrap();
    let (storage, found) = open(dir.path(), RealDisk).await;
    assert_eq!(found.last, Position::default());
    assert!(found.tail.is_empty() && found.epochs.last().is_none());
    let records = vec![record(2, 1, vec![]), put(2, 2, "a", 5), put(2, 3, "b", 6)];
    commit(&storage, records.clone()).await;
    storage
        .promise(Epoch(2), Some(Bytes::from_static(b"state")))
        .await
        .unwrap();
    assert_eq!(storage.applied(), (Index(3), Version::from_bits(30)));
    storage.close().await.unwrap();
    storage.close().await.unwrap();
    assert!(matches!(
        storage.append(vec![put(2, 4, "c", 1)]),
        Err(StorageError::Closed)
    ));

    let (storage, again) = open(dir.path(), RealDisk).await;
    assert_eq!(again.log_id, found.log_id);
    assert_eq!(again.last, records[2].position);
    assert_eq!((again.applied, again.commit), (Index(3), Index(3)));
    assert_eq!(again.clock, Version::from_bits(30));
    assert!(again.tail.is_empty());
    assert_eq!(
        again.epochs.iter().collect::<Vec<_>>(),
        vec![(Epoch(2), Index(1))]
    );
    assert_eq!(again.promised, Epoch(2));
    assert_eq!(again.cluster_state.as_deref(), Some(&b"state"[..]));
    assert_eq!(storage.get(key("a").as_bytes()), Residence::Unknown);
    let keys = [key("a"), key("b"), key("c")];
    Model::of(&records)
        .check(&storage, &keys, "after restart")
        .await;
    // What was loaded is kept.
    assert!(matches!(
        storage.get(key("a").as_bytes()),
        Residence::Found(_)
    ));
    storage.close().await.unwrap();
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let dir = TempDir::new().unwrap();
    let (storage, _) = open(dir.path(), RealDisk).await;
    let second = Storage::open(settings(dir.path()), Arc::new(RealDisk)).await;
    let refused = second.err().unwrap();
    assert!(matches!(refused, StorageError::Locked { .. }));
    assert!(refused.to_string().contains("in use by another process"));
    storage.close().await.unwrap();
    open(dir.path(), RealDisk).await.0.close().await.unwrap();
}

#[tokio::test]
async fn a_checkpoint_lets_old_segments_go_and_pinned_bytes_fall() {
    let dir = TempDir::new().unwrap();
    let (storage, _) = open(dir.path(), RealDisk).await;
    let records: Vec<_> = (1..=200)
        .map(|index| put(1, index, &format!("k{index}"), 500))
        .collect();
    commit(&storage, records).await;
    let before = storage.report();
    assert!(before.segments > 5 && before.pinned_bytes > 100_000);
    assert_eq!(before.stored, Index::ZERO);
    storage.checkpoint().await.unwrap();
    // The log's thread removes the files later; a durable later record shows that it did.
    commit(&storage, vec![put(1, 201, "k", 1)]).await;
    storage.checkpoint().await.unwrap();
    let after = storage.report();
    assert_eq!(after.stored, Index(201));
    assert_eq!(after.pinned_bytes, 0);
    assert_eq!(after.clean_entries, 201);
    storage.close().await.unwrap();
    assert!(storage.report().segments <= 2);
}

#[tokio::test]
async fn memory_may_be_limited_while_running_and_nothing_is_lost() {
    let dir = TempDir::new().unwrap();
    let (storage, _) = open(dir.path(), RealDisk).await;
    let records: Vec<_> = (1..=300)
        .map(|index| put(1, index, &format!("k{index}"), 50))
        .collect();
    let (model, keys) = (
        Model::of(&records),
        (1..=300).map(|nth| key(&format!("k{nth}"))),
    );
    let keys: Vec<_> = keys.collect();
    commit(&storage, records).await;
    storage.checkpoint().await.unwrap();
    assert_eq!(storage.report().clean_entries, 300);
    for (policy, max_records) in [
        (EvictionPolicy::Lru, 128),
        (EvictionPolicy::Lfu, 0),
        (EvictionPolicy::Fifo, 64),
    ] {
        storage.set_memory(MemoryLimits {
            policy,
            max_records,
            ..MemoryLimits::default()
        });
        assert!(storage.report().clean_entries as u64 <= max_records);
        model.check(&storage, &keys, "under another bound").await;
        // Most shards were asked for more keys than they may keep.
        let kept = storage.report().clean_entries as u64;
        assert!((max_records / 2..=max_records).contains(&kept), "{kept}");
    }
    storage.close().await.unwrap();
}

#[tokio::test]
async fn pressure_alone_triggers_a_checkpoint_and_makes_room() {
    let dir = TempDir::new().unwrap();
    let settings = StorageSettings {
        checkpoint_bytes: 20_000,
        pinned_limit_bytes: 50_000,
        ..settings(dir.path())
    };
    let (storage, _) = Storage::open(settings, Arc::new(RealDisk)).await.unwrap();
    for index in 1..=500 {
        deadline(commit(
            &storage,
            vec![put(1, index, &format!("k{index}"), 1_000)],
        ))
        .await;
        assert!(storage.report().pinned_bytes < 60_000);
    }
    assert!(storage.report().stored > Index::ZERO);
    storage.close().await.unwrap();
}

#[tokio::test]
async fn a_lost_log_gets_a_new_id_and_a_lost_node_state_is_refused() {
    let dir = TempDir::new().unwrap();
    let (storage, found) = open(dir.path(), RealDisk).await;
    let records = vec![put(4, 1, "a", 5), put(4, 2, "b", 6)];
    commit(&storage, records.clone()).await;
    storage.close().await.unwrap();
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();

    let (storage, again) = open(dir.path(), RealDisk).await;
    assert_ne!(again.log_id, found.log_id);
    assert_eq!(again.last, records[1].position);
    commit(&storage, vec![put(5, 3, "c", 7)]).await;
    storage.close().await.unwrap();
    let (storage, third) = open(dir.path(), RealDisk).await;
    assert_eq!(third.log_id, again.log_id);
    assert_eq!(
        third.epochs.iter().collect::<Vec<_>>(),
        vec![(Epoch(4), Index(1)), (Epoch(5), Index(3))]
    );
    storage.close().await.unwrap();

    std::fs::remove_file(dir.path().join("node-state")).unwrap();
    let refused = Storage::open(settings(dir.path()), Arc::new(RealDisk)).await;
    assert!(matches!(refused.err(), Some(StorageError::Damaged { .. })));
}

#[tokio::test]
async fn a_lost_store_is_rebuilt_from_a_whole_log_and_refused_with_a_part() {
    let dir = Path::new("/n");
    let disk = TestDisk::default();
    let (storage, _) = open(dir, disk.clone()).await;
    let mut records = vec![put(1, 1, "a", 5), put(1, 2, "b", 6)];
    commit(&storage, records.clone()).await;
    storage.close().await.unwrap();
    let lose_store = || disk.remove(&dir.join("store.sqlite")).unwrap();
    lose_store();
    let (storage, found) = open(dir, disk.clone()).await;
    assert_eq!(found.tail, shared(&records));
    storage.apply(&found.tail);
    for index in 3..100 {
        records.push(put(1, index, "c", 500));
        commit(&storage, vec![records[records.len() - 1].clone()]).await;
    }
    storage.close().await.unwrap();
    lose_store();
    let refused = Storage::open(settings(dir), Arc::new(disk)).await;
    let refused = refused.err().unwrap().to_string();
    assert!(
        refused.contains("the store ends with record 0:0"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_failed_sync_is_told_to_everyone_and_stops_storage() {
    let dir = Path::new("/n");
    let disk = TestDisk::default();
    let (storage, _) = open(dir, disk.clone()).await;
    disk.fail_syncs_after(0);
    storage.append(vec![put(1, 1, "a", 5)]).unwrap();
    let failure = deadline(storage.failed()).await;
    assert!(matches!(failure, StorageError::Io { .. }));
    deadline(storage.room()).await;
    let refused = storage.append(vec![put(1, 2, "a", 5)]);
    assert!(matches!(refused, Err(StorageError::Io { .. })));
    assert!(matches!(
        storage.checkpoint().await,
        Err(StorageError::Io { .. })
    ));
    assert!(storage.close().await.is_err());
}

/// The number of unstored outcomes is limited too: a few keys that are overwritten again and
/// again take no room.
#[tokio::test]
async fn outcomes_that_the_store_lacks_take_room_until_they_are_stored() {
    let dir = TempDir::new().unwrap();
    let (storage, _) = open(dir.path(), TestDisk::default()).await;
    let unstored = || storage.core.unstored_places.load(Ordering::Relaxed);
    for index in 1..=3 {
        commit(&storage, vec![put(1, index, "a", 5)]).await;
    }
    assert_eq!(unstored(), 3);
    storage
        .core
        .unstored_places
        .fetch_add(REQUEST_LIMIT - 3, Ordering::Relaxed);
    assert_eq!(storage.core.limit_reached(), Some("remembered_requests"));
    storage
        .core
        .unstored_places
        .fetch_sub(REQUEST_LIMIT - 3, Ordering::Relaxed);
    storage.checkpoint().await.unwrap();
    assert_eq!((unstored(), storage.core.limit_reached()), (0, None));
    storage.close().await.unwrap();
}

/// Up to three changes of different keys.
fn random_changes(random: &mut StdRng, names: &[String]) -> Vec<Change> {
    let mut changes = BTreeMap::new();
    for _ in 0..random.random_range(0..4) {
        let name = &names[random.random_range(0..names.len())];
        let value = random
            .random_bool(0.7)
            .then(|| vec![7; random.random_range(0..900)].into());
        changes.insert(name, value);
    }
    let changes = changes.into_iter();
    changes.map(|(name, value)| change(name, value)).collect()
}

/// Each epoch's first index.
fn epochs_of(log: &[Record]) -> Vec<(Epoch, Index)> {
    let mut epochs: Vec<(Epoch, Index)> = Vec::new();
    for Position { epoch, index } in log.iter().map(|record| record.position) {
        if epochs.last().is_none_or(|(last, _)| *last < epoch) {
            epochs.push((epoch, index));
        }
    }
    epochs
}

/// Random appends, applies, checkpoints and restarts against a model of the keys.
#[tokio::test]
async fn restarts_keep_exactly_the_committed_state() {
    for seed in 0..25 {
        let mut random = StdRng::seed_from_u64(seed);
        let dir = Path::new("/n");
        let disk = TestDisk::default();
        let names: Vec<String> = (0..20).map(|number| format!("k{number}")).collect();
        let keys: Vec<ItemKey> = names.iter().map(|name| key(name)).collect();
        let (mut storage, _) = open(dir, disk.clone()).await;
        let mut log: Vec<Record> = Vec::new();
        let (mut applied, mut epoch) = (0, 1);
        for step in 0..80 {
            let when = format!("in step {step} of seed {seed}");
            match random.random_range(0..20) {
                0..10 => {
                    let count = random.random_range(1..8);
                    let records: Vec<Record> = (0..count)
                        .map(|_| {
                            let index = log.len() as u64 + 1;
                            log.push(record(epoch, index, random_changes(&mut random, &names)));
                            log[log.len() - 1].clone()
                        })
                        .collect();
                    storage.append(records).unwrap();
                }
                10..15 => {
                    let to = random.random_range(applied..=log.len());
                    if to > applied {
                        durable(&storage, log[to - 1].position.index).await;
                        storage.apply(&log[applied..to]);
                        applied = to;
                    }
                }
                15..17 => storage.checkpoint().await.unwrap(),
                17 => {
                    storage.close().await.unwrap();
                    let found;
                    (storage, found) = open(dir, disk.clone()).await;
                    let stored = usize::try_from(found.applied.0).unwrap();
                    assert_eq!(stored, applied, "{when}");
                    assert_eq!(found.tail, shared(&log[stored..]), "{when}");
                    assert_eq!(
                        found.epochs.iter().collect::<Vec<_>>(),
                        epochs_of(&log),
                        "{when}"
                    );
                    epoch += 1;
                }
                _ => {}
            }
            Model::of(&log[..applied])
                .check(&storage, &keys, &when)
                .await;
        }
        storage.close().await.unwrap();
    }
}
