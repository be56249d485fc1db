//! Transfers from one directory to another, without a connection.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures::{
    StreamExt,
    future::poll_immediate,
    stream::{iter, poll_fn},
};
use tierkv_protocol::replication::Process;
use tierkv_rpc::proto::{
    internal::{SnapshotEnd, SnapshotHeader, SnapshotPart, snapshot_part::Kind},
    status::to_status,
};
use tierkv_storage::{
    Recovered, Storage, StorageError, StorageSettings,
    disk::{Tear, TestDisk},
};
use tierkv_types::{
    Change, ChangeKind, ClusterId, Epoch, Error, Incarnation, Index, ItemKey, LogId, NodeId,
    Payload, Position, Record, RequestId, SystemClock, Version, Write,
};
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::{
    joiners::Joiners,
    receiver::{Installed, ReceiveError, Target},
    source::Parts,
};

const OLD: &str = "/old";
const SOURCE: &str = "/source";
/// Records of the source: the log that it sends begins after the first few.
const RECORDS: u64 = 60;
const BEFORE_LOG: u64 = 20;
const OLD_RECORDS: u64 = 9;

fn settings(dir: &str) -> StorageSettings {
    StorageSettings {
        segment_bytes: 32 << 10,
        checkpoint_interval: Duration::from_secs(3_600),
        ..StorageSettings::new(dir)
    }
}

fn key(index: u64) -> ItemKey {
    ItemKey::new("default", format!("key-{index}").as_bytes()).unwrap()
}

fn position(epoch: u64, index: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        index: Index(index),
    }
}

fn record(epoch: u64, index: u64) -> Record {
    let mut random = [5; 16];
    random[..8].copy_from_slice(&index.to_le_bytes());
    Record {
        position: position(epoch, index),
        commit: Index(index - 1),
        version: Version::from_bits(index * 10),
        payload: Payload::Write(Write {
            request: RequestId {
                birth_millis: index,
                random,
            },
            fingerprint: 1,
            changes: vec![Change {
                key: key(index),
                kind: ChangeKind::Put {
                    value: Bytes::from(vec![epoch.to_le_bytes()[0]; 2_000]),
                    expires: None,
                },
            }],
        }),
    }
}

async fn commit(storage: &Storage, records: Vec<Record>) {
    storage.room().await;
    let last = records.last().unwrap().position;
    storage.append(records.clone()).unwrap();
    let mut durable = storage.durable();
    durable.wait_for(|at| *at >= last).await.unwrap();
    storage.apply(&records);
}

/// A directory with records of one epoch.
async fn filled(dir: &str, disk: &TestDisk, epoch: u64, count: u64) -> (Arc<Storage>, LogId) {
    let opened = Storage::open(settings(dir), Arc::new(disk.clone())).await;
    let (storage, found) = opened.unwrap();
    commit(&storage, (1..=count).map(|at| record(epoch, at)).collect()).await;
    (storage, found.log_id)
}

fn source() -> Process {
    Process {
        node: NodeId::new("n1").unwrap(),
        incarnation: Incarnation(77),
    }
}

fn target(disk: &TestDisk) -> Target {
    Target {
        cluster: ClusterId::new("c1").unwrap(),
        source: source(),
        settings: settings(OLD),
        clock: Arc::new(SystemClock),
        disk: Arc::new(disk.clone()),
    }
}

/// What a master sends.
async fn transfer() -> Vec<SnapshotPart> {
    let (storage, _) = filled(SOURCE, &TestDisk::default(), 3, RECORDS).await;
    let hold = storage.hold_log(Index(BEFORE_LOG));
    let snapshot = storage.node_snapshot(10_000).await.unwrap();
    let cut = snapshot.cut();
    let log = storage.tail_after(position(3, BEFORE_LOG)).await.unwrap();
    let header = SnapshotHeader {
        cluster: "c1".to_owned(),
        node: "n1".to_owned(),
        incarnation: 77,
        epoch: 3,
        cut_epoch: cut.position.epoch.0,
        cut_index: cut.position.index.0,
        cut_version: cut.version.to_bits(),
        log_epoch: 3,
        log_index: BEFORE_LOG,
        platform_time_ms: 1_234,
    };
    let joiners = Arc::new(Joiners::default());
    let node = NodeId::new("n2").unwrap();
    let sending = joiners.begin(node.clone(), hold, cut.position.index);
    let (parts, progress) = Parts::new(Box::new(|| header), snapshot, log, sending);
    let parts: Vec<SnapshotPart> = parts.stream().map(Result::unwrap).collect().await;
    assert!(progress.has_changed().is_err(), "the transfer has ended");
    assert_eq!(joiners.nodes(), [node], "the log is kept for the node");
    storage.close().await.unwrap();
    parts
}

