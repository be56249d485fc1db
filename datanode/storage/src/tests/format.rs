//! A node of the first release: its store has no page checksums.

use std::path::PathBuf;

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

use super::*;
use crate::{
    Problem, RealDisk, Repair, StorageError,
    disk::{Tear, TestDisk},
};

/// The files of such a node: records up to 20 are in the store, 21 to 23 in the log.
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/format-1");
const FILES: [&str; 3] = ["node-state", "store.sqlite", "log/00000000000000000002.log"];
const DIR: &str = "/node";

fn settings(dir: &Path) -> StorageSettings {
    StorageSettings {
        segment_bytes: 4096,
        ..super::settings(dir)
    }
}

fn left_behind() -> TestDisk {
    let files = FILES.map(|file| {
        let content = std::fs::read(Path::new(FIXTURE).join(file)).unwrap();
        (Path::new(DIR).join(file), content)
    });
    // Like the files of a killed process.
    let index = Path::new(DIR).join("store.sqlite-shm");
    TestDisk::holding(files.into_iter().chain([(index, vec![1; 100])]))
}

/// Files that only the rebuild or an earlier release needs.
fn left_overs(disk: &TestDisk) -> Vec<PathBuf> {
    let is_left_over = |path: &PathBuf| {
        let path = path.to_string_lossy();
        path.contains("sqlite.new") || path.ends_with("-shm") || path.ends_with("-journal")
    };
    disk.files().into_iter().filter(is_left_over).collect()
}

/// Opens the node, checks that everything is in it, and closes it.
async fn check(dir: &Path, disk: impl Disk, when: &str) {
    let opened = Storage::open(settings(dir), Arc::new(disk)).await;
    let (storage, found) = opened.unwrap_or_else(|error| panic!("{when}: {error}"));
    assert_eq!(found.last.index, Index(23), "{when}");
    assert_eq!(found.promised, Epoch(3), "{when}");
    assert_eq!(
        found.cluster_state.as_deref(),
        Some(&b"a cluster state"[..])
    );
    assert_eq!(
        found.epochs.iter().collect::<Vec<_>>(),
        [(Epoch(1), Index(1)), (Epoch(3), Index(5))]
    );
    assert_eq!((found.applied, found.tail.len()), (Index(20), 3), "{when}");
    storage.apply(&found.tail);
    let names = [
        "k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7", "pair", "late",
    ];
    let loaded = storage.load(&names.map(key)).await.unwrap();
    let long = |record: u64| format!("value {record}").repeat(20).into_bytes();
    let mut expected: Vec<Option<Vec<u8>>> = [16, 17, 18, 19, 20, 13, 14, 15]
        .map(|record| Some(long(record)))
        .to_vec();
    expected[1] = Some(b"tail".to_vec());
    expected[2] = None;
    expected.push(Some(b"with it".to_vec()));
    expected.push(Some(b"in the log alone".to_vec()));
    let loaded: Vec<_> = loaded
        .into_iter()
        .map(|item| item.map(|item| item.value.to_vec()))
        .collect();
    assert_eq!(loaded, expected, "{when}");
    // Nothing is stored: the next check finds the same.
    drop(storage);
}

#[tokio::test]
async fn it_opens_with_everything_and_its_pages_get_checksums() {
    let disk = left_behind();
    check(Path::new(DIR), disk.clone(), "in memory").await;
    let store = disk.content(&Path::new(DIR).join("store.sqlite")).unwrap();
    assert_eq!(store[20], 8);
    assert_eq!(left_overs(&disk), Vec::<PathBuf>::new());
    let disk = disk.crash(1, Tear::AnyOrder);
    check(Path::new(DIR), disk, "after the rebuild").await;

    let dir = TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("log")).unwrap();
    for file in FILES {
        std::fs::copy(Path::new(FIXTURE).join(file), dir.path().join(file)).unwrap();
    }
    check(dir.path(), RealDisk, "on the machine").await;
}

async fn examine(disk: &TestDisk) -> Result<Repair, StorageError> {
    let calls = disk.calls();
    let examined = Repair::examine(settings(Path::new(DIR)), Arc::new(disk.clone())).await;
    assert_eq!(disk.calls(), calls, "an examination changed something");
    examined
}

