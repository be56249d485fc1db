//! [`ClusterState`]: the record in coordination that names the master.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tierkv_types::{Epoch, Incarnation, LogId, NodeId};

use super::message::Process;

/// The format that this code writes, and the newest that it reads. Earlier releases wrote formats
/// 1 and 2, without `min_in_sync` and `f_ms`, and format 3, without `process` and `learners`.
const FORMAT: u32 = 4;
/// The first format with `min_in_sync` and `f_ms`.
const FORMAT_WITH_SETTINGS: u32 = 3;

/// The default of F, in milliseconds (REP-TIMES).
pub const DEFAULT_F_MS: u32 = 1_000;
/// The bounds of F, in milliseconds (REP-TIMES).
pub const F_MS_BOUNDS: std::ops::RangeInclusive<u32> = 200..=30_000;

/// The least staleness bound of reads for which `CACHED` reads outlast a failover: 1.05 F + 1 s
/// (REP-TIMES).
#[must_use]
pub const fn least_staleness(f_ms: u32) -> Duration {
    let millis = (f_ms as u64 * 105).div_ceil(100);
    Duration::from_millis(millis + 1_000)
}

/// The master of a cluster and its logs in sync; changed only by compare-and-swap (REP-RECORD).
///
/// The first record of a cluster is *unfounded*: it has members and no logs. A member whose log is
/// empty founds the cluster by winning epoch 1, with at least `min_in_sync` members whose logs are
/// empty, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    format: u32,
    /// The master's term; zero until the cluster is founded.
    pub epoch: Epoch,
    /// The only node that may commit in this term. `None` before the cluster is founded, and after
    /// an operator's recovery, until a listed node wins the next term.
    pub master: Option<NodeId>,
    /// The process of the master. A later process of the same node is not master (REP-START).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Incarnation>,
    /// The logs that hold everything committed.
    pub in_sync: Vec<Listed>,
    /// All nodes of the cluster, in sync or not.
    pub members: Vec<NodeId>,
    /// Nodes that are to become members: they get the log and count for nothing yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learners: Vec<NodeId>,
    /// The fewest logs that may acknowledge a write (REP-MIN).
    #[serde(default)]
    pub min_in_sync: u32,
    /// The silence after which a master is suspected, in milliseconds (REP-TIMES).
    #[serde(default)]
    pub f_ms: u32,
}

