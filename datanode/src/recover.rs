//! `tierkv admin recover`: decisions that a node can't make alone and its operator makes.
//!
//! Before a node starts, its data directory must agree with the cluster's record in
//! coordination, which lists the logs in sync (REP-RECORD). A [`Recovery`] examines both while
//! the node does not run. It is carried out in three steps:
//!
//! 1. repair the directory;
//! 2. promise an epoch above every epoch seen in the directory or in coordination;
//! 3. swap the record for one that lists this node's log and names no master.
//!
//! The next start then wins mastership in the ordinary way. A crash in between leaves a node
//! that refuses to start and can be recovered again.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use tierkv_coordination::{Coordination, CoordinationError, Revision, Swap, Versioned, directory};
use tierkv_protocol::replication::{ClusterState, DEFAULT_F_MS, Listed, Note, StateError};
use tierkv_storage::{RealDisk, Repair, StorageError, StorageSettings};
use tierkv_types::{ClusterId, Epoch, LogId, NodeId, Position};

use crate::noter::{NoteError, old_copy, replace_note};

/// Why a recovery is refused, or failed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The node's directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A newer release wrote the record, here or in coordination.
    #[error("the cluster state: {0}")]
    State(#[from] StateError),
    /// The coordination store.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
    /// The note of the node's log could not be replaced.
    #[error("the note of the node's log could not be replaced ({0}); recover again")]
    Note(String),
    /// The cluster has other members, whose logs may hold more.
    #[error(
        "the record names the members {members}; with a data directory, this command recovers a \
         cluster whose only member is {node}. A node of a cluster in which another log is in sync \
         needs no recovery: start it, and it sets aside what it can't use and gets everything from \
         its master. If no log in sync is left on any node, or an old backup of coordination was \
         restored, start the nodes and leave out --data-dir"
    )]
    OtherMembers {
        /// The node.
        node: NodeId,
        /// The members' names.
        members: String,
    },
    /// The cluster has no such node.
    #[error(
        "the cluster {cluster} has no node {node}; its nodes are {members}: set --cluster and --node \
         to those of a node that the platform has. One that was removed for good needs no recovery: \
         `tierkv admin add-node` brings it back"
    )]
    NoMember {
        /// The cluster.
        cluster: ClusterId,
        /// The node.
        node: NodeId,
        /// The members' names.
        members: String,
    },
    /// The record was changed during the recovery.
    #[error("the cluster's record was changed during the recovery; recover again")]
    Contended,
    /// The answer of the coordination store was lost.
    #[error(
        "whether the cluster's record was changed is unknown ({0}); recover again, which shows it"
    )]
    Unknown(String),
}

/// One thing that keeps the node from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its kind, as a name for programs.
    pub problem: &'static str,
    /// What was found, with file and offset.
    pub what: String,
    /// What a recovery does about it; `None` if it can't repair it.
    pub remedy: Option<String>,
    /// What is lost by the remedy, or without one.
    pub loss: String,
}

/// Sound records in one file that are given up.
pub use tierkv_storage::GivenUp;

/// A node that does not run, and the record of its cluster, examined.
pub struct Recovery {
    node: NodeId,
    cluster: ClusterId,
    repair: Repair,
    /// The highest epoch of a record, here or in coordination.
    epoch: Epoch,
    /// The revision of the record that was examined, if there was one.
    revision: Option<Revision>,
    findings: Vec<Finding>,
}

/// How a recovery ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryDone {
    /// The log that the record lists now.
    pub log_id: LogId,
    /// The last record that was kept.
    pub last: Position,
    /// The record's epoch.
    pub epoch: Epoch,
    /// What was set aside, under the names it has now.
    pub set_aside: Vec<PathBuf>,
}

