//! [`ClusterRecovery`]: an operator continues a cluster of which no log in sync is left (REP-LOGID), or
//! whose record in coordination went back (COORD-BACK).
//!
//! ```text
//!  record, presences, notes, reports of the nodes ──examine──► findings ──check(node)──► refusal
//!                                                                  │
//!                                          examine again ──► placement map ──► the cluster's record
//! ```
//!
//! The record that is written lists the chosen node's log and names no master; the node then takes
//! mastership in the ordinary way. What only the lost logs had is lost: so it is refused while one of
//! them may still be there, while a master is heard by anyone who answers, and for a log that is
//! behind another one. What no examination can show is a process that clients reach and this command
//! does not: whoever accepts the loss must have stopped it.
//!
//! If an old backup of coordination was restored, nodes have seen a newer record than it has, and wait.
//! The newest that they report then counts: it says whose logs are in sync, and the record that is
//! written has an epoch above it. Nothing is lost with one of these logs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use futures::future::try_join_all;
use tierkv_coordination::{
    Coordination, CoordinationError, Revision, Swap,
    directory::{self, Presence},
};
use tierkv_protocol::{
    placement::{PlacementError, PlacementMap},
    replication::{ClusterState, Listed, Note, Seen, StateError},
};
use tierkv_rpc::{
    AddressedChannel, channel,
    proto::{internal::InspectResponse, v1},
    tiers::inspect,
};
use tierkv_types::{ClusterId, Epoch, Index, LogId, NodeId, NodeRole, PlatformId, Position};

use crate::founding::MAX_ATTEMPTS;

/// Timeout of a node's report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a cluster could not be examined or recovered.
#[derive(Debug, thiserror::Error)]
pub enum ClusterRecoveryError {
    /// There is no such cluster.
    #[error("the platform has no cluster {0}; `tierkv status` lists its clusters")]
    NoCluster(ClusterId),
    /// It has no log yet.
    #[error("the cluster {0} has no log yet, so there is nothing to recover; start its nodes")]
    Unfounded(ClusterId),
    /// The record can't be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The placement map can't be read.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// It must not be recovered with this node, or not now.
    #[error("{0}")]
    Refused(String),
    /// The record was changed during the recovery.
    #[error("the cluster's record was changed during the recovery; recover again, which shows it")]
    Contended,
    /// The answer of the coordination store was lost.
    #[error(
        "whether the cluster's record was changed is unknown ({0}); recover again, which shows it"
    )]
    Unknown(String),
    /// From the coordination store.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
}

/// What a node reported of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogReport {
    /// The log's id.
    pub log_id: LogId,
    /// Its last record.
    pub last: Position,
    /// The last record that the node knows to be committed.
    pub commit: Index,
    /// What the node is in its cluster.
    pub role: NodeRole,
    /// The master that it heard lately.
    pub follows: Option<String>,
    /// The newest record that it saw, if it waits because coordination has an older one.
    pub newest: Option<Seen>,
    /// The highest epoch that it or others saw, if it waits; else zero.
    pub awaits_above: Epoch,
}

/// A node of the cluster, as far as it is found.
#[derive(Clone, Debug)]
pub struct NodeFinding {
    /// The node.
    pub node: NodeId,
    /// The id of its log that the record lists.
    pub listed: Option<LogId>,
    /// Its process, by its presence in coordination.
    pub presence: Option<Presence>,
    /// What it last noted of its log in coordination.
    pub note: Option<Note>,
    /// Its report; `None` if it does not answer.
    pub report: Option<LogReport>,
}

impl NodeFinding {
    /// A node of which nothing is found.
    const fn absent(node: NodeId) -> Self {
        Self {
            node,
            listed: None,
            presence: None,
            note: None,
            report: None,
        }
    }

    /// Whether the log that it reports is in sync by the record.
    fn has_listed_log(&self) -> bool {
        let log_id = self.report.as_ref().map(|report| report.log_id);
        log_id.is_some() && log_id == self.listed
    }
}

/// A cluster's record and nodes, examined.
#[derive(Clone, Debug)]
pub struct ClusterRecovery {
    cluster: ClusterId,
    platform: PlatformId,
    revision: Revision,
    /// The newest record: coordination's, or one that a node reports.
    state: ClusterState,
    /// The epoch of coordination's record, if that is older.
    behind: Option<Epoch>,
    /// The highest epoch that nodes wait to be exceeded; zero if none waits.
    awaited: Epoch,
    nodes: Vec<NodeFinding>,
}

