//! For each kind of damage: the refusal, the findings of an examination, the records that a
//! recovery keeps, and power cuts at every call of it.

use std::path::PathBuf;

use tierkv_types::LogId;

use super::*;
use crate::{
    Problem, Repair, Repaired, StorageError,
    disk::{Tear, TestDisk},
    node_state::NodeState,
    recovery,
};

/// Enough for several segments of the tests' size.
const RECORDS: u64 = 60;
/// The last record in a store that has only a part of them.
const STORED: u64 = 20;

/// The path of the node's directory.
const DIR: &str = "/node";

/// A node's directory.
struct Node {
    disk: TestDisk,
    /// The acknowledged records.
    log: Vec<Record>,
    log_id: LogId,
}

/// Puts, overwrites and deletes in two epochs.
fn history() -> Vec<Record> {
    (1..=RECORDS)
        .map(|index| {
            let name = format!("k{}", index % 17);
            let value = (!index.is_multiple_of(5)).then(|| {
                let byte = u8::try_from(index).unwrap();
                Bytes::from(vec![byte; 1_000])
            });
            record(1 + index / 33, index, vec![change(&name, value)])
        })
        .collect()
}

impl Node {
    /// A node whose power was cut after its last write was acknowledged; its store has the
    /// records up to `stored`.
    async fn cut_off(stored: u64) -> Self {
        let (disk, log) = (TestDisk::default(), history());
        let mut kept = settings(Path::new(DIR));
        // The log also keeps the records that the store has.
        kept.log_retention = std::time::Duration::from_secs(3_600);
        let opened = Storage::open(kept, Arc::new(disk.clone())).await;
        let (storage, found) = opened.unwrap();
        storage
            .promise(Epoch(7), Some(Bytes::from_static(b"seen")))
            .await
            .unwrap();
        let stored = usize::try_from(stored).unwrap();
        if stored > 0 {
            commit(&storage, log[..stored].to_vec()).await;
            storage.checkpoint().await.unwrap();
        }
        if stored < log.len() {
            commit(&storage, log[stored..].to_vec()).await;
        }
        let disk = disk.crash(0, Tear::InOrder);
        storage.core.store.close().await;
        Self {
            disk,
            log,
            log_id: found.log_id,
        }
    }

