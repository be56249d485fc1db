//! A node of an earlier release that was killed: some of its writes are in its store, some only
//! in the log. All of them are there after the upgrade of the store's schema.

use std::path::PathBuf;

use tempfile::TempDir;
use tierkv_harness::fixture::{AnsweredOperation, Fixture, NamedWrite, State, item_key};

use super::*;
use crate::{
    Effects, Outcome, RealDisk, Repair, TailError,
    disk::{Tear, TestDisk},
    tail::Cursor,
};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/format-3");
const DIR: &str = "/node";
/// As it was when the fixture was made.
const SEGMENT_BYTES: u64 = 64 << 10;

fn fixture() -> Fixture {
    Fixture::read(Path::new(FIXTURE)).unwrap()
}

fn settings(dir: &Path) -> StorageSettings {
    StorageSettings {
        segment_bytes: SEGMENT_BYTES,
        // The log still has its records.
        log_retention: Duration::from_secs(600),
        ..super::settings(dir)
    }
}

async fn open(dir: &Path, disk: impl Disk, when: &str) -> (Arc<Storage>, Recovered) {
    let opened = Storage::open(settings(dir), Arc::new(disk)).await;
    opened.unwrap_or_else(|error| panic!("{when}: {error}"))
}

/// All files below `dir`, by their paths from there.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            let inner = self::files(&path).into_iter();
            files.extend(inner.map(|(below, content)| (name.join(below), content)));
        } else {
            files.push((name, std::fs::read(path).unwrap()));
        }
    }
    files
}

/// The node on a disk in memory.
fn left_behind(fixture: &Fixture) -> TestDisk {
    let files = files(&fixture.node()).into_iter();
    TestDisk::holding(files.map(|(path, content)| (Path::new(DIR).join(path), content)))
}

/// The node on the machine's disk.
fn copied(fixture: &Fixture) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (path, content) in files(&fixture.node()) {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    dir
}

async fn check_state(storage: &Storage, state: &State, when: &str) {
    let held = state.items.iter().map(|item| {
        let held = Item {
            version: Version::from_bits(item.version),
            expires: item.expires.map(Version::from_bits),
            value: Bytes::copy_from_slice(item.value.as_bytes()),
        };
        (item_key(&item.namespace, &item.key), Some(held))
    });
    let removed = state.removed.iter();
    let removed = removed.map(|removed| (item_key(&removed.namespace, &removed.key), None));
    let (keys, items): (Vec<_>, Vec<_>) = held.chain(removed).unzip();
    assert_eq!(storage.load(&keys).await.unwrap(), items, "{when}");
}

/// The remembered outcome of an answered write.
fn outcome(write: &NamedWrite) -> Outcome {
    let operations = write.operations.iter();
    Outcome {
        version: Version::from_bits(write.version),
        fingerprint: write.request().fingerprint(),
        existed: (operations.clone())
            .map(|operation| matches!(operation, AnsweredOperation::Delete { existed: true, .. }))
            .collect(),
        numbers: operations
            .filter_map(|operation| match operation {
                AnsweredOperation::Increment { number, .. } => Some(*number),
                _ => None,
            })
            .collect(),
    }
}

/// Every request is remembered, or all those are whose outcomes are in the store.
fn check_outcomes(storage: &Storage, fixture: &Fixture, stored_alone: bool, when: &str) {
    for write in &fixture.requests {
        let remembered = (write.stored || !stored_alone).then(|| outcome(write));
        let found = storage.outcome(&write.id().random);
        assert_eq!(found, remembered, "{when}: {}", write.name);
    }
}

/// The keys that are expired at the end of each stored time to live, and before it.
async fn check_expired(storage: &Storage, fixture: &Fixture, when: &str) {
    let with_end = (fixture.stored.items.iter())
        .filter_map(|item| Some((item, item.expires.map(Version::from_bits)?)));
    let with_end: Vec<_> = with_end.collect();
    for (_, end) in &with_end {
        for now in [Version::from_bits(end.to_bits() - 1), *end] {
            let over = with_end.iter().filter(|(_, end)| *end <= now);
            let mut over: Vec<_> = over
                .map(|(item, _)| {
                    let key = item_key(&item.namespace, &item.key);
                    (key, Version::from_bits(item.version))
                })
                .collect();
            let mut found = storage.expired(now, 1_000).await.unwrap();
            over.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, over, "{when}, at {now:?}");
        }
    }
}

