//! Data that is set aside, so that a node of a cluster starts without it.

use std::path::PathBuf;

use tierkv_types::LogId;

use super::{
    installation::{of_platform, reopened, with_old_state},
    node_state_model::Whole,
    *,
};
use crate::{
    StorageError, Unusable,
    disk::{Tear, TestDisk},
    set_aside,
};

const DIR: &str = "/n";
/// How many of its records the node's store has.
const STORED: usize = 40;
/// The copies of a file that were set aside.
const ENDING: &str = ".before-rejoin";

async fn aside(disk: &TestDisk, unusable: Unusable) -> Result<Vec<PathBuf>, StorageError> {
    let settings = of_platform(Path::new(DIR));
    set_aside(settings, Arc::new(disk.clone()), unusable).await
}

/// Opens the directory as a node of a cluster does: what can't be used is set aside.
async fn start(disk: &TestDisk) -> (Arc<Storage>, Recovered) {
    for _ in 0..3 {
        let opened = Storage::open(of_platform(Path::new(DIR)), Arc::new(disk.clone())).await;
        match opened {
            Ok(opened) => return opened,
            Err(error) => {
                let unusable = error.unusable();
                let unusable = unusable.unwrap_or_else(|| panic!("it does not start: {error}"));
                aside(disk, unusable).await.unwrap();
            }
        }
    }
    panic!("it does not start though everything was set aside");
}

fn asides(disk: &TestDisk, begin: &str) -> usize {
    let names = disk.files().into_iter();
    let names = names.map(|path| path.to_string_lossy().into_owned());
    names
        .filter(|name| name.starts_with(begin) && name.contains(ENDING))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_log_a_node_has_what_its_store_had_and_another_log_id() {
    let disk = TestDisk::default();
    let (old_id, records) = with_old_state(Path::new(DIR), &disk).await;
    let names = aside(&disk, Unusable::Log).await.unwrap();
    assert!(!names.is_empty());
    let (storage, found) = reopened(Path::new(DIR), &disk).await;
    assert_ne!(found.log_id, old_id);
    assert_eq!(found.last, records[STORED - 1].position);
    assert_eq!(found.last.index, found.applied);
    assert_eq!(Whole::now(&storage).await, Whole::of(&records[..STORED]));
    storage.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_store_a_node_is_empty_and_one_copy_is_kept() {
    let disk = TestDisk::default();
    let mut log_ids = Vec::new();
    for _ in 0..3 {
        let (old_id, _) = with_old_state(Path::new(DIR), &disk).await;
        let names = aside(&disk, Unusable::Store).await.unwrap();
        let (storage, found) = reopened(Path::new(DIR), &disk).await;
        assert_eq!(found.last, Position::default());
        assert_eq!(Whole::now(&storage).await, Whole::of(&[]));
        storage.close().await.unwrap();
        log_ids.extend([old_id, found.log_id]);
        assert_eq!(asides(&disk, "/n/log/"), names.len() - 1);
        assert_eq!(asides(&disk, "/n/store.sqlite"), 1);
    }
    // The next state goes on with the log that the start made.
    log_ids.dedup();
    assert_eq!(log_ids.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_damaged_the_node_starts_with_another_log() {
    for (file, offset, kept) in [
        ("/n/node-state", 20, STORED),
        ("/n/log/00000000000000000001.log", 90, STORED),
        ("/n/store.sqlite", 3, 0),
    ] {
        let disk = TestDisk::default();
        let (old_id, records) = with_old_state(Path::new(DIR), &disk).await;
        let file = match disk.content(Path::new(file)) {
            Some(_) => PathBuf::from(file),
            // The log's first segments have left it.
            None => (disk.files().into_iter())
                .find(|path| path.starts_with("/n/log"))
                .unwrap(),
        };
        disk.damage(&file, offset, &[0x5A; 4]);
        let (storage, found) = start(&disk).await;
        assert_ne!(found.log_id, old_id, "{}", file.display());
        let holds = Whole::now(&storage).await;
        assert_eq!(holds, Whole::of(&records[..kept]), "{}", file.display());
        storage.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_another_platform_or_a_running_node_is_left_alone() {
    let disk = TestDisk::default();
    let (storage, _) = open(Path::new(DIR), disk.clone()).await;
    let refused = aside(&disk, Unusable::Store).await.unwrap_err();
    assert!(matches!(refused, StorageError::Locked { .. }), "{refused}");
    storage.close().await.unwrap();
    let disk = TestDisk::default();
    with_old_state(Path::new(DIR), &disk).await;
    let mut settings = of_platform(Path::new(DIR));
    settings.platform = settings
        .platform
        .map(|it| tierkv_types::PlatformId(it.0 + 1));
    let refused = set_aside(settings, Arc::new(disk.clone()), Unusable::Store).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.unusable(), None);
    assert!(matches!(refused, StorageError::OtherPlatform { .. }));
    assert_eq!(asides(&disk, DIR), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_call_leaves_a_directory_that_starts() {
    let disk = TestDisk::default();
    let (old_id, records) = with_old_state(Path::new(DIR), &disk).await;
    // An earlier copy is there, too.
    let earlier = disk.fork();
    aside(&earlier, Unusable::Store).await.unwrap();
    for (disk, old_id) in [(disk, old_id), {
        let (id, _) = with_old_state(Path::new(DIR), &earlier).await;
        (earlier, id)
    }] {
        for unusable in [Unusable::Log, Unusable::Store] {
            cut_everywhere(&disk, unusable, old_id, &records).await;
        }
    }
}

/// Cuts the power after each call that sets data aside.
async fn cut_everywhere(disk: &TestDisk, unusable: Unusable, old_id: LogId, records: &[Record]) {
    for calls in 0.. {
        let disk = disk.fork();
        disk.cut_after(calls);
        let done = aside(&disk, unusable).await;
        let is_cut = disk.is_cut();
        for (seed, tear) in [(1, Tear::AnyOrder), (2, Tear::InOrder)] {
            let when = format!("{unusable:?}, cut after {calls} calls, seed {seed}");
            let booted = disk.fork().crash(calls * 10 + seed, tear);
            let (storage, found) = start(&booted).await;
            storage.apply(&found.tail);
            let holds = Whole::now(&storage).await;
            let last = usize::try_from(found.last.index.0).unwrap();
            assert_eq!(holds, Whole::of(&records[..last]), "{when}");
            // Under its old id, the log is whole.
            let is_old = found.log_id == old_id;
            assert_eq!(is_old, last == records.len(), "{when}");
            assert!(!is_old || done.is_err(), "{when}");
            storage.close().await.unwrap();
        }
        if !is_cut {
            assert!(done.is_ok());
            return;
        }
    }
}