impl Recovery {
    /// Locks the node's directory, and examines it, and the cluster's `record` and the node's `note`
    /// in coordination. Changes nothing.
    ///
    /// # Errors
    /// [`RecoverError`]; its text is for operators.
    pub async fn examine(
        cluster: ClusterId,
        node: NodeId,
        storage: StorageSettings,
        record: Option<&Versioned>,
        note: Option<&Versioned>,
    ) -> Result<Self, RecoverError> {
        let repair = Repair::examine(storage, Arc::new(RealDisk)).await?;
        let mut findings: Vec<Finding> = (repair.findings().iter())
            .map(|finding| Finding {
                problem: finding.problem.as_str(),
                what: finding.what.clone(),
                remedy: finding.remedy.clone(),
                loss: finding.loss.clone(),
            })
            .collect();
        let seen = readable(repair.cluster_state().as_ref())?.unwrap_or_default();
        let found = readable(record.map(|record| &record.value))?;
        let is_unreadable = record.is_some() && found == Some(None);
        let found = found.flatten();
        for state in seen.iter().chain(&found) {
            if state.members != [node.clone()] {
                return Err(other_members(cluster, node, state));
            }
        }
        let problem = record_problem(
            &cluster,
            &node,
            &repair,
            seen.as_ref(),
            found.as_ref(),
            is_unreadable,
        );
        findings.extend(problem);
        findings.extend(note_problem(&node, &repair, note));
        let epochs = seen.iter().chain(&found).map(|state| state.epoch);
        Ok(Self {
            epoch: epochs.max().unwrap_or_default(),
            revision: record.map(|record| record.revision),
            node,
            cluster,
            repair,
            findings,
        })
    }

    /// The problems found.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Sound records that are given up, as far as they were found.
    #[must_use]
    pub fn given_up(&self) -> &[GivenUp] {
        self.repair.given_up()
    }

    /// The last record that is kept.
    #[must_use]
    pub const fn kept(&self) -> Position {
        self.repair.kept()
    }

    /// Whether there is anything that [`Recovery::carry_out`] can do.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.findings.iter().any(|finding| finding.remedy.is_some())
    }

    /// Carries the recovery out, and logs a warning with what it did.
    ///
    /// # Errors
    /// [`RecoverError`]; retry it with a new examination.
    pub async fn carry_out(
        &mut self,
        coordination: &dyn Coordination,
    ) -> Result<RecoveryDone, RecoverError> {
        let repaired = self.repair.carry_out().await?;
        let key = directory::cluster_state(&self.cluster);
        let record = coordination.get(&key).await?;
        // What was decided on is what was examined: another node may have become master since.
        if record.as_ref().map(|record| record.revision) != self.revision {
            return Err(RecoverError::Contended);
        }
        let found = readable(record.as_ref().map(|record| &record.value))?.flatten();
        let found =
            found.unwrap_or_else(|| ClusterState::unfounded(vec![self.node.clone()], DEFAULT_F_MS));
        let epoch = self.epoch.max(self.repair.epoch()).max(found.epoch).next();
        self.repair.promise(epoch).await?;
        let listed = Listed {
            node: self.node.clone(),
            log_id: repaired.log_id,
        };
        let note = Note {
            log_id: repaired.log_id,
            commit: repaired.last.index,
        };
        let name = directory::log_note(&self.cluster, &self.node);
        let noted = coordination.get(&name).await?;
        replace_note(coordination, &name, noted, note).await?;
        let state = found.succeeded_by(epoch, None, vec![listed]).encode();
        let swapped = match record {
            None => coordination.put_if_absent(&key, state).await,
            Some(record) => {
                coordination
                    .compare_and_swap(&key, record.revision, state)
                    .await
            }
        };
        match swapped {
            Ok(Swap::Won(_)) => {}
            Ok(Swap::Lost) => return Err(RecoverError::Contended),
            Err(CoordinationError::OutcomeUnknown(why)) => return Err(RecoverError::Unknown(why)),
            Err(error) => return Err(error.into()),
        }
        tracing::warn!(
            cluster = %self.cluster,
            node = %self.node,
            log_id = %repaired.log_id,
            %epoch,
            "an operator made this node's log the only one in sync"
        );
        Ok(RecoveryDone {
            log_id: repaired.log_id,
            last: repaired.last,
            epoch,
            set_aside: repaired.set_aside,
        })
    }
}

