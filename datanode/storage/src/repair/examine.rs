//! The examination: finds the problems of a directory, and plans the repair.

use std::path::Path;

use tierkv_types::{Epoch, Index, LogId, Position, Record};

use super::{Examined, Finding, GivenUp, NodeFound, Plan, Problem};
use crate::{
    StorageError,
    log::{FoundBehind, LogFound, LogPlace, inspect, salvage, search},
    recovery::check_overlap,
    state::epochs_from_rows,
    store::{StoreFound, StoreMeta, StoreState},
};

/// The log as it was found.
enum Log {
    Missing,
    /// A start would accept it.
    Sound(LogFound),
    /// A start refuses it; with its sound part, if that continues the store.
    Broken(StorageError, Option<LogFound>),
}

impl Log {
    const fn found(&self) -> Option<&LogFound> {
        match self {
            Self::Missing => None,
            Self::Sound(log) => Some(log),
            Self::Broken(_, log) => log.as_ref(),
        }
    }
}

/// Drops a record: records are only checked here.
fn pass(_: Record) -> Result<(), StorageError> {
    Ok(())
}

/// Examines the log, and compares log, store and node state. Blocks.
pub(super) fn examine(
    place: &LogPlace,
    store_path: &Path,
    node: NodeFound,
    store: StoreFound,
) -> Result<Examined, StorageError> {
    let boot = place.disk.boot_id();
    let boot = boot.map_err(|error| StorageError::io("learn the boot of", &place.dir, error))?;
    let mut examiner = Examiner {
        place,
        store_path,
        node: &node,
        plan: Plan::default(),
        findings: Vec::new(),
        epoch: Epoch::ZERO,
    };
    let had_store = !matches!(store, StoreFound::Missing);
    let StoreState { meta, rows } = examiner.store(store)?;
    let epochs = epochs_from_rows(&rows).map_err(|error| error.in_store(store_path))?;
    let log = examiner.read(&meta)?;
    let takes = examiner.identity(&log, &meta)?;
    if let Some(unsynced) = node.facts().and_then(|facts| facts.unsynced_boot)
        && unsynced != boot
    {
        examiner.unsynced();
    }
    let log_ends = log.found().filter(|_| takes).map(|log| log.last());
    let kept = match log_ends {
        Some(last) if last.index > meta.applied.index => last,
        _ => meta.applied,
    };
    let behind = examiner.log(&log, &meta, kept)?;
    let is_used = had_store || !matches!(log, Log::Missing);
    examiner.node_state(is_used);
    let Examiner {
        mut plan,
        findings,
        mut epoch,
        ..
    } = examiner;
    plan.take_records = takes && (plan.renew_log || plan.rebuild_store);
    let seen = [
        node.facts().map(|facts| facts.promised),
        Some(kept.epoch),
        epochs.last().map(|(epoch, _)| epoch),
        log_ends.map(|last| last.epoch),
    ];
    epoch = seen.into_iter().flatten().fold(epoch, Epoch::max);
    let given_up = behind.into_iter().map(|found| GivenUp {
        file: found.file,
        offset: found.offset,
        records: found.records,
    });
    Ok(Examined {
        log_id: log.found().map(|log| log.log_id),
        given_up: given_up.collect(),
        node,
        meta,
        kept,
        epoch,
        plan,
        findings,
    })
}

struct Examiner<'a> {
    place: &'a LogPlace,
    store_path: &'a Path,
    node: &'a NodeFound,
    plan: Plan,
    findings: Vec<Finding>,
    epoch: Epoch,
}

