//! Snapshots: each holds the state applied at its index, whatever happens meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tierkv_types::{Incarnation, ItemRange};
use tokio::{
    runtime::Builder,
    sync::{Semaphore, SemaphorePermit, oneshot},
    task::{spawn_blocking, yield_now},
};

use super::*;
use crate::{
    RealDisk, Snapshot, StorageError, Store, WalSync,
    disk::TestDisk,
    snapshot::MAX_UNTIDY_TIME,
    store::{
        CheckpointBatch, OPEN_SNAPSHOTS, StoreSnapshot,
        delegate::{Around, Wrapped},
    },
};

fn everything() -> ItemRange {
    ItemRange::of_prefix("test", b"").unwrap()
}

/// All items of a snapshot, read in pieces of `bytes`.
async fn read(snapshot: &mut Snapshot, bytes: usize) -> Vec<(ItemKey, Item)> {
    let mut found = Vec::new();
    loop {
        let some = snapshot.next(bytes).await.unwrap();
        if some.is_empty() {
            return found;
        }
        found.extend(some);
        yield_now().await;
    }
}

/// The values of all keys, by their names.
async fn values(storage: &Storage) -> Vec<(String, Bytes)> {
    let mut snapshot = storage.snapshot(everything()).await.unwrap();
    let found = read(&mut snapshot, 1 << 20).await.into_iter();
    found
        .map(|(key, item)| {
            let name = String::from_utf8(key.key().to_vec()).unwrap();
            (name, item.value)
        })
        .collect()
}

fn value(value: &'static str) -> Option<Bytes> {
    Some(Bytes::from_static(value.as_bytes()))
}