/// Why a record whose only member is not `node` leads to no recovery of it.
fn other_members(cluster: ClusterId, node: NodeId, state: &ClusterState) -> RecoverError {
    let is_member = state.members.contains(&node);
    let members: Vec<&str> = state.members.iter().map(NodeId::as_str).collect();
    let members = members.join(", ");
    match is_member {
        true => RecoverError::OtherMembers { node, members },
        false => RecoverError::NoMember {
            cluster,
            node,
            members,
        },
    }
}

/// The problem with the node's note of its log (REP-LOGID).
fn note_problem(node: &NodeId, repair: &Repair, note: Option<&Versioned>) -> Option<Finding> {
    let note = Note::decode(&note?.value).ok()?;
    let kept = repair.kept();
    let is_old = (repair.log_id()).is_some_and(|log| note.contradicts(log, kept.index));
    is_old.then(|| Finding {
        problem: "old-copy",
        what: old_copy(node, &note, kept),
        remedy: Some(
            "replace the note, and the record by one with an epoch above all epochs seen, which \
             lists only this node's log"
                .to_owned(),
        ),
        loss: format!("all acknowledged writes after record {kept}"),
    })
}

impl From<NoteError> for RecoverError {
    fn from(error: NoteError) -> Self {
        match error {
            NoteError::Coordination(error) => Self::Coordination(error),
            NoteError::Unreadable(why) => Self::Note(why),
        }
    }
}

/// The record in `bytes`; `None` without bytes, the inner `None` if it can't be decoded.
fn readable(bytes: Option<&Bytes>) -> Result<Option<Option<ClusterState>>, StateError> {
    match bytes.map(|bytes| ClusterState::decode(bytes)) {
        None => Ok(None),
        Some(Ok(state)) => Ok(Some(Some(state))),
        Some(Err(newer @ StateError::Newer(_))) => Err(newer),
        Some(Err(StateError::Unreadable(_) | StateError::Unsound(_))) => Ok(Some(None)),
    }
}

/// The problem with the cluster's record, by the checks of a starting node (COORD-BACK,
/// REP-LOGID).
fn record_problem(
    cluster: &ClusterId,
    node: &NodeId,
    repair: &Repair,
    seen: Option<&ClusterState>,
    found: Option<&ClusterState>,
    is_unreadable: bool,
) -> Option<Finding> {
    let seen = seen.map_or(Epoch::ZERO, |state| state.epoch);
    let remedy = Some(
        "replace the record by one with an epoch above all epochs seen, which lists only this \
         node's log"
            .to_owned(),
    );
    // A record that was made anew says nothing of the one before.
    let found = found.filter(|state| !state.is_unfounded());
    let (problem, what, loss) = match found {
        None if is_unreadable => (
            "record-unreadable",
            format!("coordination's record of cluster {cluster} is unreadable"),
            "no data",
        ),
        None if seen > Epoch::ZERO => (
            "record-missing",
            format!(
                "coordination has no record of cluster {cluster}, but node {node} saw one of \
                 epoch {seen}"
            ),
            "no data; other records of the coordination store are gone and start empty",
        ),
        None => return None,
        Some(state) if state.epoch < seen => (
            "record-behind",
            format!(
                "coordination's record of cluster {cluster} is of epoch {}, but node {node} saw \
                 epoch {seen}: an old backup was restored",
                state.epoch
            ),
            "no data; other changes in the coordination store since that backup stay lost",
        ),
        // A repair that makes another log is reported on its own.
        Some(_) if repair.is_due() && repair.log_id().is_none() => return None,
        Some(state) if repair.log_id().is_none_or(|log| !state.lists(node, log)) => {
            let log = repair.log_id();
            let log = log.map_or_else(|| "no log".to_owned(), |log| format!("log {log}"));
            (
                "log-unlisted",
                format!(
                    "the record of cluster {cluster} lists another log than this directory's \
                     ({log}, up to record {})",
                    repair.kept()
                ),
                "all acknowledged writes that are not in this directory: if it is not the one \
                 that the node wrote last, restore that one instead",
            )
        }
        Some(_) => return None,
    };
    Some(Finding {
        problem,
        what,
        remedy,
        loss: loss.to_owned(),
    })
}