impl ClusterRecovery {
    /// Examines a cluster. Changes nothing.
    ///
    /// # Errors
    /// [`ClusterRecoveryError`].
    pub async fn examine(
        coordination: &dyn Coordination,
        platform: PlatformId,
        cluster: ClusterId,
    ) -> Result<Self, ClusterRecoveryError> {
        let record = coordination
            .get(&directory::cluster_state(&cluster))
            .await?;
        let record = record.ok_or_else(|| ClusterRecoveryError::NoCluster(cluster.clone()))?;
        let state = ClusterState::decode(&record.value)?;
        if state.is_unfounded() {
            return Err(ClusterRecoveryError::Unfounded(cluster));
        }
        let presences = coordination.list(directory::DATA_NODES).await?;
        let presences = presences_of(&cluster, &presences);
        let names = state.members.iter().chain(&state.learners);
        let names: BTreeSet<&NodeId> = names.chain(presences.keys()).collect();
        let found = (names.into_iter()).map(|node| {
            let presence = presences.get(node).cloned();
            find(coordination, platform, &cluster, node, presence)
        });
        let found = try_join_all(found).await?;
        let revision = record.revision;
        let seen = Seen {
            revision: revision.0,
            state,
        };
        Ok(Self::of(cluster, platform, revision, seen, &found))
    }

    /// `found`: at least the nodes of `record`, which is coordination's.
    fn of(
        cluster: ClusterId,
        platform: PlatformId,
        revision: Revision,
        record: Seen,
        found: &[NodeFinding],
    ) -> Self {
        let epoch = record.state.epoch;
        let order = record.order();
        let reports = || found.iter().filter_map(|it| it.report.as_ref());
        let awaited = reports().map(|report| report.awaits_above).max();
        let awaited = awaited.unwrap_or_default();
        let seen = reports().filter_map(|report| report.newest.clone());
        let newest = seen.filter(|seen| seen.order() > order);
        let newest = newest.max_by_key(Seen::order);
        // A node may wait for what one that does not answer saw.
        let is_behind = newest.is_some() || awaited > epoch;
        let behind = is_behind.then_some(epoch);
        let state = newest.unwrap_or(record).state;
        let names = state.members.iter().chain(&state.learners);
        let nodes = names.map(|node| {
            let known = found.iter().find(|it| it.node == *node).cloned();
            let listed = state.in_sync.iter().find(|listed| listed.node == *node);
            NodeFinding {
                listed: listed.map(|listed| listed.log_id),
                ..known.unwrap_or_else(|| NodeFinding::absent(node.clone()))
            }
        });
        Self {
            nodes: nodes.collect(),
            cluster,
            platform,
            revision,
            behind,
            awaited,
            state,
        }
    }

    /// The cluster's nodes.
    #[must_use]
    pub fn nodes(&self) -> &[NodeFinding] {
        &self.nodes
    }