    /// The same directory on another disk.
    fn copy(&self) -> Self {
        Self {
            disk: self.disk.fork(),
            log: self.log.clone(),
            log_id: self.log_id,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(DIR).join(name)
    }

    fn segment(&self, number: u64) -> PathBuf {
        self.path(&format!("log/{number:020}.log"))
    }

    fn segments(&self) -> u64 {
        let files = self.disk.files();
        files
            .iter()
            .filter(|path| path.extension() == Some("log".as_ref()))
            .count() as u64
    }

    /// Removes a file for good.
    fn remove(&self, file: &Path) {
        self.disk.remove(file).unwrap();
        self.disk.sync_dir(file.parent().unwrap()).unwrap();
    }

    /// Makes the store unreadable.
    fn lose_store(&self) {
        let store = self.path("store.sqlite");
        let length = self.disk.content(&store).unwrap().len();
        self.disk.damage(&store, 0, &vec![b'x'; length]);
        self.remove(&self.path("store.sqlite-wal"));
    }

    fn flip(&self, file: &Path, offset: usize) {
        let byte = self.disk.content(file).unwrap()[offset];
        self.disk.damage(file, offset, &[byte ^ 0x20]);
    }

    /// The index of a segment's `nth` record, from 0, and its offset.
    fn record_in(&self, number: u64, nth: usize) -> (u64, usize) {
        let content = Bytes::from(self.disk.content(&self.segment(number)).unwrap());
        let mut at = 64;
        for _ in 0..nth {
            at += tierkv_types::record::decode(&content, at).unwrap().1;
        }
        let (record, _) = tierkv_types::record::decode(&content, at).unwrap();
        (record.position.index.0, at)
    }

    fn everything(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = self.disk.files().into_iter();
        files
            .map(|path| {
                let content = self.disk.content(&path).unwrap();
                (path, content)
            })
            .collect()
    }

    async fn examine(&self) -> Result<Repair, StorageError> {
        Repair::examine(settings(Path::new(DIR)), Arc::new(self.disk.clone())).await
    }

    async fn refused(&self) -> String {
        // On a copy: a start may change what it then refuses.
        let copy = self.copy();
        let opened = Storage::open(settings(Path::new(DIR)), Arc::new(copy.disk.clone()));
        match opened.await {
            Ok(_) => "it was not refused".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// Opens the node and compares it with the records up to `kept`; it must accept more.
    async fn check(&self, kept: u64, when: &str) -> LogId {
        let (storage, found) = open(Path::new(DIR), self.disk.clone()).await;
        let log = &self.log[..usize::try_from(kept).unwrap()];
        assert_eq!(found.last.index, Index(kept), "{when}");
        storage.apply(&found.tail);
        let keys: Vec<ItemKey> = (0..17).map(|nth| key(&format!("k{nth}"))).collect();
        Model::of(log).check(&storage, &keys, when).await;
        let mut epochs: Vec<(Epoch, Index)> = Vec::new();
        for record in log {
            let (id, outcome) = outcome_of(record).unwrap();
            assert_eq!(storage.outcome(&id.random), Some(outcome), "{when}");
            if epochs
                .last()
                .is_none_or(|last| last.0 < record.position.epoch)
            {
                epochs.push((record.position.epoch, record.position.index));
            }
        }
        assert_eq!(found.epochs.iter().collect::<Vec<_>>(), epochs, "{when}");
        storage.checkpoint().await.unwrap();
        let deletion = |record: &&Record| record.position.index.0.is_multiple_of(5);
        let first = log.iter().find(deletion).map(|record| record.version);
        assert_eq!(
            storage.oldest_tombstone().await.unwrap().is_some(),
            first.is_some(),
            "{when}"
        );
        commit(&storage, vec![put(9, kept + 1, "new", 3)]).await;
        storage.close().await.unwrap();
        found.log_id
    }

    /// The whole of a recovery, from an examination that changes nothing.
    async fn recover(&self) -> Repaired {
        let (before, calls) = (self.everything(), self.disk.calls());
        let mut repair = self.examine().await.unwrap();
        assert!(
            self.everything() == before && self.disk.calls() == calls,
            "an examination changed something"
        );
        repair.carry_out().await.unwrap()
    }

    async fn is_whole(&self) {
        let repair = self.examine().await.unwrap();
        assert_eq!(repair.findings(), []);
        assert!(!repair.is_due());
    }
}

/// A way to damage a directory of [`Node::cut_off`].
struct Ruin {
    name: &'static str,
    /// The last record in the store before.
    stored: u64,
    /// Damages the directory. Returns the last record that can be kept, and the number of later
    /// ones that are given up.
    ruin: fn(&Node) -> (u64, u64),
    problem: Problem,
    /// A part of a start's error; empty if the start continues under a new log id.
    words: &'static str,
}

const RUINS: &[Ruin] = &[
    Ruin {
        name: "a flipped byte in the middle of the log",
        stored: STORED,
        ruin: |node| {
            let (index, begin) = node.record_in(3, 4);
            node.flip(&node.segment(3), begin + 20);
            (index - 1, RECORDS - index)
        },
        problem: Problem::LogDamaged,
        words: "00000003.log is damaged at offset",
    },
    Ruin {
        name: "a hole in the last record",
        stored: STORED,
        ruin: |node| {
            let last = node.segments();
            let (first, _) = node.record_in(last, 0);
            let nth = usize::try_from(RECORDS - 1 - first).unwrap();
            let (index, begin) = node.record_in(last, nth);
            // The last one but one is the last put.
            let sector = begin.next_multiple_of(512);
            node.disk.damage(&node.segment(last), sector, &[0; 512]);
            (index - 1, RECORDS - index)
        },
        problem: Problem::LogDamaged,
        words: ".log is damaged at offset",
    },
    Ruin {
        name: "a header of a segment",
        stored: STORED,
        ruin: |node| {
            node.flip(&node.segment(3), 34);
            // Its records fit, so nothing is lost.
            (RECORDS, 0)
        },
        problem: Problem::LogDamaged,
        words: "00000003.log is damaged at offset 0",
    },
    Ruin {
        name: "the header of the first segment",
        stored: 0,
        ruin: |node| {
            node.flip(&node.segment(1), 34);
            (RECORDS, 0)
        },
        problem: Problem::LogDamaged,
        words: "00000001.log is damaged at offset 0",
    },
    Ruin {
        name: "a missing segment",
        stored: STORED,
        ruin: |node| {
            let (index, _) = node.record_in(3, 0);
            let (next, _) = node.record_in(4, 0);
            node.remove(&node.segment(3));
            (index - 1, RECORDS + 1 - next)
        },
        problem: Problem::LogDamaged,
        words: "the log breaks off after record",
    },
    Ruin {
        name: "a segment that is broken off",
        stored: STORED,
        ruin: |node| {
            let (index, begin) = node.record_in(3, 2);
            let (next, _) = node.record_in(4, 0);
            let file = node.disk.open(&node.segment(3)).unwrap();
            file.truncate(begin as u64).unwrap();
            file.sync_data().unwrap();
            (index - 1, RECORDS + 1 - next)
        },
        problem: Problem::LogDamaged,
        words: "the log breaks off after record",
    },
    Ruin {
        name: "a missing segment that the store has whole",
        stored: 40,
        ruin: |node| {
            node.remove(&node.segment(2));
            (RECORDS, 0)
        },
        problem: Problem::LogDamaged,
        words: "00000001.log is damaged",
    },
    Ruin {
        name: "another boot after interval sync",
        stored: STORED,
        ruin: |node| {
            let state = NodeState::open(Arc::new(node.disk.clone()), Path::new(DIR)).unwrap();
            state
                .set_unsynced_boot(Some(crate::disk::BootId([9; 16])))
                .unwrap();
            (RECORDS, 0)
        },
        problem: Problem::LogUnsynced,
        words: "written with wal.sync = interval",
    },
    Ruin {
        name: "no log",
        stored: STORED,
        ruin: |node| {
            for number in 1..=node.segments() {
                node.remove(&node.segment(number));
            }
            (STORED, 0)
        },
        problem: Problem::LogMissing,
        words: "",
    },
    Ruin {
        name: "a log that ends before the store",
        stored: 40,
        ruin: |node| {
            for number in (2..=node.segments()).rev() {
                node.remove(&node.segment(number));
            }
            (40, 0)
        },
        problem: Problem::LogShort,
        words: "",
    },
    Ruin {
        name: "a log of another node",
        stored: STORED,
        ruin: |node| {
            let other = crate::log::SegmentHeader {
                log_id: LogId(77),
                number: 1,
                first: Index(1),
                previous_epoch: Epoch(0),
                clock: tierkv_types::Version::ZERO,
            };
            for number in (1..=node.segments()).rev() {
                node.remove(&node.segment(number));
            }
            let mut place = recovery::place(
                &(Arc::new(node.disk.clone()) as Arc<dyn Disk>),
                &settings(Path::new(DIR)),
            );
            place.log_id = LogId(77);
            let names = place.open_names().unwrap();
            let spare = place.set_aside(&mut None).unwrap();
            let segment = place.begin(spare, other, &*names).unwrap();
            let mut bytes = Vec::new();
            for index in 1..=STORED + 3 {
                tierkv_types::record::encode(&put(1, index, "alien", 9), &mut bytes);
            }
            segment.file.write_at(64, &bytes).unwrap();
            segment.file.sync_data().unwrap();
            (STORED, 0)
        },
        problem: Problem::LogForeign,
        words: "its files are of log",
    },
    Ruin {
        name: "a damaged store over a whole log",
        stored: STORED,
        ruin: |node| {
            node.lose_store();
            (RECORDS, 0)
        },
        problem: Problem::StoreDamaged,
        words: "store.sqlite is damaged at offset 0",
    },
    Ruin {
        name: "a damaged write-ahead file over a whole log",
        stored: STORED,
        ruin: |node| {
            node.flip(&node.path("store.sqlite-wal"), 3 * 4120);
            (RECORDS, 0)
        },
        problem: Problem::StoreDamaged,
        words: "store.sqlite-wal is damaged at offset",
    },
];

/// A store is set aside and rebuilt: the log keeps its id, because it lost nothing.
fn keeps_its_log(problem: Problem) -> bool {
    matches!(problem, Problem::StoreDamaged | Problem::RowsDamaged)
}

#[tokio::test]
async fn every_ruin_is_refused_examined_and_recovered() {
    for ruin in RUINS {
        let node = Node::cut_off(ruin.stored).await;
        let (kept, given_up) = (ruin.ruin)(&node);
        if !ruin.words.is_empty() {
            let words = node.refused().await;
            assert!(words.contains(ruin.words), "{}: {words}", ruin.name);
        }
        let segments = node.segments();
        let repair = node.examine().await.unwrap();
        let problems: Vec<Problem> = repair.findings().iter().map(|f| f.problem).collect();
        assert_eq!(problems, [ruin.problem], "{}", ruin.name);
        assert_eq!(repair.kept().index, Index(kept), "{}", ruin.name);
        let known: u64 = repair.given_up().iter().map(|lost| lost.records).sum();
        assert_eq!(known, given_up, "{}: {:?}", ruin.name, repair.given_up());
        assert!(repair.epoch() >= Epoch(7), "{}", ruin.name);
        drop(repair);

        let repaired = node.recover().await;
        assert_eq!(repaired.last.index, Index(kept), "{}", ruin.name);
        if keeps_its_log(ruin.problem) {
            assert_eq!(repaired.log_id, node.log_id, "{}", ruin.name);
            assert_eq!(repaired.set_aside.len(), 1, "{}", ruin.name);
        } else {
            assert_ne!(repaired.log_id, node.log_id, "{}", ruin.name);
            assert_eq!(repaired.set_aside.len() as u64, segments, "{}", ruin.name);
        }
        let files = node.disk.files();
        assert!(
            repaired.set_aside.iter().all(|file| files.contains(file)),
            "{}",
            ruin.name
        );
        node.is_whole().await;
        assert_eq!(
            node.check(kept, ruin.name).await,
            repaired.log_id,
            "{}",
            ruin.name
        );
    }
}

/// The power is cut after every call of a recovery that changes something. A start then refuses
/// the directory, or opens the same state under a log id that is not listed. A recovery from
/// there ends like an uninterrupted one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_can_be_cut_anywhere_and_done_again() {
    for ruin in RUINS {
        let ruined = Node::cut_off(ruin.stored).await;
        let (kept, _) = (ruin.ruin)(&ruined);
        let mut cuts = 0;
        for calls in 0.. {
            let mut node = ruined.copy();
            let mut repair = node.examine().await.unwrap();
            node.disk.cut_after(calls);
            let done = repair.carry_out().await;
            let when = format!("{}, cut after {calls} calls", ruin.name);
            node.disk = node.disk.crash(calls, Tear::AnyOrder);
            drop(repair);
            let is_done = done.is_ok();
            let is_start_first = calls % 2 == 1;
            if is_start_first {
                let opened = Storage::open(settings(Path::new(DIR)), Arc::new(node.disk.clone()));
                if let Ok((storage, found)) = opened.await {
                    assert_eq!(found.last.index, Index(kept), "{when}");
                    let is_old = found.log_id == node.log_id;
                    assert_eq!(is_old, keeps_its_log(ruin.problem), "{when}");
                    storage.close().await.unwrap();
                }
            }
            let mut again = node.examine().await.unwrap();
            assert_eq!(
                again.kept().index,
                Index(kept),
                "{when}: {:?}",
                again.findings()
            );
            let repaired = again.carry_out().await.unwrap();
            assert_eq!(repaired.last.index, Index(kept), "{when}");
            drop(again);
            node.is_whole().await;
            assert_eq!(node.check(kept, &when).await, repaired.log_id, "{when}");
            if is_done {
                break;
            }
            cuts += 1;
        }
        assert!(cuts > 0, "{}: nothing was cut", ruin.name);
    }
}

#[tokio::test]
async fn a_lost_node_state_is_made_again_above_everything_seen() {
    for is_damaged in [false, true] {
        let node = Node::cut_off(STORED).await;
        let state = node.path("node-state");
        if is_damaged {
            node.flip(&state, 25);
        } else {
            node.remove(&state);
        }
        assert!(node.refused().await.contains("node-state is damaged"));
        let repaired = node.recover().await;
        // The log is sound and is continued.
        assert_eq!(repaired.log_id, node.log_id);
        assert_eq!(repaired.set_aside.len(), usize::from(is_damaged));
        node.is_whole().await;
        let facts = NodeState::open(Arc::new(node.disk.clone()), Path::new(DIR));
        let facts = facts.unwrap().facts().unwrap();
        // The last record is of epoch 2; the promise of 7 was in that file alone.
        assert_eq!(facts.promised, Epoch(2));
        assert_eq!(
            node.check(RECORDS, "without a node state").await,
            node.log_id
        );
    }
}

#[tokio::test]
async fn a_store_that_the_log_does_not_reach_back_for_is_refused_in_words() {
    let node = Node::cut_off(40).await;
    node.remove(&node.segment(1));
    node.lose_store();
    let before = node.everything();
    let refused = node.examine().await.err().unwrap().to_string();
    assert!(
        refused.contains("store.sqlite can't be recovered")
            && refused.contains("does not reach back to its first record")
            && refused.contains("backup"),
        "{refused}"
    );
    assert!(
        node.everything() == before,
        "an examination changed something"
    );

    // The same for a missing store: the log begins after the records it would have.
    node.remove(&node.path("store.sqlite"));
    let refused = node.examine().await.err().unwrap().to_string();
    assert!(
        refused.contains("the store ends with record 0:0"),
        "{refused}"
    );
}

async fn tamper(node: &Node, sql: &'static str) {
    let disk: Arc<dyn Disk> = Arc::new(node.disk.clone());
    crate::store::tamper(&disk, &node.path("store.sqlite"), sql).await;
}

#[tokio::test]
async fn a_damaged_page_is_named_and_the_store_made_again() {
    const PAGE_BYTES: usize = 4096;
    let sound = Node::cut_off(40).await;
    // Opening and closing the store writes its write-ahead file back.
    tamper(&sound, "BEGIN IMMEDIATE; COMMIT").await;
    let pages = sound.disk.content(&sound.path("store.sqlite")).unwrap();
    let pages = pages.len() / PAGE_BYTES;
    assert!(pages > 10, "the store has {pages} pages");
    for page in 0..pages {
        let node = sound.copy();
        let at = page * PAGE_BYTES;
        node.flip(&node.path("store.sqlite"), at + 50 + page * 13);
        let calls = node.disk.calls();
        let repair = node.examine().await.unwrap();
        assert_eq!(node.disk.calls(), calls, "an examination changed something");
        let [finding] = repair.findings() else {
            panic!("page {page}: {:?}", repair.findings());
        };
        assert_eq!(finding.problem, Problem::StoreDamaged);
        let place = format!("store.sqlite is damaged at offset {at}:");
        assert!(finding.what.contains(&place), "{}", finding.what);
        drop(repair);
        let repaired = node.recover().await;
        assert_eq!(repaired.log_id, node.log_id);
        node.is_whole().await;
        node.check(RECORDS, "after a damaged page").await;
    }
}

#[tokio::test]
async fn damaged_rows_are_found_and_made_again_if_the_log_has_them() {
    const RUIN: &str = "UPDATE item SET version = version + 1 WHERE key = x'74657374006B32'";
    let node = Node::cut_off(40).await;
    tamper(&node, RUIN).await;
    let repair = node.examine().await.unwrap();
    assert_eq!(repair.findings()[0].problem, Problem::RowsDamaged);
    drop(repair);
    let repaired = node.recover().await;
    assert_eq!(repaired.log_id, node.log_id);
    node.is_whole().await;
    node.check(RECORDS, "after damaged rows").await;

    let node = Node::cut_off(40).await;
    tamper(&node, RUIN).await;
    node.remove(&node.segment(1));
    let repair = node.examine().await.unwrap();
    assert!(!repair.is_due());
    let [finding] = repair.findings() else {
        panic!("{:?}", repair.findings());
    };
    assert_eq!(finding.problem, Problem::RowsDamaged);
    assert_eq!(finding.remedy, None);
    assert!(
        finding.what.contains("the row of key test\\x00k2"),
        "{}",
        finding.what
    );
}

#[tokio::test]
async fn a_sound_and_a_fresh_directory_need_nothing() {
    let node = Node::cut_off(STORED).await;
    node.is_whole().await;
    // Also a log with a torn end, which a start cuts off.
    let last = node.segments();
    let content = node.disk.content(&node.segment(last)).unwrap();
    let end = content.iter().rposition(|byte| *byte != 0).unwrap();
    node.disk.damage(&node.segment(last), end - 2, &[0; 3]);
    let before = node.everything();
    node.is_whole().await;
    assert!(
        node.everything() == before,
        "an examination changed something"
    );
    node.check(RECORDS - 1, "with a torn end").await;

    let fresh = Node {
        disk: TestDisk::default(),
        log: Vec::new(),
        log_id: LogId(0),
    };
    fresh.is_whole().await;
    let mut repair = fresh.examine().await.unwrap();
    let repaired = repair.carry_out().await.unwrap();
    drop(repair);
    assert_eq!(fresh.check(0, "begun by a recovery").await, repaired.log_id);
}

#[tokio::test]
async fn a_node_that_runs_is_left_alone() {
    let node = Node::cut_off(STORED).await;
    let (storage, _) = open(Path::new(DIR), node.disk.clone()).await;
    let refused = node.examine().await.err().unwrap();
    assert!(matches!(refused, StorageError::Locked { .. }), "{refused}");
    storage.close().await.unwrap();
}