async fn receive(disk: &TestDisk, parts: Vec<SnapshotPart>) -> Result<Installed, ReceiveError> {
    target(disk).receive(iter(parts.into_iter().map(Ok))).await
}

/// What a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Old,
    Nothing,
    New,
}

/// Opens the directory as soon as it is unlocked.
async fn open(disk: &TestDisk) -> (Arc<Storage>, Recovered) {
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        match Storage::open(settings(OLD), Arc::new(disk.clone())).await {
            Err(StorageError::Locked { .. }) => assert!(Instant::now() < limit, "still locked"),
            opened => return opened.unwrap(),
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Which of the three states the directory holds, wholly.
async fn holds(disk: &TestDisk, old_id: LogId) -> Holds {
    let (storage, found) = open(disk).await;
    storage.apply(&found.tail);
    let (holds, epoch, count) = match found.last.index.0 {
        _ if found.log_id == old_id => (Holds::Old, 1, OLD_RECORDS),
        0 => (Holds::Nothing, 0, 0),
        _ => (Holds::New, 3, RECORDS),
    };
    assert_eq!(found.last.index, Index(count));
    let keys: Vec<ItemKey> = (1..=RECORDS).map(key).collect();
    let items = storage.load(&keys).await.unwrap();
    for (index, item) in (1..).zip(items) {
        let version = item.as_ref().map(|item| item.version);
        let expected = (index <= count).then(|| Version::from_bits(index * 10));
        assert_eq!(version, expected, "key {index} of {holds:?}");
        let byte = item.and_then(|item| item.value.first().copied());
        assert_eq!(byte.unwrap_or(0), epoch * u8::from(index <= count));
    }
    if holds == Holds::New {
        // The log of the last minutes came, too.
        let mut tail = storage.tail_after(position(3, BEFORE_LOG)).await.unwrap();
        let first = tail.read().await.unwrap();
        let first = first.records().next().unwrap().position;
        assert_eq!(first, position(3, BEFORE_LOG + 1));
    }
    storage.close().await.unwrap();
    holds
}

/// A joining node's disk, with a state of its own.
async fn with_old_state() -> (TestDisk, LogId) {
    let disk = TestDisk::default();
    let (storage, log_id) = filled(OLD, &disk, 1, OLD_RECORDS).await;
    storage.close().await.unwrap();
    (disk, log_id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_is_sent_is_installed_with_its_log() {
    let parts = transfer().await;
    let (disk, old_id) = with_old_state().await;
    let installed = receive(&disk, parts).await.unwrap();
    assert_ne!(installed.log_id, old_id);
    assert_eq!(installed.cut, position(3, RECORDS));
    assert_eq!(installed.time.platform_millis, 1_234);
    assert_eq!(holds(&disk, old_id).await, Holds::New);
    assert_eq!(open(&disk).await.1.log_id, installed.log_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wherever_a_transfer_breaks_off_the_directory_starts() {
    let parts = transfer().await;
    let (disk, old_id) = with_old_state().await;
    let mut seen = Vec::new();
    for count in 0..parts.len() {
        // The master ends it, or fails, or this node stops.
        let sent = || iter(parts[..count].to_vec()).map(Ok);
        let failed: Status = to_status(&Error::unavailable("the master has gone"));
        for end in 0..3 {
            let disk = disk.fork();
            let target = target(&disk);
            let received = match end {
                0 => Some(target.receive(sent()).await),
                1 => Some(
                    target
                        .receive(sent().chain(iter([Err(failed.clone())])))
                        .await,
                ),
                _ => {
                    let is_taken = AtomicBool::new(false);
                    let silence = poll_fn(|_| {
                        // Everything before is installed now.
                        is_taken.store(true, Ordering::Relaxed);
                        Poll::Pending
                    });
                    let mut waiting = Box::pin(target.receive(sent().chain(silence)));
                    let limit = Instant::now() + Duration::from_secs(20);
                    while !is_taken.load(Ordering::Relaxed) {
                        assert!(poll_immediate(&mut waiting).await.is_none());
                        assert!(Instant::now() < limit, "it takes nothing");
                        sleep(Duration::from_millis(1)).await;
                    }
                    None
                }
            };
            if let Some(received) = received {
                let error = received.unwrap_err();
                let words = ["ends before its end", "not begin with a header", "has gone"];
                let error = error.to_string();
                assert!(words.iter().any(|it| error.contains(it)), "{error}");
            }
            let holds = holds(&disk, old_id).await;
            let expected = if count == 0 {
                Holds::Old
            } else {
                Holds::Nothing
            };
            assert_eq!(holds, expected, "after {count} parts, end {end}");
            seen.push(holds);
        }
    }
    assert!(seen.len() > 20 && seen.contains(&Holds::Old) && seen.contains(&Holds::Nothing));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_during_a_transfer_leaves_a_directory_that_starts() {
    let parts = transfer().await;
    let (disk, old_id) = with_old_state().await;
    let mut seen = Vec::new();
    for step in 0.. {
        let disk = disk.fork();
        // Every call of an installation is cut by the tests of storage.
        disk.cut_after(step * 7);
        let received = receive(&disk, parts.clone()).await;
        let is_cut = disk.is_cut();
        let booted = disk.fork().crash(step, Tear::AnyOrder);
        let holds = holds(&booted, old_id).await;
        assert!(received.is_err() || holds == Holds::New);
        seen.push(holds);
        if !is_cut {
            break;
        }
    }
    for wanted in [Holds::Old, Holds::Nothing, Holds::New] {
        assert!(seen.contains(&wanted), "{wanted:?}");
    }
}

/// Transfers of which something is missing or wrong, and what the directory holds after each.
fn unsound(parts: &[SnapshotPart]) -> Vec<(&'static str, Vec<SnapshotPart>, Holds)> {
    let is_piece = |part: &SnapshotPart| matches!(part.kind, Some(Kind::Piece(_)));
    let is_log = |part: &SnapshotPart| matches!(part.kind, Some(Kind::Log(_)));
    let piece = parts.iter().position(is_piece).unwrap();
    let log = parts.iter().position(is_log).unwrap();
    let last = parts.len() - 1;
    let changed = |at: usize, kind: Kind| {
        let mut parts = parts.to_vec();
        parts[at] = SnapshotPart { kind: Some(kind) };
        parts
    };
    let without = |at: usize| {
        let mut parts = parts.to_vec();
        parts.remove(at);
        parts
    };
    let (Some(Kind::Header(header)), Some(Kind::End(end))) = (&parts[0].kind, &parts[last].kind)
    else {
        panic!("it begins with a header and ends with an end")
    };
    let of_other = Kind::Header(SnapshotHeader {
        incarnation: 78,
        ..header.clone()
    });
    let miscounted = Kind::End(SnapshotEnd {
        records: end.records + 1,
        ..*end
    });
    let mut twice = parts.to_vec();
    twice.insert(piece, parts[0].clone());
    let none = Bytes::from_static(b"none");
    vec![
        ("no header", without(0), Holds::Old),
        ("another process", changed(0, of_other), Holds::Old),
        ("a piece less", without(piece), Holds::Nothing),
        ("no log", without(log), Holds::Nothing),
        ("no end", without(last), Holds::Nothing),
        ("another end", changed(last, miscounted), Holds::Nothing),
        ("two headers", twice, Holds::Nothing),
        (
            "no piece",
            changed(piece, Kind::Piece(none.clone())),
            Holds::Nothing,
        ),
        ("no records", changed(log, Kind::Log(none)), Holds::Nothing),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_whole_or_of_another_master_is_not_installed() {
    let parts = transfer().await;
    let (disk, old_id) = with_old_state().await;
    for (what, parts, left) in unsound(&parts) {
        let disk = disk.fork();
        let refused = receive(&disk, parts).await;
        assert!(refused.is_err(), "{what} was installed");
        assert_eq!(holds(&disk, old_id).await, left, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_old_store_is_set_aside() {
    let parts = transfer().await;
    let (disk, old_id) = with_old_state().await;
    let store = Path::new("/old/store.sqlite");
    disk.damage(store, 0, &[0x5A; 64]);
    receive(&disk, parts).await.unwrap();
    assert_eq!(holds(&disk, old_id).await, Holds::New);
    let aside = Path::new("/old/store.sqlite.before-rejoin");
    assert!(disk.content(aside).is_some(), "{:?}", disk.files());
}