fn named<const N: usize>(values: [(&str, &'static str); N]) -> Vec<(String, Bytes)> {
    let values = values.into_iter();
    values
        .map(|(name, value)| (name.to_owned(), Bytes::from_static(value.as_bytes())))
        .collect()
}

impl Model {
    fn within(&self, range: &ItemRange) -> Vec<(ItemKey, Item)> {
        let items = self.0.iter();
        let within = items.filter(|(key, _)| range.contains(key.as_bytes()));
        within
            .map(|(key, item)| (key.clone(), item.clone()))
            .collect()
    }
}

const KEYS: u64 = 40;
const RECORDS: u64 = 1_500;

/// Records of up to four changes: puts, some of which expire, and deletes.
fn random_records(random: &mut StdRng) -> Vec<Record> {
    (1..=RECORDS)
        .map(|index| {
            let count = random.random_range(1..=4);
            let mut numbers: Vec<u64> = (0..count).map(|_| random.random_range(0..KEYS)).collect();
            numbers.sort_unstable();
            numbers.dedup();
            let changes = numbers.into_iter().map(|number| {
                let kind = match random.random_range(0..4) {
                    0 => ChangeKind::Delete { existed: true },
                    chosen => ChangeKind::Put {
                        value: vec![1; random.random_range(0..200)].into(),
                        expires: (chosen == 1)
                            .then(|| Version::from_bits(random.random_range(0..RECORDS * 10))),
                    },
                };
                Change {
                    key: key(&format!("{number:02}")),
                    kind,
                }
            });
            record(1, index, changes.collect())
        })
        .collect()
}

fn random_range(random: &mut StdRng) -> ItemRange {
    let mut ends = [random.random_range(0..=KEYS), random.random_range(0..=KEYS)];
    ends.sort_unstable();
    let [start, end] = ends.map(|number| format!("{number:02}"));
    match random.random_range(0..3) {
        0 => everything(),
        1 => ItemRange::of_prefix("test", &start.as_bytes()[..1]).unwrap(),
        _ => ItemRange::between("test", start.as_bytes(), end.as_bytes()).unwrap(),
    }
}

/// Takes snapshots of random ranges until `done`; returns how many it compared with `records`.
async fn take_snapshots(
    storage: Arc<Storage>,
    records: Arc<Vec<Record>>,
    done: Arc<AtomicBool>,
    seed: u64,
) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let mut taken = 0;
    while !done.load(Ordering::Acquire) {
        let range = random_range(&mut random);
        let before = storage.applied().0;
        let mut snapshot = storage.snapshot(range.clone()).await.unwrap();
        assert!(snapshot.index() >= before, "an older state than was seen");
        let upto = usize::try_from(snapshot.index().0).unwrap();
        let expected = Model::of(&records[..upto]).within(&range);
        let when = format!("{range:?} at {upto}, seed {seed}");
        if random.random() {
            let bytes = [1, 500, 1 << 20][random.random_range(0..3)];
            assert_eq!(read(&mut snapshot, bytes).await, expected, "{when}");
        } else {
            let now = Version::from_bits(random.random_range(0..RECORDS * 10));
            let live = expected.iter().filter(|(_, item)| item.is_live(now));
            let live = live.count() as u64;
            assert_eq!(snapshot.count(now).await.unwrap(), live, "{when}");
        }
        taken += 1;
    }
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_snapshot_holds_what_was_applied_at_its_index() {
    for seed in 0..4 {
        let mut random = StdRng::seed_from_u64(seed);
        let records = Arc::new(random_records(&mut random));
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
        let readers: Vec<_> = (0..3)
            .map(|nth| {
                let (storage, records) = (Arc::clone(&storage), Arc::clone(&records));
                let done = Arc::clone(&done);
                tokio::spawn(take_snapshots(storage, records, done, seed * 10 + nth))
            })
            .collect();
        for some in records.chunks(3) {
            commit(&storage, some.to_vec()).await;
        }
        done.store(true, Ordering::Release);
        checkpoints.await.unwrap();
        for reader in readers {
            assert!(reader.await.unwrap() > 0);
        }
        storage.close().await.unwrap();
    }
}

/// A store whose steps a test lets happen one by one.
#[derive(Debug)]
struct Stepped {
    store: Arc<dyn Store>,
    steps: Arc<Steps>,
}

#[derive(Debug)]
struct Steps {
    /// Checkpoints may begin to write; may report that they are written.
    write: Semaphore,
    written: Semaphore,
    /// Snapshots may be returned; so many were opened.
    hand_out: Semaphore,
    opened: Semaphore,
}

impl Steps {
    const MANY: usize = 1_000;

    /// Everything happens at once, until permits are taken away.
    fn new() -> Arc<Self> {
        let many = || Semaphore::new(Self::MANY);
        Arc::new(Self {
            write: many(),
            written: many(),
            hand_out: many(),
            opened: Semaphore::new(0),
        })
    }
}

async fn pass(step: &Semaphore) {
    deadline(step.acquire()).await.unwrap().forget();
}

fn hold(step: &Semaphore) {
    step.forget_permits(Steps::MANY);
}

fn go(step: &Semaphore) {
    step.add_permits(Steps::MANY);
}

#[async_trait]
impl Around for Stepped {
    fn inner(&self) -> &dyn Store {
        &*self.store
    }

    async fn snapshot(&self, range: &ItemRange) -> Result<Box<dyn StoreSnapshot>, StorageError> {
        let snapshot = self.store.snapshot(range).await?;
        self.steps.opened.add_permits(1);
        pass(&self.steps.hand_out).await;
        Ok(snapshot)
    }

    async fn checkpoint(
        &self,
        incarnation: Incarnation,
        batch: CheckpointBatch,
    ) -> Result<(), StorageError> {
        pass(&self.steps.write).await;
        self.store.checkpoint(incarnation, batch).await?;
        pass(&self.steps.written).await;
        Ok(())
    }
}

async fn stepped(dir: &TempDir) -> (Arc<Storage>, Arc<Steps>) {
    let steps = Steps::new();
    let around = |store| -> Arc<dyn Store> {
        let steps = Arc::clone(&steps);
        Arc::new(Wrapped(Stepped { store, steps }))
    };
    let opened = Storage::open_with(settings(dir.path()), Arc::new(RealDisk), around).await;
    (opened.unwrap().0, steps)
}

/// The store has old values of `a`, `b` and `c`.
async fn begun(storage: &Storage) {
    let old = ["a", "b", "c"].map(|name| change(name, value("old")));
    commit(storage, vec![record(1, 1, old.to_vec())]).await;
    storage.checkpoint().await.unwrap();
}

/// A record after which `a` is new, `b` is deleted and `d` is there.
fn changed() -> Record {
    let changes = vec![
        change("a", value("new")),
        change("b", None),
        change("d", value("new")),
    ];
    record(1, 2, changes)
}

#[tokio::test]
async fn frozen_entries_count_before_and_after_they_are_written() {
    for is_written in [false, true] {
        let dir = TempDir::new().unwrap();
        let (storage, steps) = stepped(&dir).await;
        begun(&storage).await;
        commit(&storage, vec![changed()]).await;
        let step = match is_written {
            false => &steps.write,
            true => &steps.written,
        };
        hold(step);
        let checkpoint = tokio::spawn({
            let storage = Arc::clone(&storage);
            async move { storage.checkpoint().await }
        });
        // It has frozen the entries once nothing is active any more.
        deadline(async {
            while storage.core.memory.active_bytes() > 0 {
                yield_now().await;
            }
        })
        .await;
        let expected = named([("a", "new"), ("c", "old"), ("d", "new")]);
        assert_eq!(values(&storage).await, expected);
        // Over the frozen ones come later changes.
        let later = vec![change("a", None), change("b", value("newer"))];
        commit(&storage, vec![record(1, 3, later)]).await;
        let expected = named([("b", "newer"), ("c", "old"), ("d", "new")]);
        assert_eq!(values(&storage).await, expected);
        let snapshot = storage.snapshot(everything()).await.unwrap();
        assert_eq!(snapshot.count(Version::ZERO).await.unwrap(), 3);
        go(step);
        deadline(checkpoint).await.unwrap().unwrap();
        assert_eq!(values(&storage).await, expected);
        storage.close().await.unwrap();
    }
}

/// Between the store's snapshot and the copy of pinned entries, entries move from memory to the
/// store: they are in neither, and the snapshot must be retried.
#[tokio::test]
async fn entries_that_go_to_the_store_meanwhile_are_not_lost() {
    let dir = TempDir::new().unwrap();
    let (storage, steps) = stepped(&dir).await;
    begun(&storage).await;
    commit(&storage, vec![changed()]).await;
    hold(&steps.hand_out);
    let found = tokio::spawn({
        let storage = Arc::clone(&storage);
        async move { values(&storage).await }
    });
    pass(&steps.opened).await;
    storage.checkpoint().await.unwrap();
    go(&steps.hand_out);
    let expected = named([("a", "new"), ("c", "old"), ("d", "new")]);
    assert_eq!(deadline(found).await.unwrap(), expected);
    pass(&steps.opened).await;
    storage.close().await.unwrap();
}

#[tokio::test]
async fn one_that_checkpoints_always_outrun_is_given_up() {
    let dir = TempDir::new().unwrap();
    let (storage, steps) = stepped(&dir).await;
    begun(&storage).await;
    hold(&steps.hand_out);
    let refused = tokio::spawn({
        let storage = Arc::clone(&storage);
        async move { storage.snapshot(everything()).await }
    });
    let opened = || {
        steps
            .opened
            .try_acquire()
            .map(SemaphorePermit::forget)
            .is_ok()
    };
    for index in 2.. {
        let mut again = false;
        until(|| {
            again = opened();
            again || refused.is_finished()
        })
        .await;
        if !again {
            break;
        }
        assert!(index < 100, "it never gave up");
        commit(&storage, vec![put(1, index, "a", 9)]).await;
        storage.checkpoint().await.unwrap();
        steps.hand_out.add_permits(1);
    }
    let refused = refused.await.unwrap();
    assert!(matches!(refused, Err(StorageError::Busy)), "{refused:?}");
    assert_eq!(storage.report().open_snapshots, 0);
    storage.close().await.unwrap();
}

#[tokio::test]
async fn no_more_are_open_than_the_limit_and_closing_waits_for_none() {
    let dir = TempDir::new().unwrap();
    let (storage, _) = open(dir.path(), RealDisk).await;
    commit(&storage, vec![put(1, 1, "a", 9)]).await;
    let mut taken = Vec::new();
    for _ in 0..OPEN_SNAPSHOTS {
        taken.push(storage.snapshot(everything()).await.unwrap());
    }
    let report = storage.report();
    assert_eq!(report.open_snapshots, report.open_snapshots_limit);
    let refused = storage.snapshot(everything()).await.unwrap_err();
    assert!(refused.to_string().contains("open_snapshots"), "{refused}");
    assert!(refused.is_passing());
    taken.pop();
    let mut again = storage.snapshot(everything()).await.unwrap();
    assert_eq!(read(&mut again, 1).await.len(), 1);
    drop((taken, again));
    deadline(storage.close()).await.unwrap();
    let closed = storage.snapshot(everything()).await;
    assert!(matches!(closed, Err(StorageError::Closed)), "{closed:?}");
}

/// Waits for a result of other tasks that needs no time to pass.
async fn until(mut is_so: impl FnMut() -> bool) {
    deadline(async {
        while !is_so() {
            yield_now().await;
        }
    })
    .await;
}

/// A copy of pinned entries continues when the caller of a snapshot is dropped, and keeps its
/// place until its end. A dropped caller that waits for its turn to copy frees its place at once.
#[test]
fn one_that_is_given_up_keeps_its_place_until_its_copy_is_over() {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let dir = TempDir::new().unwrap();
        let (storage, _) = open(dir.path(), RealDisk).await;
        commit(&storage, vec![put(1, 1, "a", 9)]).await;
        let opening = || {
            let storage = Arc::clone(&storage);
            tokio::spawn(async move { storage.snapshot(everything()).await })
        };
        let open_snapshots = || storage.report().open_snapshots;
        // No copy can begin as long as the only thread for it is taken.
        let (begin, begun) = oneshot::channel();
        let (end, ended) = oneshot::channel::<()>();
        let taking = spawn_blocking(move || {
            begin.send(()).unwrap();
            drop(ended.blocking_recv());
        });
        deadline(begun).await.unwrap();
        let first = opening();
        until(|| storage.core.open_snapshots.is_copying()).await;
        let second = opening();
        until(|| open_snapshots() == 2).await;
        for (given_up, left) in [(second, 1), (first, 1)] {
            given_up.abort();
            assert!(deadline(given_up).await.unwrap_err().is_cancelled());
            assert_eq!(open_snapshots(), left);
        }
        end.send(()).unwrap();
        until(|| open_snapshots() == 0).await;
        deadline(taking).await.unwrap();
        assert_eq!(values(&storage).await.len(), 1);
        storage.close().await.unwrap();
    });
}