/// Checks that a watch from the stored token gets its changes and no more.
async fn check_watch(storage: &Storage, fixture: &Fixture, when: &str) {
    let watch = &fixture.watch;
    let after = Cursor {
        position: watch.after.position(),
        version: watch.after.version(),
    };
    let mut tail = storage.tail(Some(after)).await.unwrap();
    let last = storage.applied().0;
    let mut told = Vec::new();
    while tail.cursor().position.index < last {
        let stretch = deadline(tail.read()).await.unwrap();
        for record in stretch.records() {
            let of_watch = (Effects::of(record).changes.iter())
                .filter(|change| change.key.namespace() == watch.namespace)
                .filter(|change| change.key.key().starts_with(watch.prefix.as_bytes()));
            told.extend(of_watch.map(|change| {
                let entry = Entry::of(&change.kind, record.version);
                let item = entry.item();
                let left = item.map(|item| (item.value.clone(), item.expires));
                (change.key.key(), record.version, left)
            }));
        }
    }
    let expected = watch.changes.iter().map(|change| {
        let value = change.value.clone().map(Bytes::from);
        let left = value.map(|value| (value, change.expires.map(Version::from_bits)));
        let key = Bytes::copy_from_slice(change.key.as_bytes());
        (key, Version::from_bits(change.version), left)
    });
    assert_eq!(told, expected.collect::<Vec<_>>(), "{when}");

    let other = Cursor {
        version: Version::from_bits(after.version.to_bits() + 1),
        ..after
    };
    let refused = storage.tail(Some(other)).await.err();
    assert!(
        matches!(refused, Some(TailError::Unknown(_))),
        "{when}: {refused:?}"
    );
}

/// Checks that the node has everything that it had. Stores nothing.
async fn check(dir: &Path, disk: impl Disk, fixture: &Fixture, when: &str) -> Arc<Storage> {
    let log = &fixture.log;
    let (storage, found) = open(dir, disk, when).await;
    let epochs = log.epochs.iter();
    let epochs = epochs.map(|begin| (Epoch(begin.epoch), Index(begin.first_index)));
    assert_eq!(
        found.epochs.iter().collect::<Vec<_>>(),
        epochs.collect::<Vec<_>>(),
        "{when}"
    );
    assert_eq!(found.last, log.last.position(), "{when}");
    assert_eq!(found.clock, log.last.version(), "{when}");
    assert_eq!(found.promised, Epoch(log.promised), "{when}");
    let stored = log.stored.position().index;
    assert_eq!(found.applied, stored, "{when}");
    let applied = (stored, log.stored.version());
    assert_eq!(storage.applied(), applied, "{when}");
    let tail: Vec<u64> = (found.tail.iter())
        .map(|record| record.position.index.0)
        .collect();
    let after = stored.next().0..=found.last.index.0;
    assert_eq!(tail, after.collect::<Vec<_>>(), "{when}");

    check_state(&storage, &fixture.stored, when).await;
    check_outcomes(&storage, fixture, true, when);
    check_expired(&storage, fixture, when).await;
    let oldest = storage.oldest_tombstone().await.unwrap();
    let expected = Version::from_bits(log.oldest_stored_tombstone);
    assert_eq!(oldest, Some(expected), "{when}");

    storage.apply(&found.tail);
    check_state(&storage, &fixture.complete, when).await;
    check_outcomes(&storage, fixture, false, when);
    check_watch(&storage, fixture, when).await;
    storage
}

#[test]
fn the_list_tells_of_every_kind_of_write() {
    let fixture = fixture();
    let is_in = |state: &State, key: &str| state.items.iter().any(|item| item.key == key);
    assert!(is_in(&fixture.stored, "tail/removed") && !is_in(&fixture.complete, "tail/removed"));
    let with_end = |state: &State| {
        let items = state.items.iter();
        items.filter(|item| item.expires.is_some()).count()
    };
    assert!(with_end(&fixture.stored) > 3);
    let outcomes: Vec<_> = fixture.requests.iter().map(outcome).collect();
    assert!(outcomes.iter().any(|outcome| outcome.numbers.len() > 1));
    assert!(outcomes.iter().any(|outcome| outcome.existed.contains(17)));
    for stored in [true, false] {
        let requests = fixture.requests.iter();
        let requests = requests.filter(|write| write.stored == stored);
        assert!(requests.count() > 3, "stored: {stored}");
    }
    let segments = std::fs::read_dir(fixture.node().join("log")).unwrap();
    assert_eq!(segments.count(), 2);
}

