//! Power cuts and full disks at every step of an installation.

use std::collections::BTreeSet;

use super::*;
use crate::{Repair, WalSync, disk::Tear};

const DIR: &str = "/n";

/// What a directory holds after a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holds {
    Old,
    Nothing,
    New,
}

/// A disk whose node has an old state, and what it may hold after an installation.
struct Target {
    disk: TestDisk,
    old_id: LogId,
    old: Vec<Record>,
    new: Vec<Record>,
    transfer: Transfer,
}

impl Target {
    async fn new(records: u64, from: usize) -> Self {
        let disk = TestDisk::default();
        let (old_id, old) = with_old_state(Path::new(DIR), &disk).await;
        let mut random = StdRng::seed_from_u64(records);
        let new = records_of_every_kind(&mut random, records, 300);
        let transfer = Transfer::of(&new, from, 3_000).await;
        Self {
            disk,
            old_id,
            old,
            new,
            transfer,
        }
    }

    async fn install(&self, disk: &TestDisk) -> Result<LogId, StorageError> {
        let settings = of_platform(Path::new(DIR));
        self.transfer.install(settings, disk.clone(), 3).await
    }

    /// Opens a disk and returns which of the three states it holds, wholly; then writes to it,
    /// and opens it once more.
    async fn holds(&self, disk: &TestDisk, when: &str) -> Holds {
        let dir = Path::new(DIR);
        let (storage, found) = reopened(dir, disk).await;
        let (holds, mut records) = match found.last.index.0 {
            _ if found.log_id == self.old_id => (Holds::Old, self.old.clone()),
            0 => (Holds::Nothing, Vec::new()),
            _ => (Holds::New, self.new.clone()),
        };
        assert_eq!(found.last.index.0, records.len() as u64, "{when}");
        storage.apply(&found.tail);
        assert_eq!(Whole::now(&storage).await, Whole::of(&records), "{when}");
        check_outcomes(&storage, &records);
        if holds == Holds::New {
            check_log(&storage, self.transfer.from, &self.transfer.records).await;
        }
        let epoch = found.last.epoch.0 + 1;
        records.push(put(epoch, records.len() as u64 + 1, "later", 9));
        commit(&storage, records[records.len() - 1..].to_vec()).await;
        storage.close().await.unwrap();
        let (storage, again) = reopened(dir, disk).await;
        assert_eq!(again.log_id, found.log_id, "{when}");
        assert_eq!(Whole::now(&storage).await, Whole::of(&records), "{when}");
        storage.close().await.unwrap();
        holds
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_call_leaves_nothing_or_the_whole_snapshot() {
    let target = Target::new(50, 20).await;
    let mut seen = Vec::new();
    for calls in 0.. {
        let disk = target.disk.fork();
        disk.cut_after(calls);
        let installed = target.install(&disk).await;
        let is_cut = disk.is_cut();
        for (seed, tear) in [(1, Tear::AnyOrder), (2, Tear::AnyOrder), (3, Tear::InOrder)] {
            let when = format!("cut after {calls} calls, seed {seed}");
            let booted = disk.fork().crash(calls * 10 + seed, tear);
            let holds = target.holds(&booted, &when).await;
            if installed.is_ok() {
                assert_eq!(holds, Holds::New, "{when}");
            }
            seen.push((calls, holds));
        }
        if !is_cut {
            assert!(installed.is_ok());
            break;
        }
    }
    // First the old state, then nothing, at last the new one; never one again.
    let states: Vec<Holds> = seen.iter().map(|(_, holds)| *holds).collect();
    for wanted in [Holds::Old, Holds::Nothing, Holds::New] {
        assert!(states.contains(&wanted), "{wanted:?}");
    }
    let last = |holds| seen.iter().rposition(|(_, seen)| *seen == holds).unwrap();
    let first = |holds| seen.iter().position(|(_, seen)| *seen == holds).unwrap();
    // A cut in the middle of a transaction may have either outcome.
    assert!(seen[last(Holds::Old)].0 <= seen[first(Holds::Nothing)].0 + 4);
    assert!(seen[last(Holds::Nothing)].0 <= seen[first(Holds::New)].0 + 4);
}

/// A cut while a start empties a node whose installation was cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_while_the_node_is_emptied_leaves_nothing() {
    let target = Target::new(50, 0).await;
    let disk = target.disk.fork();
    let settings = of_platform(Path::new(DIR));
    let (cut, from) = (target.transfer.cut, target.transfer.from);
    let begun = Installation::begin(settings, Arc::new(disk.clone()), cut, from).await;
    let mut installation = begun.unwrap();
    target.transfer.fill(&mut installation, 1).await.unwrap();
    let half = disk.fork();
    installation.abandon().await;
    for calls in 0.. {
        let disk = half.fork();
        disk.cut_after(calls);
        let settings = of_platform(Path::new(DIR));
        let opened = Storage::open(settings, Arc::new(disk.clone())).await;
        let is_cut = disk.is_cut();
        if let Ok((storage, _)) = &opened {
            let _ = storage.close().await;
        }
        for (seed, tear) in [(1, Tear::AnyOrder), (2, Tear::InOrder)] {
            let when = format!("cut after {calls} calls, seed {seed}");
            let booted = disk.fork().crash(calls * 10 + seed, tear);
            assert_eq!(target.holds(&booted, &when).await, Holds::Nothing, "{when}");
        }
        if !is_cut {
            assert!(opened.is_ok() && calls > 10);
            break;
        }
    }
}

/// Wherever the space ends: the error is a passing one, and with space it begins anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_a_passing_error_and_the_installation_begins_anew() {
    let target = Target::new(50, 20).await;
    let mut refused = 0;
    for space in (0..).step_by(2_500) {
        let disk = target.disk.fork();
        disk.set_space(Some(space));
        let installed = target.install(&disk).await;
        let Err(error) = installed else {
            break;
        };
        refused += 1;
        let words = format!("{space} bytes: {error}");
        assert!(matches!(error, StorageError::NoSpace { .. }), "{words}");
        assert!(error.is_passing(), "{words}");
        disk.set_space(None);
        let holds = target.holds(&disk.fork(), &words).await;
        assert!(holds < Holds::New, "{words}");
        target.install(&disk).await.unwrap();
        assert_eq!(target.holds(&disk, &words).await, Holds::New, "{words}");
    }
    assert!(refused > 8, "{refused}");
}

