//! Node snapshots: each is the whole state at its cut, whatever happens meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tierkv_types::ItemRange;

use super::{
    node_state_model::{Whole, records_of_every_kind},
    *,
};
use crate::{
    RealDisk, StorageError, WalSync,
    disk::TestDisk,
    recovery::STORE_FILE,
    snapshot::MAX_UNTIDY_TIME,
    store::{OPEN_SNAPSHOTS, tamper},
};

fn everything() -> ItemRange {
    ItemRange::of_prefix("test", b"").unwrap()
}

/// Compares node snapshots with the records until `done`; returns how many.
async fn take_snapshots(
    storage: Arc<Storage>,
    records: Arc<Vec<Record>>,
    done: Arc<AtomicBool>,
    seed: u64,
) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let mut taken = 0;
    while !done.load(Ordering::Acquire) {
        let before = storage.applied().0;
        let bytes = [1, 700, 1 << 20][random.random_range(0..3)];
        let snapshot = storage.node_snapshot(bytes).await.unwrap();
        let cut = snapshot.cut();
        assert!(cut.position.index >= before, "an older state than was seen");
        let upto = usize::try_from(cut.position.index.0).unwrap();
        let last = records[..upto].last().map(Cursor::of).unwrap_or_default();
        assert_eq!(cut, last);
        let expected = Whole::of(&records[..upto]);
        let found = Whole::read(snapshot).await;
        assert_eq!(found, expected, "at {upto}, seed {seed}");
        taken += 1;
    }
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_snapshot_holds_what_was_applied_at_its_cut() {
    for seed in 0..4 {
        let mut random = StdRng::seed_from_u64(seed);
        let records = Arc::new(records_of_every_kind(&mut random, 1_500, 200));
        let settings = StorageSettings {
            segment_bytes: 1 << 20,
            sync: WalSync::Never,
            ..settings(Path::new("/n"))
        };
        let disk = Arc::new(TestDisk::default());
        let (storage, _) = Storage::open(settings, disk).await.unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let checkpoints = tokio::spawn({
            let (storage, done) = (Arc::clone(&storage), Arc::clone(&done));
            async move {
                while !done.load(Ordering::Acquire) {
                    storage.checkpoint().await.unwrap();
                }
            }
        });
        let (storage_read, done_read) = (Arc::clone(&storage), Arc::clone(&done));
        let reader = take_snapshots(storage_read, Arc::clone(&records), done_read, seed);
        let reader = tokio::spawn(reader);
        for some in records.chunks(3) {
            commit(&storage, some.to_vec()).await;
        }
        done.store(true, Ordering::Release);
        checkpoints.await.unwrap();
        assert!(reader.await.unwrap() > 0);
        assert_eq!(Whole::now(&storage).await, Whole::of(&records));
        storage.close().await.unwrap();
    }
}

#[tokio::test]
async fn one_is_open_at_a_time_and_ranges_have_their_own_places() {
    let dir = TempDir::new().unwrap();
    let (storage, _) = open(dir.path(), RealDisk).await;
    commit(&storage, vec![put(1, 1, "a", 9)]).await;
    let mut open = Vec::new();
    for _ in 0..OPEN_SNAPSHOTS {
        open.push(storage.snapshot(everything()).await.unwrap());
    }
    let whole = storage.node_snapshot(1).await.unwrap();
    let refused = storage.node_snapshot(1).await.unwrap_err();
    assert!(refused.is_passing());
    let words = refused.to_string();
    assert!(words.contains("node_snapshots of 1"), "{words}");
    assert_eq!(storage.report().open_snapshots, OPEN_SNAPSHOTS);
    open.clear();
    assert_eq!(Whole::read(whole).await, Whole::of(&[put(1, 1, "a", 9)]));
    storage.node_snapshot(1).await.unwrap();
    storage.close().await.unwrap();
}

/// It stays open for longer than scans may keep the write-ahead file from being truncated.
#[tokio::test]
async fn scans_go_on_while_a_node_snapshot_is_open_for_long() {
    let dir = TempDir::new().unwrap();
    let (storage, _) = open(dir.path(), RealDisk).await;
    commit(&storage, vec![put(1, 1, "a", 9)]).await;
    let whole = storage.node_snapshot(1).await.unwrap();
    for index in 2..5 {
        commit(&storage, vec![put(1, index, "a", 9)]).await;
        storage.checkpoint().await.unwrap();
        tokio::time::pause();
        tokio::time::advance(MAX_UNTIDY_TIME).await;
        tokio::time::resume();
        let scanned = storage.snapshot(everything()).await.unwrap();
        assert_eq!(scanned.index(), Index(index));
    }
    assert_eq!(Whole::read(whole).await, Whole::of(&[put(1, 1, "a", 9)]));
    storage.close().await.unwrap();
}

#[tokio::test]
async fn damage_in_the_source_ends_a_node_snapshot() {
    for (sql, place) in [
        (
            "UPDATE item SET version = 1 WHERE version = 20",
            "row of key",
        ),
        ("UPDATE tombstone SET version = 1", "in tombstone"),
        ("UPDATE outcome SET newest = 1", "of outcome"),
    ] {
        let dir = Path::new("/n");
        let disk = TestDisk::default();
        let (storage, _) = open(dir, disk.clone()).await;
        commit(
            &storage,
            vec![
                put(1, 1, "a", 9),
                put(1, 2, "b", 9),
                record(1, 3, vec![change("c", None)]),
            ],
        )
        .await;
        storage.checkpoint().await.unwrap();
        let shared: Arc<dyn Disk> = Arc::new(disk);
        tamper(&shared, &dir.join(STORE_FILE), sql).await;
        let mut snapshot = storage.node_snapshot(1).await.unwrap();
        let damage = deadline(async {
            loop {
                match snapshot.next().await {
                    Ok(piece) => assert!(piece.is_some(), "it ends without an error"),
                    Err(error) => break error,
                }
            }
        })
        .await;
        assert!(matches!(damage, StorageError::Damaged { .. }), "{damage}");
        assert!(damage.to_string().contains(place), "{damage}");
        drop(snapshot);
        storage.close().await.unwrap();
    }
}

/// Closing does not wait for a reader that takes its time.
#[tokio::test]
async fn storage_closes_while_a_node_snapshot_is_open() {
    let dir = TempDir::new().unwrap();
    let (storage, _) = open(dir.path(), RealDisk).await;
    let records: Vec<Record> = (1..=2_000)
        .map(|index| put(1, index, &format!("k{index}"), 900))
        .collect();
    for some in records.chunks(100) {
        commit(&storage, some.to_vec()).await;
    }
    let mut snapshot = storage.node_snapshot(1).await.unwrap();
    snapshot.next().await.unwrap().unwrap();
    storage.close().await.unwrap();
    let (again, _) = open(dir.path(), RealDisk).await;
    again.close().await.unwrap();
    // What the spool has, or the reason why not.
    let rest = deadline(async {
        loop {
            match snapshot.next().await {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        }
    })
    .await;
    assert!(
        matches!(rest, Ok(()) | Err(StorageError::Closed)),
        "{rest:?}"
    );
}
