//! Power cuts at each single call, full disks, failing syncs, and syncs without effect.

use tierkv_types::{Epoch, Index, LogId, Position};

use super::*;
use crate::{Row, Table, disk::Tear, state::epoch_row, store::StoreState};

const STORE: &str = "/n/store";
const KEYS: u64 = 40;
const ME: Incarnation = Incarnation(1);
/// Pages of the write-ahead file after which these stores write it back: few, so that it happens
/// often.
const WAL_PAGES: u32 = 12;

fn key(number: u64) -> ItemKey {
    ItemKey::new("n", format!("key-{number:04}").as_bytes()).unwrap()
}

fn meta(checkpoint: u64) -> StoreMeta {
    StoreMeta {
        log_id: LogId(if checkpoint == 0 { 0 } else { 7 }),
        applied: Position {
            epoch: Epoch(u64::from(checkpoint > 0)),
            index: Index(checkpoint),
        },
        clock: Version::from_bits(checkpoint * 2_000),
    }
}

/// The small tables after a checkpoint: the first begins an epoch, each writes a row of
/// another table, and every other one removes that again.
fn rows(checkpoint: u64) -> Vec<Row> {
    let epoch = (checkpoint > 0).then(|| epoch_row(Epoch(1), Index(1)));
    let other = changed_row(checkpoint).filter(|row| row.value.is_some());
    epoch.into_iter().chain(other).collect()
}

fn changed_row(checkpoint: u64) -> Option<Row> {
    let value = checkpoint.to_string().into_bytes();
    (checkpoint > 0).then(|| Row {
        table: Table::from_number(9),
        key: Bytes::from_static(b"row"),
        value: (!checkpoint.is_multiple_of(2)).then(|| value.into()),
    })
}

/// A key's item after a checkpoint: each checkpoint writes all keys, or removes them.
fn held(number: u64, checkpoint: u64) -> Option<Item> {
    let is_there = checkpoint > 0 && !(number + checkpoint).is_multiple_of(5);
    is_there.then(|| Item {
        version: Version::from_bits(checkpoint * 1_000 + number),
        expires: None,
        value: Bytes::from(vec![u8::try_from(number + checkpoint).unwrap(); 200]),
    })
}

async fn open_folding(disk: &TestDisk) -> Result<SqliteStore, StorageError> {
    let path = Path::new(STORE);
    let disk = Arc::new(disk.clone());
    let store = SqliteStore::open_folding(disk, path, WalSync::Always, WAL_PAGES).await?;
    let claimed = store.claim(ME).await;
    if let Err(error) = claimed {
        store.close().await;
        return Err(error);
    }
    Ok(store)
}

async fn checkpoint(store: &SqliteStore, nth: u64) -> Result<(), StorageError> {
    let entry = |number| match held(number, nth) {
        Some(item) => Entry::Value(item),
        None => Entry::Tombstone(Version::from_bits(nth)),
    };
    let epoch = (nth == 1).then(|| epoch_row(Epoch(1), Index(1)));
    let batch = CheckpointBatch {
        meta: meta(nth),
        rows: epoch.into_iter().chain(changed_row(nth)).collect(),
        changes: (0..KEYS)
            .map(|number| (key(number), entry(number)))
            .collect(),
        ..CheckpointBatch::default()
    };
    store.checkpoint(ME, batch).await
}

/// The last checkpoint in a disk's store, after a check of its content.
async fn standing(disk: &TestDisk) -> Result<u64, StorageError> {
    let store = open_folding(disk).await?;
    let read = async {
        let found = store.claim(ME).await?;
        let keys: Vec<ItemKey> = (0..KEYS).map(key).collect();
        Ok((found, store.get_many(&keys).await?))
    };
    let read = read.await;
    store.close().await;
    let (found, items) = read?;
    let nth = found.meta.applied.index.0;
    let (meta, rows) = (meta(nth), rows(nth));
    assert_eq!(found, StoreState { meta, rows });
    let expected: Vec<_> = (0..KEYS).map(|number| held(number, nth)).collect();
    assert_eq!(items, expected, "after checkpoint {nth}");
    Ok(nth)
}