/// A log in sync. The node's name alone is not enough, because its disk may have been replaced
/// (REP-LOGID).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The node that keeps the log.
    pub node: NodeId,
    /// The log's random id.
    pub log_id: LogId,
}

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It can't be decoded.
    #[error("the cluster state is not readable: {0}; restore the coordination store")]
    Unreadable(#[from] serde_json::Error),
    /// A newer release wrote it.
    #[error("the cluster state has format {0}, this release reads up to {FORMAT}; upgrade")]
    Newer(u32),
    /// It contradicts itself.
    #[error("the cluster state contradicts itself: {0}; restore the coordination store")]
    Unsound(&'static str),
}

impl ClusterState {
    /// The first record of a cluster, with the default of REP-MIN for this number of members.
    #[must_use]
    pub fn unfounded(members: Vec<NodeId>, f_ms: u32) -> Self {
        Self {
            format: FORMAT,
            epoch: Epoch::ZERO,
            master: None,
            process: None,
            in_sync: Vec::new(),
            learners: Vec::new(),
            min_in_sync: default_min_in_sync(members.len()),
            members,
            f_ms,
        }
    }

    /// The record of a new term, with defaults for the rest.
    #[must_use]
    pub fn new(epoch: Epoch, master: NodeId, in_sync: Vec<Listed>, members: Vec<NodeId>) -> Self {
        Self {
            master: Some(master),
            ..Self::vacant(epoch, in_sync, members)
        }
    }

    /// The record of a term without a master, from an operator's recovery, with defaults for the
    /// rest.
    #[must_use]
    pub fn vacant(epoch: Epoch, in_sync: Vec<Listed>, members: Vec<NodeId>) -> Self {
        Self::unfounded(members, DEFAULT_F_MS).succeeded_by(epoch, None, in_sync)
    }

    /// The record of a later term, with this record's members and settings.
    #[must_use]
    pub fn succeeded_by(
        &self,
        epoch: Epoch,
        master: Option<&Process>,
        in_sync: Vec<Listed>,
    ) -> Self {
        Self {
            epoch,
            master: master.map(|process| process.node.clone()),
            process: master.map(|process| process.incarnation),
            in_sync,
            ..self.clone()
        }
    }

    /// The number of its nodes, members and learners.
    #[must_use]
    pub const fn nodes(&self) -> usize {
        self.members.len() + self.learners.len()
    }

    /// The record of a cluster that an operator continues with one log, as no log in sync is left
    /// (REP-LOGID): of the next epoch, without a master, and without the members that are `leaving`.
    #[must_use]
    pub fn recovered(&self, listed: Listed, leaving: &[NodeId]) -> Self {
        let node = listed.node.clone();
        let mut next = self.succeeded_by(self.epoch.next(), None, vec![listed]);
        next.members.retain(|member| !leaving.contains(member));
        next.learners.retain(|learner| *learner != node);
        if !next.members.contains(&node) {
            next.members.push(node);
        }
        next.min_in_sync = default_min_in_sync(next.members.len());
        next
    }

    /// The record as it is stored.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        // Only maps with non-string keys or failing serializers can fail here; this
        // struct has neither.
        serde_json::to_vec(self)
            .map(Bytes::from)
            .unwrap_or_default()
    }

    /// Reads a stored record; one of an earlier format gets the defaults.
    ///
    /// # Errors
    /// [`StateError`] if it is not readable, newer than this release or unsound.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let mut state: Self = serde_json::from_slice(bytes)?;
        if state.format > FORMAT {
            return Err(StateError::Newer(state.format));
        }
        if state.format < FORMAT_WITH_SETTINGS {
            state.min_in_sync = default_min_in_sync(state.members.len());
            state.f_ms = DEFAULT_F_MS;
        }
        state.format = FORMAT;
        state.check()?;
        Ok(state)
    }

    /// Whether no node has founded the cluster yet: it has no log.
    #[must_use]
    pub fn is_unfounded(&self) -> bool {
        self.epoch == Epoch::ZERO
    }

    /// Whether this node's log, by its id, is in sync.
    #[must_use]
    pub fn lists(&self, node: &NodeId, log_id: LogId) -> bool {
        self.in_sync
            .iter()
            .any(|listed| listed.node == *node && listed.log_id == log_id)
    }

    /// Whether it names this process as master.
    #[must_use]
    pub fn names(&self, process: &Process) -> bool {
        self.master.as_ref() == Some(&process.node) && self.process == Some(process.incarnation)
    }

    /// The process that is master, if the record names one.
    #[must_use]
    pub(super) fn master_process(&self) -> Option<Process> {
        Some(Process {
            node: self.master.clone()?,
            incarnation: self.process?,
        })
    }

    /// Whether the node is a member or is to become one.
    #[must_use]
    pub fn has(&self, node: &NodeId) -> bool {
        self.members.contains(node) || self.learners.contains(node)
    }

    /// The fewest logs that may acknowledge a write (REP-MIN).
    #[must_use]
    pub const fn min_in_sync(&self) -> usize {
        self.min_in_sync as usize
    }

    /// The silence after which a master is suspected (REP-TIMES).
    #[must_use]
    pub const fn silence(&self) -> Duration {
        Duration::from_millis(self.f_ms as u64)
    }

    fn check(&self) -> Result<(), StateError> {
        let unsound = |why| Err(StateError::Unsound(why));
        if self.members.is_empty() {
            return unsound("it has no member");
        }
        if self.min_in_sync == 0 {
            return unsound("min_in_sync is zero");
        }
        if !F_MS_BOUNDS.contains(&self.f_ms) {
            return unsound("f_ms is outside of its bounds");
        }
        if self.is_unfounded() != self.in_sync.is_empty() {
            return unsound("no log is in sync although there was a term, or the other way round");
        }
        let is_listed = |node: &NodeId| self.in_sync.iter().any(|listed| listed.node == *node);
        if !self.master.as_ref().is_none_or(is_listed) {
            return unsound("the master is not in sync");
        }
        let mut listed = self.in_sync.iter().map(|listed| &listed.node);
        if !listed.all(|node| self.members.contains(node)) {
            return unsound("a node in sync is no member");
        }
        if self.process.is_some() && self.master.is_none() {
            return unsound("it names a process and no master");
        }
        let nodes: BTreeSet<&NodeId> = self.members.iter().chain(&self.learners).collect();
        if nodes.len() < self.members.len() + self.learners.len() {
            return unsound("it lists a node twice");
        }
        if self.min_in_sync() > self.members.len() {
            return unsound("min_in_sync is above the number of members");
        }
        Ok(())
    }
}

