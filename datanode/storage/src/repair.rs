//! Repair of a node's directory when a start refuses it and an operator decides.
//!
//! A start never cuts off what may have been acknowledged. [`Repair::examine`] makes the checks
//! of a start, but continues after a problem. It returns [`Finding`]s: each has the problem, the
//! remedy and what is lost by it. It changes nothing. [`Repair::carry_out`] then applies the
//! remedies. A crash at any moment leaves a directory that a start either opens or refuses, and
//! that can be examined again:
//!
//! ```text
//!   1  a damaged store is set aside                    (the log reaches back to record 1)
//!   2  sound records of the log go into the store      (again: those after what it holds)
//!   3  the node state gets another log id              (the old files are foreign from now)
//!   4  the old segments are set aside, newest first    (their usable records are in the store)
//!   5  a log of a new id begins after the store        (REP-LOGID)
//! ```
//!
//! Nothing is deleted: a file that is set aside keeps its name and gets an ending. The node is
//! a member of its cluster only when the cluster's record lists the new log. The caller changes
//! the record, as the last step.
//!
//! Reading order: this file (the API), `examine`, `carry_out`.

mod carry_out;
mod examine;

use std::{fmt, path::PathBuf, sync::Arc};

use bytes::Bytes;
use tierkv_types::{Epoch, LogId, Position};

pub use self::carry_out::Repaired;
use crate::{
    Disk, StorageError, StorageSettings,
    blocking::blocking,
    directory::lock,
    disk::DiskLock,
    log::LogPlace,
    node_state::{NodeFacts, NodeState},
    recovery,
    store::{self, StoreMeta},
};

/// The kind of a problem. The names are for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Problem {
    /// A record or a header of the log is not what was written, or a segment is missing.
    LogDamaged,
    /// The log was written without a sync for each record, in another boot of the machine.
    LogUnsynced,
    /// There is no log, but the store has records applied.
    LogMissing,
    /// The log ends before what the store holds.
    LogShort,
    /// The log is another node's, or an earlier recovery stopped half-way.
    LogForeign,
    /// The node state is missing.
    NodeStateMissing,
    /// The node state is damaged.
    NodeStateDamaged,
    /// The store can't be used.
    StoreDamaged,
    /// Single rows of the store are damaged.
    RowsDamaged,
}

impl Problem {
    /// The problem's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LogDamaged => "log-damaged",
            Self::LogUnsynced => "log-unsynced",
            Self::LogMissing => "log-missing",
            Self::LogShort => "log-short",
            Self::LogForeign => "log-foreign",
            Self::NodeStateMissing => "node-state-missing",
            Self::NodeStateDamaged => "node-state-damaged",
            Self::StoreDamaged => "store-damaged",
            Self::RowsDamaged => "rows-damaged",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One problem found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its kind.
    pub problem: Problem,
    /// What was found, with file and place in it.
    pub what: String,
    /// What a recovery does about it; `None` if it can't repair it.
    pub remedy: Option<String>,
    /// What is lost by the remedy, or without one.
    pub loss: String,
}

/// Sound records in one file that can't be used any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The file.
    pub file: PathBuf,
    /// Where the first of them begins, in bytes.
    pub offset: u64,
    /// How many there are.
    pub records: u64,
}

/// A node's directory, locked and examined.
pub struct Repair {
    settings: StorageSettings,
    disk: Arc<dyn Disk>,
    _lock: Box<dyn DiskLock>,
    place: LogPlace,
    examined: Examined,
}

/// The result of an examination, and the steps to carry out.
struct Examined {
    node: NodeFound,
    /// The state of the store that is kept; empty if there is none or it is set aside.
    meta: StoreMeta,
    /// The log whose records are used; `None` if there is none.
    log_id: Option<LogId>,
    /// The last record that is kept, in store or log.
    kept: Position,
    /// The highest epoch seen anywhere.
    epoch: Epoch,
    plan: Plan,
    findings: Vec<Finding>,
    given_up: Vec<GivenUp>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Set the store aside and rebuild it from the log.
    rebuild_store: bool,
    /// Set the log aside and create another.
    renew_log: bool,
    /// Apply the log's sound records to the store before that.
    take_records: bool,
    /// Write the node state again.
    restore_node_state: bool,
}

/// The node state, as far as it can be read.
#[derive(Debug)]
enum NodeFound {
    Sound(NodeFacts),
    Missing,
    Damaged(StorageError),
}

impl NodeFound {
    const fn facts(&self) -> Option<&NodeFacts> {
        match self {
            Self::Sound(facts) => Some(facts),
            Self::Missing | Self::Damaged(_) => None,
        }
    }
}

impl Repair {
    /// Locks a node's existing directory and examines everything in it. Changes nothing, except
    /// that it creates a lock file.
    ///
    /// # Errors
    /// `Locked` if the node runs, `Newer` if a newer release wrote something,
    /// `Unrecoverable` if the directory can't be made consistent, and failures of the disk.
    pub async fn examine(
        settings: StorageSettings,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, StorageError> {
        let place = recovery::place(&disk, &settings);
        let store_path = settings.dir.join(recovery::STORE_FILE);
        let (lock, node) = {
            let (settings, disk) = (settings.clone(), Arc::clone(&disk));
            blocking(move || {
                let lock = lock(&settings.dir, &*disk)?;
                let node = match NodeState::open(disk, &settings.dir) {
                    Ok(state) => state.facts().map_or(NodeFound::Missing, NodeFound::Sound),
                    Err(error @ StorageError::Damaged { .. }) => NodeFound::Damaged(error),
                    Err(error) => return Err(error),
                };
                Ok((lock, node))
            })
            .await?
        };
        let store = store::examine(&disk, &store_path, settings.sync).await?;
        if store.is_installing() {
            return Err(StorageError::Unrecoverable {
                file: store_path,
                what: "a snapshot of another node was being installed, and a start empties it"
                    .to_owned(),
            });
        }
        let examined = {
            let place = place.clone();
            blocking(move || examine::examine(&place, &store_path, node, store)).await?
        };
        Ok(Self {
            settings,
            disk,
            _lock: lock,
            place,
            examined,
        })
    }

    /// The problems found.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.examined.findings
    }

    /// Sound records that are given up, as far as they were found.
    #[must_use]
    pub fn given_up(&self) -> &[GivenUp] {
        &self.examined.given_up
    }

    /// Whether there is anything that [`Repair::carry_out`] would change.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.examined.plan != Plan::default()
    }

    /// The last record that is kept.
    #[must_use]
    pub const fn kept(&self) -> Position {
        self.examined.kept
    }

    /// The highest epoch that the node promised, or that a record or the store carries.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.examined.epoch
    }

    /// The id of the log that a start would find, unless a recovery is due.
    #[must_use]
    pub const fn log_id(&self) -> Option<LogId> {
        self.examined.log_id
    }

    /// The highest cluster state that the node saw, if the node state has it.
    #[must_use]
    pub fn cluster_state(&self) -> Option<Bytes> {
        self.examined.node.facts()?.cluster_state.clone()
    }

    /// Makes a promise durable before it returns (REP-PROMISE). A repair that is due must be
    /// carried out first.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn promise(&self, epoch: Epoch) -> Result<(), StorageError> {
        let (disk, dir) = (Arc::clone(&self.disk), self.settings.dir.clone());
        blocking(move || NodeState::open(disk, &dir)?.promise(epoch, None)).await
    }
}