#[tokio::test]
async fn an_examination_reads_it_as_it_is() {
    let disk = left_behind();
    let repair = examine(&disk).await.unwrap();
    assert_eq!(repair.findings(), []);
    assert_eq!(repair.kept().index, Index(23));
    drop(repair);
    check(Path::new(DIR), disk, "after an examination").await;

    // With the write-ahead file, in which there is a row without a fitting checksum.
    let repair = examine(&killed().await).await.unwrap();
    let [finding] = repair.findings() else {
        panic!("{:?}", repair.findings());
    };
    assert_eq!(finding.problem, Problem::RowsDamaged);
    assert!(finding.what.contains("test\\x00more"), "{}", finding.what);

    // A page that is none: the log, which could help, does not reach back.
    let disk = left_behind();
    disk.damage(&Path::new(DIR).join("store.sqlite"), 4096, &[0xFF]);
    let refused = examine(&disk).await.err().unwrap().to_string();
    assert!(
        refused.contains("store.sqlite can't be recovered"),
        "{refused}"
    );
}

/// A store as the first release left it when it was killed: with what it wrote last in
/// the write-ahead file alone, the row of one more key.
async fn killed() -> TestDisk {
    let dir = TempDir::new().unwrap();
    let store = dir.path().join("store.sqlite");
    std::fs::copy(Path::new(FIXTURE).join("store.sqlite"), &store).unwrap();
    let options = SqliteConnectOptions::new().filename(&store);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("INSERT INTO item SELECT x'74657374006D6F7265', version, expires, value, 0 FROM item LIMIT 1")
        .execute(&mut connection)
        .await
        .unwrap();
    let disk = left_behind();
    for file in ["store.sqlite", "store.sqlite-wal"] {
        let content = std::fs::read(dir.path().join(file)).unwrap();
        let path = Path::new(DIR).join(file);
        let _ = disk.remove(&path);
        let file = disk.create(&path).unwrap();
        file.write_at(0, &content).unwrap();
        file.sync_data().unwrap();
    }
    disk.sync_dir(Path::new(DIR)).unwrap();
    connection.close().await.unwrap();
    disk
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_in_the_write_ahead_file_alone_comes_along_through_any_power_cut() {
    let killed = killed().await;
    for calls in 0.. {
        let disk = killed.fork();
        disk.cut_after(calls);
        let opened = Storage::open(settings(Path::new(DIR)), Arc::new(disk.clone())).await;
        let is_through = opened.is_ok();
        for seed in 0..3 {
            let booted = disk.fork().crash(seed, Tear::AnyOrder);
            let when = format!("cut after {calls} calls, seed {seed}");
            let opened = Storage::open(settings(Path::new(DIR)), Arc::new(booted)).await;
            let (storage, _) = opened.unwrap_or_else(|error| panic!("{when}: {error}"));
            // The row is there: its checksum, which is a wrong one, is looked at.
            let found = storage.load(&[key("more")]).await.unwrap_err().to_string();
            assert!(
                found.contains("the row of key test\\x00more"),
                "{when}: {found}"
            );
        }
        if is_through {
            assert!(calls > 20, "{calls}");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_call_of_the_rebuild_loses_nothing() {
    for calls in 0.. {
        let disk = left_behind();
        disk.cut_after(calls);
        let opened = Storage::open(settings(Path::new(DIR)), Arc::new(disk.clone())).await;
        let is_through = opened.is_ok();
        for seed in 0..3 {
            let booted = disk.fork().crash(seed, Tear::AnyOrder);
            let when = format!("cut after {calls} calls, seed {seed}");
            check(Path::new(DIR), booted.clone(), &when).await;
            assert_eq!(left_overs(&booted), Vec::<PathBuf>::new(), "{when}");
        }
        if is_through {
            assert!(calls > 20, "{calls}");
            break;
        }
    }
}

#[tokio::test]
async fn a_full_disk_leaves_the_old_store_what_it_was() {
    let mut refused = 0;
    for space in (0..200_000).step_by(3_000) {
        let disk = left_behind();
        disk.set_space(Some(space));
        match Storage::open(settings(Path::new(DIR)), Arc::new(disk.clone())).await {
            Ok(_) => break,
            Err(error) => {
                assert!(error.is_passing(), "{space}: {error}");
                refused += 1;
            }
        }
        disk.set_space(None);
        check(Path::new(DIR), disk, &format!("with {space} bytes")).await;
    }
    assert!(refused > 3, "{refused}");
}
