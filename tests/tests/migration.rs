//! `kill -9` during the migration of an earlier release's data: the next start continues, and
//! all data is there.
//!
//! Each migration runs in a child process, which is this test binary started again. It opens
//! only the storage of a data node, not a whole platform.

// Test helpers panic as tests do, and the figures are for people.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{Rng, rngs::StdRng};
use tierkv_harness::{
    DataFolder, Process, Program, Surroundings,
    fixture::{Fixture, State, item_key},
};
use tierkv_storage::{Item, RealDisk, Storage, StorageSettings};
use tierkv_tests::{
    binary::repository,
    choices::{rounds, seeded},
};
use tierkv_types::{Epoch, Index, ItemKey, Position, Version};

/// The name of this test in the test binary.
const TEST: &str = "a_kill_during_a_migration_loses_nothing";
/// The environment variable with the directory that the child process opens.
const OPEN: &str = "TIERKV_TEST_OPEN";
const OPENED: &str = "the storage is open";
/// Directories of each release: the default of `TIERKV_KILL_ROUNDS`.
const ROUNDS: u64 = 20;
/// The most kills of a directory's start before it may finish.
const KILLS_A_ROUND: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(30);
/// The latest kill, relative to the duration of an undisturbed start.
const LATE: f64 = 1.2;

/// Data of an earlier release.
enum LeftBehind {
    /// A bare storage directory of the first release.
    First,
    /// The data directory of a platform, of the release whose store had schema version 3.
    Third(Box<Fixture>),
}

#[tokio::test]
async fn a_kill_during_a_migration_loses_nothing() {
    if let Some(dir) = env::var_os(OPEN) {
        open_and_stay(Path::new(&dir)).await;
    }
    let mut choices = seeded();
    let third = repository().join("datanode/storage/fixtures/format-3");
    let third = LeftBehind::Third(Box::new(Fixture::read(&third).unwrap()));
    for left_behind in [LeftBehind::First, third] {
        kill_its_migrations(&left_behind, &mut choices).await;
    }
}

async fn kill_its_migrations(left_behind: &LeftBehind, choices: &mut StdRng) {
    // The time to hit: from the start of the process to an open storage.
    let window = undisturbed(left_behind).await;
    let (mut early, mut late) = (0, 0);
    let rounds = rounds(ROUNDS);
    for _ in 0..rounds {
        let folder = left_behind.folder();
        for _ in 0..choices.random_range(1..=KILLS_A_ROUND) {
            let mut process = start(&folder);
            // Not a wait for a state: the process is to be killed at a random moment.
            let moment = window.mul_f64(choices.random_range(0.0..LATE));
            tokio::time::sleep(moment).await;
            process.kill9().unwrap();
            if process.log_tail().contains(OPENED) {
                late += 1;
            } else {
                early += 1;
            }
        }
        left_behind.check(&node_dir(&folder)).await;
    }
    let name = left_behind.name();
    println!(
        "{name}: a start takes {window:?}; {early} were killed before their end, {late} after it"
    );
    assert!(
        early >= rounds / 2,
        "{name}: only {early} kills came in time"
    );
}

impl LeftBehind {
    const fn name(&self) -> &'static str {
        match self {
            Self::First => "format 1",
            Self::Third(_) => "format 3",
        }
    }

    /// A copy of the data, with the data node's directory where a platform has it.
    fn folder(&self) -> DataFolder {
        let folder = DataFolder::new("migration").unwrap();
        let node = match self {
            Self::First => repository().join("datanode/storage/fixtures/format-1"),
            Self::Third(fixture) => fixture.node(),
        };
        folder.place(&node, Path::new("n1")).unwrap();
        folder
    }

    /// Opens the directory and checks that all data of the release is there.
    async fn check(&self, dir: &Path) {
        match self {
            Self::First => check_first(dir).await,
            Self::Third(fixture) => check_third(dir, fixture).await,
        }
    }
}

/// The child process: opens the storage and waits to be killed.
async fn open_and_stay(dir: &Path) {
    let opened = Storage::open(StorageSettings::new(dir), Arc::new(RealDisk)).await;
    let _storage = opened.unwrap();
    println!("{OPENED}");
    std::future::pending().await
}