impl Examiner<'_> {
    fn find(&mut self, problem: Problem, what: String, remedy: &str, loss: String) {
        self.findings.push(Finding {
            problem,
            what,
            remedy: Some(remedy.to_owned()),
            loss,
        });
    }

    fn node_log_id(&self) -> Option<LogId> {
        let log_id = self.node.facts()?.log_id;
        (log_id != LogId::default()).then_some(log_id)
    }

    /// The state of the store that is kept; empty if it is to be rebuilt.
    fn store(&mut self, store: StoreFound) -> Result<StoreState, StorageError> {
        match with_sound_epochs(store, self.store_path) {
            StoreFound::Missing => Ok(StoreState::default()),
            StoreFound::Usable {
                state,
                first_damaged: None,
                ..
            } => Ok(state),
            StoreFound::Usable {
                state,
                damaged_rows,
                first_damaged: Some(first),
            } => {
                let meta = &state.meta;
                let what = format!("{damaged_rows} rows of the store are damaged, first: {first}");
                let whole = self.whole_log(meta.log_id)?;
                if whole.is_some_and(|log| log.last().index >= meta.applied.index) {
                    self.rebuild(Problem::RowsDamaged, what);
                    return Ok(StoreState::default());
                }
                self.findings.push(Finding {
                    problem: Problem::RowsDamaged,
                    what,
                    remedy: None,
                    loss: "reads of these keys return DataLoss; the log does not reach back to \
                           its first record, so only a backup or a peer can restore them"
                        .to_owned(),
                });
                Ok(state)
            }
            StoreFound::Damaged(error) => {
                let log_id = self.node_log_id().unwrap_or_default();
                if self.whole_log(log_id)?.is_none() {
                    return Err(StorageError::Unrecoverable {
                        file: self.store_path.to_owned(),
                        what: format!(
                            "{error}; it can't be rebuilt from the log, which does not reach \
                             back to its first record"
                        ),
                    });
                }
                self.rebuild(Problem::StoreDamaged, error.to_string());
                Ok(StoreState::default())
            }
        }
    }

    /// The sound part of the log, if it begins with record 1 and has the id `log_id`.
    fn whole_log(&self, log_id: LogId) -> Result<Option<LogFound>, StorageError> {
        let log = salvage(self.place, Position::default(), log_id, &mut pass)?;
        Ok(log.filter(|log| {
            let is_it = log_id == LogId::default() || log.log_id == log_id;
            is_it && log.before.index == Index::ZERO
        }))
    }

    fn rebuild(&mut self, problem: Problem, what: String) {
        self.plan.rebuild_store = true;
        self.find(
            problem,
            what,
            "set the store aside, and rebuild it from the log, which reaches back to its first \
             record",
            "nothing: all records of the log are kept".to_owned(),
        );
    }

    fn read(&self, meta: &StoreMeta) -> Result<Log, StorageError> {
        let expected = match meta.log_id {
            LogId(0) => self.node_log_id().unwrap_or_default(),
            log_id => log_id,
        };
        match inspect(self.place, meta.applied.index, &mut pass) {
            Ok(None) => Ok(Log::Missing),
            Ok(Some((log, _))) => {
                if log.last().index >= meta.applied.index {
                    self.check_overlap(&log, meta)?;
                }
                Ok(Log::Sound(log))
            }
            Err(error @ StorageError::Damaged { .. }) => {
                let log = salvage(self.place, meta.applied, expected, &mut pass)?;
                match &log {
                    Some(log) if log.last().index >= meta.applied.index => {
                        self.check_overlap(log, meta)?;
                    }
                    None if meta.applied.index == Index::ZERO => self.check_begin(&error)?,
                    _ => {}
                }
                Ok(Log::Broken(error, log))
            }
            Err(error) => Err(error),
        }
    }

    /// Fails if log and store contradict each other: the files don't show which is right.
    fn check_overlap(&self, log: &LogFound, meta: &StoreMeta) -> Result<(), StorageError> {
        check_overlap(log, meta).map_err(|error| self.unrecoverable(&error))
    }

    fn unrecoverable(&self, error: &StorageError) -> StorageError {
        let what = match error {
            StorageError::Damaged { what, .. } => what.clone(),
            error => error.to_string(),
        };
        StorageError::Unrecoverable {
            file: self.store_path.to_owned(),
            what,
        }
    }

    /// Fails if the store is empty and the first records are missing: later ones are useless.
    fn check_begin(&self, error: &StorageError) -> Result<(), StorageError> {
        let later = search(self.place, Index::ZERO)?;
        match later.iter().map(|found| found.first).min() {
            Some(first) if first > Index(1) => Err(StorageError::Unrecoverable {
                file: self.store_path.to_owned(),
                what: format!(
                    "the store is empty, and no record of the log before {first} can be read \
                     ({error})"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Whether the log's records are this node's. Adds a finding if ids contradict each other.
    fn identity(&mut self, log: &Log, meta: &StoreMeta) -> Result<bool, StorageError> {
        let Some(log) = log.found() else {
            return Ok(false);
        };
        let has_records = log.last() != log.before;
        let of_store = meta.log_id == log.log_id || meta.log_id == LogId::default();
        let named = self.node.facts().map(|facts| facts.log_id);
        let of_node = named.is_none_or(|named| named == log.log_id);
        let names = named.map_or_else(|| "unknown".to_owned(), |named| named.to_string());
        let contradict = format!(
            "the node's log is {names}, its store is of log {}, its log files are of log {}",
            meta.log_id, log.log_id
        );
        match (of_store || !has_records, of_node) {
            (true, true) => Ok(true),
            (true, false) if meta.log_id == log.log_id || !has_records => {
                self.plan.renew_log = true;
                self.find(
                    Problem::LogForeign,
                    format!("{contradict}: an earlier recovery was interrupted"),
                    "keep the log's records that the store does not have, set the log aside, and \
                     start a new one",
                    "nothing: all records of store and log are kept".to_owned(),
                );
                Ok(of_store)
            }
            (false, false) if named == Some(meta.log_id) => {
                self.plan.renew_log = true;
                self.find(
                    Problem::LogForeign,
                    format!("{contradict}: the log is another node's"),
                    "set the log aside, and start a new one after the store's last record",
                    format!("all writes acknowledged after record {}", meta.applied),
                );
                Ok(false)
            }
            _ => Err(StorageError::Unrecoverable {
                file: self.store_path.to_owned(),
                what: contradict,
            }),
        }
    }

    fn unsynced(&mut self) {
        self.plan.renew_log = true;
        self.find(
            Problem::LogUnsynced,
            format!(
                "the log in {} was written with wal.sync = interval, and the machine was \
                 restarted since then without a clean stop",
                self.place.dir.display()
            ),
            "keep all records, and start a log with a new id after them",
            "writes that were acknowledged shortly before the machine stopped may be missing; \
             how many can't be found out from this disk"
                .to_owned(),
        );
    }

    /// Adds findings about the log itself; returns its records that are given up.
    fn log(
        &mut self,
        log: &Log,
        meta: &StoreMeta,
        kept: Position,
    ) -> Result<Vec<FoundBehind>, StorageError> {
        let remedy = "store all sound records before the damage, set the log aside, and start a \
                      new one with a new id after them";
        match log {
            Log::Missing if meta.applied.index == Index::ZERO => {}
            Log::Missing => {
                self.plan.renew_log = true;
                let dir = self.place.dir.display();
                self.find(
                    Problem::LogMissing,
                    format!(
                        "there is no log in {dir}, and the store has everything up to record {}",
                        meta.applied
                    ),
                    "start a log with a new id after the store's last record",
                    format!("all writes acknowledged after record {}", meta.applied),
                );
            }
            Log::Sound(log) if log.last().index < meta.applied.index => {
                self.plan.renew_log = true;
                self.find(
                    Problem::LogShort,
                    format!(
                        "the log in {} ends with record {}, and the store has everything up to \
                         record {}",
                        self.place.dir.display(),
                        log.last(),
                        meta.applied
                    ),
                    "set the log aside, and start a new one with a new id after the store's last \
                     record",
                    format!("all writes acknowledged after record {}", meta.applied),
                );
            }
            Log::Sound(_) => {}
            Log::Broken(error, _) => {
                self.plan.renew_log = true;
                let behind = search(self.place, kept.index)?;
                for found in &behind {
                    self.epoch = self.epoch.max(found.epoch);
                }
                let what = match error {
                    StorageError::Damaged { file, place, what } => {
                        format!("{} is damaged at {place}: {what}", file.display())
                    }
                    error => error.to_string(),
                };
                self.find(Problem::LogDamaged, what, remedy, lost(kept, &behind));
                return Ok(behind);
            }
        }
        Ok(Vec::new())
    }

    fn node_state(&mut self, is_used: bool) {
        let (problem, what) = match self.node {
            NodeFound::Sound(_) => return,
            NodeFound::Missing if !is_used => return,
            NodeFound::Missing => (
                Problem::NodeStateMissing,
                format!(
                    "{} is missing",
                    self.store_path.with_file_name("node-state").display()
                ),
            ),
            NodeFound::Damaged(StorageError::Damaged { file, place, what }) => (
                Problem::NodeStateDamaged,
                format!("{} is damaged at {place}: {what}", file.display()),
            ),
            NodeFound::Damaged(error) => (Problem::NodeStateDamaged, error.to_string()),
        };
        self.plan.restore_node_state = true;
        self.find(
            problem,
            what,
            "create it again, with a promised epoch above all epochs in log, store and \
             coordination",
            "no data; epochs that the node promised and recorded nowhere else are lost. If it \
             wrote its log with wal.sync = interval, the last writes before a restart of the \
             machine may be missing"
                .to_owned(),
        );
    }
}

/// A store with malformed epochs counts as damaged: a start would refuse it.
fn with_sound_epochs(store: StoreFound, store_path: &Path) -> StoreFound {
    match &store {
        StoreFound::Usable { state, .. } => match epochs_from_rows(&state.rows) {
            Ok(_) => store,
            Err(error) => StoreFound::Damaged(error.in_store(store_path)),
        },
        StoreFound::Missing | StoreFound::Damaged(_) => store,
    }
}

/// The loss from a log that is sound up to `kept`.
fn lost(kept: Position, behind: &[FoundBehind]) -> String {
    if behind.is_empty() {
        return format!(
            "records after {kept}: none there is sound, but the damaged place may have held \
             acknowledged ones"
        );
    }
    let records: u64 = behind.iter().map(|found| found.records).sum();
    let places: Vec<String> = (behind.iter())
        .map(|found| {
            format!(
                "{} in {} from offset {} (records {} to {})",
                found.records,
                found.file.display(),
                found.offset,
                found.first,
                found.last
            )
        })
        .collect();
    format!(
        "everything after record {kept}: {records} later records are sound but given up, {}; \
         unreadable ones are not counted",
        places.join(", ")
    )
}