/// Boots a disk after a power cut, in several ways, and checks that the store has exactly the
/// acknowledged checkpoint, or the one after it.
async fn check_after_cut(disk: &TestDisk, acknowledged: u64, when: &str) {
    for (seed, tear) in [
        (1, Tear::AnyOrder),
        (2, Tear::AnyOrder),
        (3, Tear::AnyOrder),
        (4, Tear::InOrder),
    ] {
        let booted = disk.fork().crash(seed, tear);
        let found = standing(&booted).await;
        let found = found.unwrap_or_else(|error| panic!("{when}, seed {seed}: {error}"));
        assert!(
            found == acknowledged || found == acknowledged + 1,
            "{when}, seed {seed}: checkpoint {found} instead of {acknowledged}"
        );
        // It goes on from there.
        assert_eq!(standing(&booted).await.unwrap(), found);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_call_of_the_first_start_leaves_nothing_or_a_store() {
    for calls in 0.. {
        let disk = TestDisk::default();
        disk.cut_after(calls);
        let opened = open_folding(&disk).await;
        let is_through = opened.is_ok();
        if let Ok(store) = opened {
            store.close().await;
        }
        let is_closed = disk.calls() < calls;
        check_after_cut(&disk, 0, &format!("cut after {calls} calls")).await;
        if is_closed {
            assert!(is_through && calls > 10);
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_call_loses_no_checkpoint() {
    let mut folded = false;
    for calls in 0.. {
        let disk = TestDisk::default();
        let store = open_folding(&disk).await.unwrap();
        let mut acknowledged = 0;
        checkpoint(&store, 1).await.unwrap();
        let before = disk.content(Path::new(STORE));
        disk.cut_after(calls);
        let first = disk.calls();
        // Two, so that the second one begins the write-ahead file anew; then the last
        // fold, of the closing.
        for nth in 2..=3 {
            acknowledged = nth - 1;
            if checkpoint(&store, nth).await.is_err() {
                break;
            }
            acknowledged = nth;
        }
        folded |= disk.content(Path::new(STORE)) != before;
        store.close().await;
        let is_closed = disk.calls() - first < calls;
        check_after_cut(&disk, acknowledged, &format!("cut after {calls} calls")).await;
        if is_closed {
            assert!(acknowledged == 3 && folded, "{acknowledged}");
            assert!(calls > 40, "{calls}");
            break;
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_a_checkpoint_and_is_survived() {
    let (mut refused, mut granted) = (0, 0);
    for space in (0..16_000).step_by(200) {
        let disk = TestDisk::default();
        let store = open_folding(&disk).await.unwrap();
        checkpoint(&store, 1).await.unwrap();
        disk.set_space(Some(space));
        let mut last = 1;
        for nth in 2..=4 {
            match checkpoint(&store, nth).await {
                Ok(()) => last = nth,
                Err(error) => {
                    assert!(
                        matches!(error, StorageError::NoSpace { .. }),
                        "{space}: {error}"
                    );
                    refused += 1;
                    break;
                }
            }
        }
        granted += u32::from(last == 4);
        // What it holds is whole, also on the disk.
        let keys: Vec<ItemKey> = (0..KEYS).map(key).collect();
        let expected: Vec<_> = (0..KEYS).map(|number| held(number, last)).collect();
        assert_eq!(store.get_many(&keys).await.unwrap(), expected, "{space}");
        assert_eq!(standing(&disk.fork()).await.unwrap(), last, "{space}");
        disk.set_space(None);
        checkpoint(&store, last + 1).await.unwrap();
        store.close().await;
        assert_eq!(standing(&disk).await.unwrap(), last + 1, "{space}");
    }
    assert!(refused > 5 && granted > 5, "{refused} {granted}");
}

#[tokio::test]
async fn a_failed_sync_is_final_also_while_folding() {
    let mut failures = 0;
    for syncs in 0.. {
        let disk = TestDisk::default();
        let store = open_folding(&disk).await.unwrap();
        checkpoint(&store, 1).await.unwrap();
        disk.fail_syncs_after(syncs);
        let (mut last, mut failure) = (1, None);
        for nth in 2..=4 {
            match checkpoint(&store, nth).await {
                Ok(()) => last = nth,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let Some(failure) = failure else {
            store.close().await;
            break;
        };
        failures += 1;
        let words = failure.to_string();
        assert!(matches!(failure, StorageError::Io { .. }), "{words}");
        assert!(words.contains("could not sync /n/store"), "{words}");
        assert!(words.contains("the disk failed"), "{words}");
        // The disk works again, but its lost writes are unknown.
        disk.fail_syncs_after(u64::MAX);
        let calls = disk.calls();
        let again = checkpoint(&store, last + 1).await.unwrap_err();
        assert!(matches!(again, StorageError::Io { .. }), "{again}");
        store.close().await;
        assert_eq!(disk.calls(), calls, "something was written or synced again");
        check_after_cut(&disk, last, &format!("failed after {syncs} syncs")).await;
    }
    // Checkpoints and folds both have theirs.
    assert!(failures > 4, "{failures}");
}

/// Takes checkpoints on a disk whose syncs have no effect, then cuts the power. Returns whether
/// any loss of unsynced writes shows it.
async fn shows_a_lie(lies: fn(&Path) -> bool) -> bool {
    for seed in 0..20 {
        let disk = TestDisk::default();
        disk.ignore_syncs(lies);
        let store = open_folding(&disk).await.unwrap();
        for nth in 1..=4 {
            checkpoint(&store, nth).await.unwrap();
        }
        let booted = disk.crash(seed, Tear::AnyOrder);
        store.close().await;
        match standing(&booted).await {
            Ok(4 | 5) => {}
            Ok(_) | Err(_) => return true,
        }
    }
    false
}

/// The tests above detect missing syncs: without any one sync they fail.
#[tokio::test]
async fn a_sync_that_lies_is_noticed_after_a_power_cut() {
    assert!(!shows_a_lie(|_| false).await);
    assert!(shows_a_lie(|path| path.ends_with("store-wal")).await);
    assert!(shows_a_lie(|path| path.ends_with("store")).await);
    assert!(shows_a_lie(|path| path.ends_with("n")).await);
}