fn node_dir(folder: &DataFolder) -> PathBuf {
    folder.data().join("n1")
}

fn start(folder: &DataFolder) -> Process {
    let program = Program {
        name: "migration",
        path: env::current_exe().unwrap(),
        remedy: "run this test through cargo",
    };
    let surroundings = Surroundings::default().set(OPEN, node_dir(folder).display());
    let arguments = ["--exact", TEST, "--nocapture"];
    Process::spawn_in(&program, arguments, folder, &surroundings).unwrap()
}

/// The duration of an undisturbed start, until the storage is open.
async fn undisturbed(left_behind: &LeftBehind) -> Duration {
    let folder = left_behind.folder();
    let began = Instant::now();
    let mut process = start(&folder);
    let opened = process.wait_until("open its storage", PATIENCE, |process| {
        process.check()?;
        Ok(process.log_tail().contains(OPENED).then(|| began.elapsed()))
    });
    let took = opened.await.unwrap();
    process.kill9().unwrap();
    left_behind.check(&node_dir(&folder)).await;
    took
}

async fn check_first(dir: &Path) {
    let opened = Storage::open(StorageSettings::new(dir), Arc::new(RealDisk)).await;
    let (storage, found) = opened.unwrap();
    let last = Position {
        epoch: Epoch(3),
        index: Index(23),
    };
    assert_eq!((found.last, found.applied), (last, Index(20)));
    assert_eq!(
        found.epochs.iter().collect::<Vec<_>>(),
        [(Epoch(1), Index(1)), (Epoch(3), Index(5))]
    );
    assert_eq!(
        found.cluster_state.as_deref(),
        Some(&b"a cluster state"[..])
    );
    let mut keys = vec![key("pair"), key("late"), key("absent")];
    let mut items = vec![Some(item(10, "with it")), None, None];
    for index in 13..=20 {
        keys.push(key(&format!("k{}", index % 8)));
        items.push(Some(item(index, &format!("value {index}").repeat(20))));
    }
    assert_eq!(storage.load(&keys).await.unwrap(), items);
    // The log continues where the store ends.
    storage.apply(&found.tail);
    let keys = [key("k1"), key("k2"), key("late")];
    let items = [
        Some(item(21, "tail")),
        None,
        Some(item(23, "in the log alone")),
    ];
    assert_eq!(storage.load(&keys).await.unwrap(), items);
    storage.close().await.unwrap();
}

async fn check_third(dir: &Path, fixture: &Fixture) {
    let opened = Storage::open(StorageSettings::new(dir), Arc::new(RealDisk)).await;
    let (storage, found) = opened.unwrap();
    let log = &fixture.log;
    assert_eq!(found.last, log.last.position());
    assert_eq!(found.applied, log.stored.position().index);
    let epochs = log.epochs.iter();
    let epochs = epochs.map(|begin| (Epoch(begin.epoch), Index(begin.first_index)));
    assert_eq!(
        found.epochs.iter().collect::<Vec<_>>(),
        epochs.collect::<Vec<_>>()
    );
    let oldest = storage.oldest_tombstone().await.unwrap();
    let expected = Version::from_bits(log.oldest_stored_tombstone);
    assert_eq!(oldest, Some(expected));
    check_state(&storage, &fixture.stored).await;
    // The log continues where the store ends.
    storage.apply(&found.tail);
    check_state(&storage, &fixture.complete).await;
    for write in &fixture.requests {
        let outcome = storage.outcome(&write.id().random).expect(&write.name);
        assert_eq!(outcome.version.to_bits(), write.version, "{}", write.name);
        assert_eq!(outcome.fingerprint, write.request().fingerprint());
    }
    storage.close().await.unwrap();
}

async fn check_state(storage: &Storage, state: &State) {
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
    assert_eq!(storage.load(&keys).await.unwrap(), items);
}

fn key(name: &str) -> ItemKey {
    ItemKey::new("test", name.as_bytes()).unwrap()
}

/// The item that the fixture's record `index` wrote.
fn item(index: u64, value: &str) -> Item {
    const BEGIN_MS: u64 = 1_700_000_000_000;
    Item {
        version: Version::from_bits((BEGIN_MS << 16) + (index << 16)),
        expires: None,
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}