/// The default of REP-MIN: 1 of 1, else 2.
pub(super) const fn default_min_in_sync(members: usize) -> u32 {
    if members == 1 { 1 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn reads_outlast_a_failover() {
        let millis = |f_ms| least_staleness(f_ms).as_millis();
        assert_eq!((millis(DEFAULT_F_MS), millis(201)), (2_050, 1_212));
        assert_eq!(millis(*F_MS_BOUNDS.end()), 32_500);
    }

    fn state() -> ClusterState {
        let listed = Listed {
            node: node("n1"),
            log_id: LogId(7),
        };
        ClusterState::new(Epoch(3), node("n1"), vec![listed], vec![node("n1")])
    }

    #[test]
    fn it_comes_back_as_it_was_written() {
        assert_eq!(ClusterState::decode(&state().encode()).unwrap(), state());
        assert!(state().lists(&node("n1"), LogId(7)));
        assert!(!state().lists(&node("n1"), LogId(8)));
        let vacant = ClusterState::vacant(Epoch(4), state().in_sync, state().members);
        assert_eq!(ClusterState::decode(&vacant.encode()).unwrap(), vacant);
        assert_eq!(vacant.master, None);
    }

    #[test]
    fn the_first_record_has_no_term_and_its_settings_stay() {
        let first = ClusterState::unfounded(vec![node("n1"), node("n2"), node("n3")], 300);
        assert!(first.is_unfounded());
        assert_eq!((first.min_in_sync(), first.silence().as_millis()), (2, 300));
        assert_eq!(ClusterState::decode(&first.encode()).unwrap(), first);
        let process = Process {
            node: node("n1"),
            incarnation: Incarnation(5),
        };
        let next = first.succeeded_by(Epoch(1), Some(&process), state().in_sync);
        assert!(!next.is_unfounded() && next.names(&process));
        assert_eq!(next.master_process().as_ref(), Some(&process));
        assert_eq!(first.master_process(), None);
        assert_eq!(ClusterState::decode(&next.encode()).unwrap(), next);
        let later = Process {
            incarnation: Incarnation(6),
            ..process
        };
        assert!(!next.names(&later));
        assert_eq!((next.f_ms, next.members.len()), (300, 3));
    }

    /// The format is in users' coordination stores: a change of it needs a new number.
    #[test]
    fn the_encoding_does_not_change_and_earlier_ones_are_read() {
        let rest =
            r#""epoch":3,"master":"n1","in_sync":[{"node":"n1","log_id":7}],"members":["n1"]"#;
        let expected = format!(r#"{{"format":4,{rest},"min_in_sync":1,"f_ms":1000}}"#);
        assert_eq!(state().encode(), expected);
        let named = ClusterState {
            process: Some(Incarnation(9)),
            learners: vec![node("n2")],
            ..state()
        };
        let rest = rest.replace(r#""n1","in_sync""#, r#""n1","process":9,"in_sync""#);
        let expected =
            format!(r#"{{"format":4,{rest},"learners":["n2"],"min_in_sync":1,"f_ms":1000}}"#);
        assert_eq!(named.encode(), expected);
        let third = expected.replace(r#""format":4"#, r#""format":3"#);
        assert_eq!(ClusterState::decode(third.as_bytes()).unwrap(), named);
        let rest =
            r#""epoch":3,"master":"n1","in_sync":[{"node":"n1","log_id":7}],"members":["n1"]"#;
        for earlier in [1, 2] {
            let stored = format!(r#"{{"format":{earlier},{rest}}}"#);
            assert_eq!(ClusterState::decode(stored.as_bytes()).unwrap(), state());
        }
    }

    #[test]
    fn unsound_newer_and_unreadable_records_are_refused() {
        let newer = ClusterState {
            format: FORMAT + 1,
            ..state()
        };
        assert!(matches!(
            ClusterState::decode(&newer.encode()),
            Err(StateError::Newer(5))
        ));
        let unsound = [
            ClusterState {
                master: Some(node("n2")),
                ..state()
            },
            ClusterState {
                min_in_sync: 0,
                ..state()
            },
            ClusterState {
                f_ms: 199,
                ..state()
            },
            ClusterState {
                epoch: Epoch::ZERO,
                ..state()
            },
            ClusterState {
                in_sync: Vec::new(),
                master: None,
                ..state()
            },
            ClusterState {
                members: Vec::new(),
                ..state()
            },
            ClusterState {
                learners: vec![node("n1")],
                ..state()
            },
            ClusterState {
                min_in_sync: 2,
                ..state()
            },
            ClusterState {
                master: None,
                process: Some(Incarnation(1)),
                ..state()
            },
        ];
        for state in unsound {
            let refused = ClusterState::decode(&state.encode());
            assert!(matches!(refused, Err(StateError::Unsound(_))), "{state:?}");
        }
        assert!(matches!(
            ClusterState::decode(b"{"),
            Err(StateError::Unreadable(_))
        ));
    }
}