#[tokio::test]
async fn it_opens_with_everything_as_often_as_it_is_killed() {
    let fixture = fixture();
    let disk = left_behind(&fixture);
    drop(check(Path::new(DIR), disk.clone(), &fixture, "in memory").await);
    let disk = disk.crash(1, Tear::AnyOrder);
    drop(check(Path::new(DIR), disk, &fixture, "after a power cut").await);

    let dir = copied(&fixture);
    for when in ["on the machine", "on the machine once more"] {
        drop(check(dir.path(), RealDisk, &fixture, when).await);
        deadline(until_free(dir.path())).await;
    }
}

/// Waits until the parts of a dropped storage have ended, and with them its lock.
async fn until_free(dir: &Path) {
    while RealDisk.lock(&dir.join("lock")).unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_the_log_alone_held_goes_to_the_store_with_everything_else() {
    let fixture = fixture();
    let dir = copied(&fixture);
    let storage = check(dir.path(), RealDisk, &fixture, "at first").await;
    storage.close().await.unwrap();

    let when = "after a checkpoint";
    let (storage, found) = open(dir.path(), RealDisk, when).await;
    assert_eq!((found.applied, found.tail.len()), (found.last.index, 0));
    assert_eq!(found.last, fixture.log.last.position());
    check_state(&storage, &fixture.complete, when).await;
    check_outcomes(&storage, &fixture, false, when);
    check_watch(&storage, &fixture, when).await;
    let oldest = fixture.complete.removed.iter().map(|key| key.version).min();
    let found = storage.oldest_tombstone().await.unwrap();
    assert_eq!(found, oldest.map(Version::from_bits));
    storage.close().await.unwrap();
}

#[tokio::test]
async fn an_examination_finds_nothing_wrong_and_changes_nothing() {
    let fixture = fixture();
    let disk = left_behind(&fixture);
    let calls = disk.calls();
    let examined = Repair::examine(settings(Path::new(DIR)), Arc::new(disk.clone())).await;
    let repair = examined.unwrap();
    assert_eq!(disk.calls(), calls);
    assert_eq!(repair.findings(), []);
    assert_eq!(repair.kept(), fixture.log.last.position());
    drop(repair);
    drop(check(Path::new(DIR), disk, &fixture, "after an examination").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_call_of_the_opening_loses_nothing() {
    let fixture = fixture();
    let left = left_behind(&fixture);
    for calls in 0.. {
        let disk = left.fork();
        disk.cut_after(calls);
        let opened = Storage::open(settings(Path::new(DIR)), Arc::new(disk.clone())).await;
        let is_through = opened.is_ok();
        for seed in 0..2 {
            let booted = disk.fork().crash(seed, Tear::AnyOrder);
            let when = format!("cut after {calls} calls, seed {seed}");
            drop(check(Path::new(DIR), booted, &fixture, &when).await);
        }
        if is_through {
            assert!(calls > 3, "{calls}");
            break;
        }
    }
}

#[tokio::test]
async fn a_full_disk_leaves_everything_what_it_was() {
    let fixture = fixture();
    let mut refused = 0;
    for space in (0..).step_by(3_000) {
        let disk = left_behind(&fixture);
        disk.set_space(Some(space));
        let opened = Storage::open(settings(Path::new(DIR)), Arc::new(disk.clone())).await;
        let is_open = opened.is_ok();
        if let Err(error) = opened {
            assert!(error.is_passing(), "{space}: {error}");
            refused += 1;
        }
        let booted = disk.crash(space, Tear::AnyOrder);
        let when = format!("with {space} bytes");
        drop(check(Path::new(DIR), booted, &fixture, &when).await);
        if is_open {
            break;
        }
    }
    assert!(refused > 0, "there was always space");
}