    /// The highest epoch of a record that was found, or that nodes know to have existed.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.state.epoch.max(self.awaited)
    }

    /// The members that do not answer: one of them may have seen a newer record than was found.
    pub fn silent(&self) -> impl Iterator<Item = &NodeFinding> {
        self.nodes.iter().filter(|found| found.report.is_none())
    }

    /// Whether every node of the newest record answers, and none knows of a newer one: then nothing
    /// is lost with a log in sync.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.silent().next().is_none() && self.awaited <= self.state.epoch
    }

    /// The epoch of coordination's record, if nodes have seen a newer one: an old backup of the
    /// coordination store was restored.
    #[must_use]
    pub const fn behind(&self) -> Option<Epoch> {
        self.behind
    }

    /// Whether the log of `node` is in sync by the newest record, so that nothing is lost with it.
    #[must_use]
    pub fn is_in_sync(&self, node: &NodeId) -> bool {
        let found = self.nodes.iter().find(|found| found.node == *node);
        found.is_some_and(NodeFinding::has_listed_log)
    }

    /// The node that has most of the log, of those that answer; of those whose logs are in sync, if
    /// there are any.
    #[must_use]
    pub fn best(&self) -> Option<&NodeId> {
        let (best, _) = self.best_report()?;
        Some(&best.node)
    }

    fn best_report(&self) -> Option<(&NodeFinding, &LogReport)> {
        let reports = self
            .nodes
            .iter()
            .filter_map(|it| Some((it, it.report.as_ref()?)));
        reports.max_by_key(|(found, report)| (found.has_listed_log(), report.last))
    }

    /// Why the cluster needs no recovery, or must not be recovered now.
    #[must_use]
    pub fn objection(&self) -> Option<String> {
        let reports = || {
            self.nodes
                .iter()
                .filter_map(|it| Some((it, it.report.as_ref()?)))
        };
        let is_master = |role| matches!(role, NodeRole::Master | NodeRole::TakingOver);
        if let Some((found, _)) = reports().find(|(_, report)| is_master(report.role)) {
            return Some(format!(
                "node {} is the master of cluster {} and answers: there is nothing to recover",
                found.node, self.cluster
            ));
        }
        for (found, report) in reports() {
            if let Some(master) = &report.follows {
                return Some(format!(
                    "node {} hears the master {master}, which does not answer here: the cluster has \
                     a master; look at the network between this machine and {master}",
                    found.node
                ));
            }
            if self.behind.is_none() && found.has_listed_log() {
                return Some(format!(
                    "node {} has a log that is in sync, and runs: nothing is lost, and it becomes \
                     master once a majority of the members runs. Start those that don't ({}); one \
                     whose disk is lost with an empty data directory",
                    found.node,
                    names(self.silent())
                ));
            }
        }
        let may_be_there = |found: &&NodeFinding| {
            found.listed.is_some() && found.report.is_none() && found.presence.is_some()
        };
        let found = self.nodes.iter().find(may_be_there)?;
        let presence = found.presence.as_ref()?;
        Some(format!(
            "the process of node {} is present in coordination (pid {} on host '{}', at {}) but does \
             not answer, and its log is in sync: if it runs, its log is not lost, so repair the \
             network; if it was killed, try again once its presence has lapsed, some seconds later",
            found.node, presence.pid, presence.host, presence.address
        ))
    }

    /// Checks that the cluster may be continued with the log of `node`, and returns the record's next
    /// state.
    ///
    /// # Errors
    /// [`ClusterRecoveryError::Refused`], with what to do.
    fn check(&self, node: &NodeId) -> Result<ClusterState, ClusterRecoveryError> {
        let refused = |why: String| Err(ClusterRecoveryError::Refused(why));
        if let Some(why) = self.objection() {
            return refused(why);
        }
        let Some(found) = self.nodes.iter().find(|found| found.node == *node) else {
            return refused(format!(
                "the cluster {} has no node {node}; its nodes are {}",
                self.cluster,
                names(self.nodes.iter())
            ));
        };
        let Some(report) = &found.report else {
            return refused(format!(
                "node {node} does not answer, so its log can't be looked at; start its process \
                 first: it waits for a master"
            ));
        };
        let best = self.best_report();
        if let Some((better, _)) = best
            && better.has_listed_log()
            && !found.has_listed_log()
        {
            return refused(format!(
                "the log of {node} is not in sync by the newest record that the nodes saw, that of {} \
                 is: continue with {}, which loses nothing",
                better.node, better.node
            ));
        }
        if let Some((better, log)) = best
            && log.last > report.last
        {
            return refused(format!(
                "the log of node {} ends with record {}, that of {node} with {}: continue with {}, \
                 which loses less",
                better.node, log.last, report.last, better.node
            ));
        }
        let listed = Listed {
            node: node.clone(),
            log_id: report.log_id,
        };
        let mut next = self.state.recovered(listed, &self.leaving(node));
        next.epoch = next.epoch.max(self.awaited.next());
        Ok(next)
    }

    /// The members that leave the cluster if it goes on with `node`: those that do not answer, if
    /// the others are no majority, without which nobody becomes master.
    #[must_use]
    pub fn leaving(&self, node: &NodeId) -> Vec<NodeId> {
        let members = || {
            let of_members = |it: &&NodeFinding| self.state.members.contains(&it.node);
            self.nodes.iter().filter(of_members)
        };
        let answering = members().filter(|it| it.report.is_some() || it.node == *node);
        if answering.count() > self.state.members.len() / 2 {
            return Vec::new();
        }
        let silent = members().filter(|it| it.report.is_none() && it.node != *node);
        silent.map(|it| it.node.clone()).collect()
    }

    /// The records that were committed, as far as the notes and reports show, and that the log of
    /// `node` does not have; `None` if it does not answer.
    #[must_use]
    pub fn known_loss(&self, node: &NodeId) -> Option<u64> {
        let found = self.nodes.iter().find(|found| found.node == *node)?;
        let last = found.report.as_ref()?.last.index;
        let noted = self
            .nodes
            .iter()
            .filter_map(|it| it.note.map(|it| it.commit));
        let reported = self
            .nodes
            .iter()
            .filter_map(|it| Some(it.report.as_ref()?.commit));
        let highest = noted.chain(reported).max().unwrap_or_default();
        Some(highest.0.saturating_sub(last.0))
    }

    /// Continues the cluster with the log of `node`, after another examination. Returns the epoch of
    /// the new record.
    ///
    /// # Errors
    /// [`ClusterRecoveryError`].
    pub async fn carry_out(
        &self,
        coordination: &dyn Coordination,
        node: &NodeId,
    ) -> Result<Epoch, ClusterRecoveryError> {
        // The operator decided on what was shown; a node may have come back since.
        let now = Self::examine(coordination, self.platform, self.cluster.clone()).await?;
        if now.revision != self.revision {
            return Err(ClusterRecoveryError::Contended);
        }
        let next = now.check(node)?;
        give_slots_a_new_revision(coordination, &self.cluster).await?;
        let key = directory::cluster_state(&self.cluster);
        let swapped = coordination
            .compare_and_swap(&key, now.revision, next.encode())
            .await;
        match swapped {
            Ok(Swap::Won(_)) => {}
            Ok(Swap::Lost) => return Err(ClusterRecoveryError::Contended),
            Err(CoordinationError::OutcomeUnknown(why)) => {
                return Err(ClusterRecoveryError::Unknown(why));
            }
            Err(error) => return Err(error.into()),
        }
        tracing::warn!(
            cluster = %self.cluster,
            %node,
            epoch = %next.epoch,
            "an operator made this node's log the only one in sync; what only the lost logs had is \
             lost"
        );
        Ok(next.epoch)
    }
}

