//! Truncation of a running storage: what is queued, written, durable, applied, and read meanwhile.

mod model;
mod race;

use std::task::{Context, Poll, Waker};

use super::*;
use crate::{
    RealDisk, Steps, StorageError, TruncateError,
    disk::TestDisk,
    store::{SqliteStore, Store},
};

const DIR: &str = "/n";

/// A record that carries the commit index `commit`. All records of an index and an epoch have one
/// version; those of another epoch have another one.
fn loose(epoch: u64, index: u64, commit: u64, length: usize) -> Record {
    let mut record = put(epoch, index, &format!("k{}", index % 7), length);
    record.commit = Index(commit);
    record.version = Version::from_bits(index * 1_000 + epoch);
    if let Payload::Write(write) = &mut record.payload {
        write.request.random[8..].copy_from_slice(&epoch.to_le_bytes());
    }
    record
}

fn loose_run(epoch: u64, indices: std::ops::RangeInclusive<u64>, length: usize) -> Vec<Record> {
    indices
        .map(|index| loose(epoch, index, 0, length))
        .collect()
}

fn at(epoch: u64, index: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        index: Index(index),
    }
}

fn small(disk: &TestDisk) -> (StorageSettings, Arc<dyn Disk>) {
    let settings = StorageSettings {
        segment_bytes: 4 << 10,
        log_retention: Duration::from_secs(3_600),
        ..settings(Path::new(DIR))
    };
    (settings, Arc::new(disk.clone()))
}

async fn opened(disk: &TestDisk) -> (Arc<Storage>, Recovered) {
    let (settings, disk) = small(disk);
    Storage::open(settings, disk).await.unwrap()
}

/// A storage whose log is written step by step.
async fn stepped(disk: &TestDisk) -> (Arc<Storage>, Recovered, Steps) {
    let (settings, disk) = small(disk);
    let path = settings.dir.join("store.sqlite");
    let store = SqliteStore::open(Arc::clone(&disk), &path, settings.sync);
    let store: Arc<dyn Store> = Arc::new(store.await.unwrap());
    let opened = Storage::open_stepped(settings, disk, store).await;
    opened.unwrap()
}

fn is_unknown(refused: &TruncateError, position: Position) -> bool {
    matches!(refused, TruncateError::Unknown(other) if *other == position)
}

fn position_of(log: &[Record], count: usize) -> Position {
    let last = count.checked_sub(1).map(|last| log[last].position);
    last.unwrap_or_default()
}

/// Polls once: on return the truncation is asked for.
fn begin<T>(truncation: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
    let mut context = Context::from_waker(Waker::noop());
    std::pin::Pin::new(truncation).poll(&mut context)
}

#[tokio::test]
async fn the_log_continues_at_the_cut_and_a_start_finds_only_that() {
    let disk = TestDisk::default();
    let (storage, _) = opened(&disk).await;
    let old = loose_run(1, 1..=60, 300);
    storage.append(old.clone()).unwrap();
    durable(&storage, Index(60)).await;
    storage.apply(&old[..10]);
    storage.checkpoint().await.unwrap();
    let segments = storage.report().segments;
    for other in [at(1, 61), at(2, 60), at(2, 30), at(0, 30)] {
        let refused = storage.truncate(other).await.unwrap_err();
        assert!(is_unknown(&refused, other), "{refused}");
    }
    storage.truncate(at(1, 60)).await.unwrap();
    storage.truncate(at(1, 23)).await.unwrap();
    assert_eq!(*storage.durable().borrow(), at(1, 23));
    assert_eq!(storage.report().durable, at(1, 23));
    assert!(storage.report().segments < segments);

    // A record that the cut took would be applied at an index that is durable again.
    let new = loose_run(3, 24..=40, 200);
    storage.append(new.clone()).unwrap();
    durable(&storage, Index(40)).await;
    let log: Vec<Record> = old[..23].iter().chain(&new).cloned().collect();
    storage.apply(&log[10..30]);
    // Versions may be below those of records that went.
    storage.truncate(at(3, 30)).await.unwrap();
    storage.append(vec![loose(4, 31, 30, 10)]).unwrap();
    durable(&storage, Index(31)).await;
    storage.close().await.unwrap();

    let (storage, found) = opened(&disk.kill()).await;
    assert_eq!(found.last, at(4, 31));
    assert_eq!(found.applied, Index(30));
    assert_eq!(found.tail, shared(&[loose(4, 31, 30, 10)]));
    let epochs = [(1, 1), (3, 24), (4, 31)].map(|(epoch, first)| (Epoch(epoch), Index(first)));
    assert_eq!(found.epochs.iter().collect::<Vec<_>>(), epochs);
    storage.close().await.unwrap();
    assert!(matches!(
        storage.truncate(at(4, 31)).await,
        Err(TruncateError::Storage(StorageError::Closed))
    ));
}

