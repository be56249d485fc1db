//! The store over a disk that fails at a chosen step.

use std::{
    io,
    path::Path,
    sync::atomic::{AtomicU8, Ordering},
};

use super::*;
use crate::election::Standing;

const NONE: u8 = 0;
const WRITE: u8 = 1;
const RENAME: u8 = 2;
const SYNC_DIRECTORY: u8 = 3;
/// The rename is done, but reported as failed.
const RENAME_UNHEARD: u8 = 4;

/// A disk on which one kind of step fails, every time.
#[derive(Clone, Default)]
struct FaultyDisk {
    failing: Arc<AtomicU8>,
}

impl FaultyDisk {
    fn fail(&self, step: u8) {
        self.failing.store(step, Ordering::SeqCst);
    }

    fn check(&self, step: u8) -> io::Result<()> {
        if self.failing.load(Ordering::SeqCst) == step {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }
}

impl Disk for FaultyDisk {
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.check(WRITE) {
            // Some of it fits.
            LocalDisk.write(path, &bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        LocalDisk.write(path, bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check(RENAME)?;
        LocalDisk.rename(from, to)?;
        self.check(RENAME_UNHEARD)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.check(SYNC_DIRECTORY)?;
        LocalDisk.sync_directory(directory)
    }
}

struct Fixture {
    directory: tempfile::TempDir,
    disk: FaultyDisk,
    store: Arc<MemoryCoordination>,
    created: Revision,
}

async fn fixture() -> Fixture {
    let directory = tempfile::TempDir::new().unwrap();
    let disk = FaultyDisk::default();
    let store = MemoryCoordination::open_on(directory.path(), disk.clone()).unwrap();
    let created = store.put_if_absent("key", text("old")).await.unwrap();
    Fixture {
        directory,
        disk,
        store,
        created: created.won().unwrap(),
    }
}

impl Fixture {
    async fn swap(&self, value: &'static str) -> Result<Swap, CoordinationError> {
        self.store
            .compare_and_swap("key", self.created, text(value))
            .await
    }

    async fn value(&self) -> Bytes {
        self.store.get("key").await.unwrap().unwrap().value
    }

    /// The image that a process would read after a crash at this moment.
    fn on_disk(&self) -> Image {
        let bytes = std::fs::read(self.directory.path().join("coordination.json")).unwrap();
        Image::decode(&bytes).unwrap()
    }
}

fn text(value: &'static str) -> Bytes {
    Bytes::from_static(value.as_bytes())
}

#[tokio::test]
async fn a_change_that_never_reached_the_file_is_certainly_not_made() {
    let fixture = fixture().await;
    let watched = fixture.store.watch("key").await.unwrap();
    for step in [WRITE, RENAME] {
        fixture.disk.fail(step);
        let failed = fixture.swap("new").await;
        assert!(
            matches!(failed, Err(CoordinationError::Storage(_))),
            "{failed:?}"
        );
        assert_eq!(fixture.value().await, "old");
        assert_eq!(fixture.on_disk().records["key"].value, "old");
    }
    assert_eq!(
        watched.current().as_ref().as_ref().unwrap().revision,
        fixture.created
    );
    fixture.disk.fail(NONE);
    assert!(fixture.swap("new").await.unwrap().won() > Some(fixture.created));
    assert_eq!(fixture.on_disk().records["key"].value, "new");
}

/// COORD-CAS: the change may be on disk, so it is neither visible nor refused, and a later change
/// with a greater revision settles it.
#[tokio::test]
async fn a_change_that_may_be_durable_is_of_unknown_outcome() {
    for step in [SYNC_DIRECTORY, RENAME_UNHEARD] {
        let fixture = fixture().await;
        fixture.disk.fail(step);
        let unknown = fixture.swap("perhaps").await;
        assert!(
            matches!(unknown, Err(CoordinationError::OutcomeUnknown(_))),
            "{unknown:?}"
        );
        assert_eq!(fixture.value().await, "old", "not durable, yet visible");
        let perhaps = fixture.on_disk().records["key"].clone();
        assert_eq!(perhaps.value, "perhaps", "the disk was to take it");

        fixture.disk.fail(NONE);
        let settled = fixture.swap("settled").await.unwrap().won().unwrap();
        assert!(settled > perhaps.revision, "a revision was given twice");
        assert_eq!(fixture.on_disk().records["key"].value, "settled");
        assert_eq!(fixture.value().await, "settled");
    }
}

#[tokio::test]
async fn after_a_crash_a_change_of_unknown_outcome_is_there_or_not() {
    let fixture = fixture().await;
    fixture.disk.fail(SYNC_DIRECTORY);
    assert!(fixture.swap("perhaps").await.is_err());
    let on_disk = fixture.on_disk();
    let Fixture {
        directory, store, ..
    } = fixture;
    drop(store);
    let store = MemoryCoordination::open(directory.path()).unwrap();
    assert_eq!(
        store.get("key").await.unwrap().as_ref(),
        on_disk.records.get("key")
    );
    let next = store.put_if_absent("next", text("")).await.unwrap();
    assert!(next.won().unwrap() > on_disk.revision);
}

#[tokio::test]
async fn a_failed_nomination_leaves_no_candidate_and_burns_its_epoch() {
    let fixture = fixture().await;
    let mut burnt = Vec::new();
    for step in [WRITE, RENAME, SYNC_DIRECTORY, RENAME_UNHEARD] {
        fixture.disk.fail(step);
        let failed = fixture.store.nominate("office", "one", text("")).await;
        assert!(
            matches!(failed, Err(CoordinationError::Storage(_))),
            "{failed:?}"
        );
        burnt.push(fixture.on_disk().revision);
    }
    fixture.disk.fail(NONE);
    let candidacy = fixture
        .store
        .nominate("office", "one", text(""))
        .await
        .unwrap();
    let Standing::Leading(epoch) = candidacy.standing() else {
        panic!("nobody else stands: {candidacy:?}");
    };
    assert!(burnt.iter().all(|revision| revision.0 < epoch.0));
    assert!(
        fixture.on_disk().revision.0 >= epoch.0,
        "not durable, yet won"
    );
}

/// Leadership passes on without the disk: a dead disk must not keep a dead leader in office.
#[tokio::test]
async fn leadership_passes_on_over_a_failing_disk() {
    let fixture = fixture().await;
    let first = fixture
        .store
        .nominate("office", "one", text(""))
        .await
        .unwrap();
    let mut second = fixture
        .store
        .nominate("office", "two", text(""))
        .await
        .unwrap();
    fixture.disk.fail(WRITE);
    first.resign().await.unwrap();
    let epoch = second.leading().await.unwrap();
    assert!(fixture.on_disk().revision.0 >= epoch.0);
}

/// COORD-LEASE: when a thread sees the next leader, at the earliest moment, the old one has been
/// notified. It takes many rounds, because the time between the two signals is short.
#[tokio::test]
async fn no_thread_sees_two_leaders() {
    let store = MemoryCoordination::ephemeral();
    for _ in 0..2_000 {
        let old = store.nominate("office", "old", text("")).await.unwrap();
        let next = store.nominate("office", "next", text("")).await.unwrap();
        assert!(matches!(old.standing(), Standing::Leading(_)));
        let (ready, go) = std::sync::mpsc::channel();
        let watcher = std::thread::spawn(move || {
            ready.send(()).unwrap();
            while next.standing() == Standing::Waiting {
                std::hint::spin_loop();
            }
            (old.standing(), old, next)
        });
        go.recv().unwrap();
        assert!(store.expire("office", "old"));
        let (seen, ..) = watcher.join().unwrap();
        assert_eq!(seen, Standing::Lost, "two led at a time");
    }
}

/// When a caller goes away during a change, the change is either made, and then visible, or not
/// started.
#[tokio::test]
async fn a_cancelled_change_is_made_or_not_begun() {
    let fixture = fixture().await;
    for round in 0..50u32 {
        let key = format!("round/{round}");
        let change = fixture.store.put_if_absent(&key, text("value"));
        // Polled once, then dropped: the write goes on in the background.
        tokio::select! {
            biased;
            _ = change => {}
            () = std::future::ready(()) => {}
        }
        let nomination = fixture.store.nominate("office", "one", text(""));
        tokio::select! {
            biased;
            _ = nomination => {}
            () = std::future::ready(()) => {}
        }
    }
    // Changes are made one at a time, so this one comes after all of those.
    let last = fixture.store.put_if_absent("last", text("")).await.unwrap();
    let watched = fixture.store.watch_prefix("").await.unwrap();
    let on_disk = fixture.on_disk();
    assert_eq!(*watched.current(), on_disk.records);
    assert_eq!(Some(on_disk.revision), last.won());
    // A candidacy whose handle nobody received is resigned.
    let mut leader = fixture.store.observe_leader("office").await.unwrap();
    let end = tokio::time::timeout(
        std::time::Duration::from_secs(10),
        leader.wait_for(Option::is_none),
    );
    end.await.unwrap().unwrap();
}

#[tokio::test]
async fn channels_without_listeners_are_forgotten() {
    let store = MemoryCoordination::ephemeral();
    for round in 0..100 {
        let name = format!("name/{round}");
        drop(store.watch(&name).await.unwrap());
        drop(store.watch_prefix(&name).await.unwrap());
        drop(store.observe(&name).await.unwrap());
        drop(store.observe_leader(&name).await.unwrap());
        drop(store.join(&name, "one", text("")).await.unwrap());
        drop(store.nominate(&name, "one", text("")).await.unwrap());
    }
    let state = store.core.state();
    assert!(state.records.listened_to() <= 2);
    assert!(state.groups.len() <= 1);
    assert!(state.elections.len() <= 1);
}

#[test]
fn an_image_over_its_limit_is_refused_in_words() {
    let directory = tempfile::TempDir::new().unwrap();
    let (mut file, mut image) = ImageFile::open(directory.path(), LocalDisk).unwrap();
    let value = Bytes::from(vec![0; crate::limits::MAX_VALUE_BYTES]);
    for n in 1..=image_file::MAX_IMAGE_BYTES / value.len() {
        let revision = Revision(u64::try_from(n).unwrap());
        image.set(revision, &format!("large/{n}"), Some(value.clone()));
    }
    let refused = file.replace(&image).unwrap_err();
    assert!(matches!(refused, CoordinationError::Storage(_)));
    assert!(refused.to_string().contains("delete records"), "{refused}");
}