fn names<'a>(nodes: impl Iterator<Item = &'a NodeFinding>) -> String {
    let names: Vec<&str> = nodes.map(|found| found.node.as_str()).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}

/// Entries of the cache may hold what is lost: under a new revision of their slots nobody finds them
/// (CACHE-REDELIVER).
async fn give_slots_a_new_revision(
    coordination: &dyn Coordination,
    cluster: &ClusterId,
) -> Result<(), ClusterRecoveryError> {
    for _ in 0..MAX_ATTEMPTS {
        let Some(stored) = coordination.get(directory::PLACEMENT).await? else {
            return Ok(());
        };
        let map = PlacementMap::decode(&stored.value)?;
        if map.share(cluster) == 0 {
            return Ok(());
        }
        let next = map.with_new_revision(cluster);
        let swapped = coordination
            .compare_and_swap(directory::PLACEMENT, stored.revision, next.encode())
            .await;
        match swapped {
            Ok(Swap::Won(_)) => return Ok(()),
            // Once more is no loss.
            Ok(Swap::Lost) | Err(CoordinationError::OutcomeUnknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(CoordinationError::Unavailable(
        "the placement map is being changed by others; recover again".to_owned(),
    )
    .into())
}

/// The presences of the cluster's nodes, also of those that the record does not have.
fn presences_of(
    cluster: &ClusterId,
    present: &BTreeMap<String, Bytes>,
) -> BTreeMap<NodeId, Presence> {
    let found = present.iter().filter_map(|(name, data)| {
        let presence = Presence::decode(data)?;
        let is_of_cluster = presence.cluster.as_ref() == Some(cluster);
        is_of_cluster.then_some((NodeId::new(name).ok()?, presence))
    });
    found.collect()
}

/// Collects what is known of a node, but for what the record says of it.
async fn find(
    coordination: &dyn Coordination,
    platform: PlatformId,
    cluster: &ClusterId,
    node: &NodeId,
    presence: Option<Presence>,
) -> Result<NodeFinding, ClusterRecoveryError> {
    let note = coordination
        .get(&directory::log_note(cluster, node))
        .await?;
    let report = match &presence {
        Some(presence) => report(platform, node, presence).await,
        None => None,
    };
    Ok(NodeFinding {
        presence,
        note: note.and_then(|note| Note::decode(&note.value).ok()),
        report,
        ..NodeFinding::absent(node.clone())
    })
}

/// The report of the process with this presence; `None` if it does not answer.
async fn report(platform: PlatformId, node: &NodeId, presence: &Presence) -> Option<LogReport> {
    let name = presence.process_name(platform, node.clone());
    let process = AddressedChannel::new(channel(&presence.address).ok()?, &name);
    let report = inspect(process, REPORT_TIMEOUT).await.ok()?;
    // A process that replaces its state, or waits to do so, has no log to go on with.
    let has_log = |report: &LogReport| report.log_id != LogId(0);
    Some(read(report)).filter(has_log)
}

fn read(report: InspectResponse) -> LogReport {
    let role = NodeRole::from(v1::NodeRole::try_from(report.role).unwrap_or_default());
    LogReport {
        log_id: LogId(report.log_id),
        last: Position {
            epoch: Epoch(report.log_epoch),
            index: Index(report.log_index),
        },
        commit: Index(report.commit_index),
        role,
        follows: (!report.follows.is_empty()).then_some(report.follows),
        // None: it waits for nothing, or is of another release, which can't be helped here.
        newest: Seen::decode(&report.awaits_newer_than).ok(),
        awaits_above: Epoch(report.awaits_epoch_above),
    }
}

#[cfg(test)]
mod tests;