/// After snapshots have kept the write-ahead file growing for long, the first one refused while
/// none is open requests the checkpoint that ends it.
#[tokio::test]
async fn they_pause_for_the_store_and_go_on_after_a_checkpoint() {
    let dir = TempDir::new().unwrap();
    let (storage, _) = open(dir.path(), RealDisk).await;
    commit(&storage, vec![put(1, 1, "a", 9)]).await;
    let long = storage.snapshot(everything()).await.unwrap();
    storage.checkpoint().await.unwrap();
    commit(&storage, vec![put(1, 2, "a", 9)]).await;
    tokio::time::pause();
    tokio::time::advance(MAX_UNTIDY_TIME).await;
    tokio::time::resume();
    let refused = storage.snapshot(everything()).await.unwrap_err();
    assert!(matches!(refused, StorageError::Untidy), "{refused}");
    assert!(refused.is_passing());
    drop(long);
    let again = deadline(async {
        loop {
            match storage.snapshot(everything()).await {
                Err(StorageError::Untidy) => yield_now().await,
                other => break other,
            }
        }
    })
    .await;
    assert_eq!(again.unwrap().index(), Index(2));
    assert_eq!(storage.generation(), 2);
    storage.close().await.unwrap();
}

#[tokio::test]
async fn what_they_hold_together_is_bounded() {
    let dir = TempDir::new().unwrap();
    let settings = StorageSettings {
        pinned_limit_bytes: 1_000,
        ..settings(dir.path())
    };
    let opened = Storage::open(settings, Arc::new(RealDisk)).await;
    let (storage, _) = opened.unwrap();
    commit(&storage, vec![put(1, 1, "a", 900)]).await;
    let first = storage.snapshot(everything()).await.unwrap();
    // While little was written since, they share their memory.
    let same = storage.snapshot(everything()).await.unwrap();
    drop(same);
    storage.checkpoint().await.unwrap();
    commit(&storage, vec![put(1, 2, "a", 900)]).await;
    let refused = storage.snapshot(everything()).await.unwrap_err();
    assert!(
        refused.to_string().contains("open_snapshot_bytes"),
        "{refused}"
    );
    assert_eq!(storage.report().open_snapshots, 1);
    drop(first);
    // Snapshots without pinned entries may be of any age.
    let elsewhere = ItemRange::of_prefix("test", b"b").unwrap();
    let holds_nothing = storage.snapshot(elsewhere).await.unwrap();
    storage.checkpoint().await.unwrap();
    commit(&storage, vec![put(1, 3, "a", 900)]).await;
    storage.snapshot(everything()).await.unwrap();
    drop(holds_nothing);
    storage.close().await.unwrap();
}