/// A failed sync ends the installation, and is no passing error; no part of a state shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_ends_an_installation() {
    let target = Target::new(50, 20).await;
    let (mut failed, mut seen) = (0, BTreeSet::new());
    for syncs in 0.. {
        let disk = target.disk.fork();
        disk.fail_syncs_after(syncs);
        let Err(error) = target.install(&disk).await else {
            break;
        };
        failed += 1;
        assert!(matches!(error, StorageError::Io { .. }), "{error}");
        assert!(!error.is_passing(), "{error}");
        let when = format!("failed after {syncs} syncs");
        let booted = disk.crash(syncs, Tear::AnyOrder);
        let holds = target.holds(&booted, &when).await;
        // A transaction may be on the disk although its sync failed.
        seen.insert(holds);
    }
    assert!(failed > 8, "{failed}");
    assert!(seen.contains(&Holds::Old) && seen.contains(&Holds::Nothing));
}

/// The rules are needed: without the syncs of the log, a power cut shows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_not_synced_is_noticed() {
    let target = Target::new(50, 20).await;
    for (lies, is_noticed) in [(false, false), (true, true)] {
        let mut found = false;
        for seed in 0..10 {
            let disk = target.disk.fork();
            if lies {
                disk.ignore_syncs(|path| path.starts_with("/n/log"));
            }
            target.install(&disk).await.unwrap();
            let booted = disk.crash(seed, Tear::AnyOrder);
            let settings = of_platform(Path::new(DIR));
            let opened = Storage::open(settings, Arc::new(booted)).await;
            let is_whole = match opened {
                Ok((storage, found)) => {
                    storage.close().await.unwrap();
                    found.last == target.transfer.cut.position
                }
                Err(_) => false,
            };
            found |= !is_whole;
        }
        assert_eq!(found, is_noticed);
    }
}

/// A log with late syncs, whose process was killed: a machine that restarts during the installation
/// does not ask for what was acknowledged in the old log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_log_with_late_syncs_does_not_stop_the_start_after_a_power_cut() {
    let target = Target::new(50, 20).await;
    let dir = Path::new(DIR);
    let settings = || StorageSettings {
        sync: WalSync::Interval(Duration::from_secs(3_600)),
        ..of_platform(dir)
    };
    let disk = target.disk.clone();
    let (storage, found) = Storage::open(settings(), Arc::new(disk.clone()))
        .await
        .unwrap();
    storage.apply(&found.tail);
    commit(&storage, vec![put(900, 61, "a", 9)]).await;
    let disk = disk.kill();
    drop(storage);
    let mut seen = BTreeSet::new();
    for calls in 0.. {
        let disk = disk.same_boot();
        disk.cut_after(calls);
        let installed = target.transfer.install(settings(), disk.clone(), 3).await;
        let is_cut = disk.is_cut();
        let booted = disk.crash(calls, Tear::AnyOrder);
        let opened = Storage::open(settings(), Arc::new(booted.clone())).await;
        match opened {
            Ok((storage, found)) => {
                storage.close().await.unwrap();
                seen.insert(found.last.index);
            }
            // Nothing was changed yet.
            Err(error) => {
                assert!(matches!(error, StorageError::Unsynced { .. }), "{error}");
                assert!(seen.is_empty(), "after {calls} calls: {error}");
            }
        }
        if !is_cut {
            assert!(installed.is_ok());
            break;
        }
    }
    let expected = [Index(0), Index(50), Index(61)];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
}

/// An operator's recovery does not make a state of a part of one.
#[tokio::test]
async fn a_recovery_refuses_a_node_that_is_being_installed() {
    let target = Target::new(50, 20).await;
    let settings = || of_platform(Path::new(DIR));
    let disk: Arc<dyn Disk> = Arc::new(target.disk.clone());
    let (cut, from) = (target.transfer.cut, target.transfer.from);
    let begun = Installation::begin(settings(), Arc::clone(&disk), cut, from).await;
    begun.unwrap().abandon().await;
    let refused = Repair::examine(settings(), disk).await.err().unwrap();
    assert!(matches!(refused, StorageError::Unrecoverable { .. }));
    let words = refused.to_string();
    assert!(words.contains("a snapshot of another node"), "{words}");
    assert_eq!(target.holds(&target.disk, "").await, Holds::Nothing);
}