#[tokio::test]
async fn a_log_of_real_files_is_cut_in_any_of_its_segments() {
    let dir = tempfile::TempDir::new().unwrap();
    let (mut storage, _) = open(dir.path(), RealDisk).await;
    let mut log = loose_run(1, 1..=100, 900);
    storage.append(log.clone()).unwrap();
    // Sixteen records fill a segment: within the active one, at borders, and in older ones.
    for (epoch, after) in [(2, 99), (3, 96), (4, 96), (5, 80), (6, 41), (7, 1), (8, 0)] {
        log.truncate(after);
        let last = position_of(&log, after);
        deadline(storage.truncate(last)).await.unwrap();
        let first = after as u64 + 1;
        let more = loose_run(epoch, first..=first + 3, 900);
        storage.append(more.clone()).unwrap();
        log.extend(more);
        durable(&storage, Index(first + 3)).await;
        storage.close().await.unwrap();
        let found;
        (storage, found) = open(dir.path(), RealDisk).await;
        assert_eq!(found.tail, shared(&log), "after {after}");
    }
    storage.close().await.unwrap();
}

#[tokio::test]
#[should_panic(expected = "I1, REP-APPLY: record 1:7 is applied")]
async fn an_applied_record_is_never_cut_off() {
    let (storage, _) = opened(&TestDisk::default()).await;
    commit(&storage, loose_run(1, 1..=7, 10)).await;
    storage.truncate(at(1, 7)).await.unwrap();
    let _ = storage.truncate(at(1, 6)).await;
}

#[tokio::test]
#[should_panic(expected = "I3: record 1:6 is applied, but the log has one of another epoch")]
async fn a_record_that_was_cut_off_is_not_applied() {
    let (storage, _) = opened(&TestDisk::default()).await;
    let old = loose_run(1, 1..=7, 10);
    storage.append(old.clone()).unwrap();
    durable(&storage, Index(7)).await;
    storage.apply(&old[..5]);
    storage.truncate(at(1, 5)).await.unwrap();
    storage.append(loose_run(2, 6..=7, 10)).unwrap();
    durable(&storage, Index(7)).await;
    storage.apply(&old[5..6]);
}

/// Queued records go, or are written first, and nothing is accepted or applied meanwhile.
#[tokio::test]
async fn records_that_are_only_queued_go_too_and_none_are_accepted_meanwhile() {
    for (after, written) in [(3, 5), (5, 5), (9, 5), (20, 5), (0, 0), (4, 0), (2, 3)] {
        let disk = TestDisk::default();
        let (storage, _, mut steps) = stepped(&disk).await;
        let old = loose_run(1, 1..=20, 300);
        storage.append(old[..written].to_vec()).unwrap();
        while steps.write_log() {}
        storage.append(old[written..].to_vec()).unwrap();
        let position = at(u64::from(after > 0), after);
        let mut truncation = Box::pin(storage.truncate(position));
        assert!(begin(&mut truncation).is_pending());
        let refused = storage.append(loose_run(2, 21..=21, 1)).unwrap_err();
        assert!(matches!(refused, StorageError::Truncating), "{refused}");
        assert!(refused.is_passing());
        assert!(matches!(
            storage.truncate(position).await,
            Err(TruncateError::Storage(StorageError::Truncating))
        ));
        // It is carried out whether or not somebody waits.
        let is_dropped = after % 2 == 1;
        if is_dropped {
            drop(truncation);
            while steps.write_log() {}
        } else {
            while steps.write_log() {}
            truncation.await.unwrap();
        }
        assert_eq!(*storage.durable().borrow(), position);
        assert_eq!(storage.report().log_queue_bytes, 0);
        let new = loose_run(2, after + 1..=after + 8, 300);
        storage.append(new.clone()).unwrap();
        while steps.write_log() {}
        drop((storage, steps));
        let (storage, found) = opened(&disk.kill()).await;
        let kept = usize::try_from(after).unwrap();
        let log: Vec<Record> = old[..kept].iter().chain(&new).cloned().collect();
        assert_eq!(found.tail, shared(&log), "after {after}");
        storage.close().await.unwrap();
    }
}

#[tokio::test]
#[should_panic(expected = "or while it is cut off")]
async fn a_record_is_not_applied_while_it_is_cut_off() {
    let disk = TestDisk::default();
    let (storage, _, mut steps) = stepped(&disk).await;
    let records = loose_run(1, 1..=9, 10);
    storage.append(records.clone()).unwrap();
    while steps.write_log() {}
    let mut truncation = Box::pin(storage.truncate(at(1, 4)));
    assert!(begin(&mut truncation).is_pending());
    storage.apply(&records[..4]);
    storage.apply(&records[4..5]);
}
