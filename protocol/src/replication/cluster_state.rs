//! [`ClusterState`]: the record in coordination that names the master.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tierkv_types::{Epoch, LogId, NodeId};

/// The newest format that this code reads; it may have no master.
const FORMAT: u32 = 2;
/// The format of a record with a master, which earlier releases read too.
const FORMAT_WITH_MASTER: u32 = 1;

/// The master of a cluster and its logs in sync; changed only by compare-and-swap (REP-RECORD).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    format: u32,
    /// The master's term.
    pub epoch: Epoch,
    /// The only node that may commit in this term. `None` after an operator's recovery, until a
    /// listed node wins the next term.
    pub master: Option<NodeId>,
    /// The logs that hold everything committed.
    pub in_sync: Vec<Listed>,
    /// All nodes of the cluster, in sync or not.
    pub members: Vec<NodeId>,
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
    /// The record of a new term.
    #[must_use]
    pub const fn new(
        epoch: Epoch,
        master: NodeId,
        in_sync: Vec<Listed>,
        members: Vec<NodeId>,
    ) -> Self {
        Self {
            format: FORMAT_WITH_MASTER,
            epoch,
            master: Some(master),
            in_sync,
            members,
        }
    }

    /// The record of a term without a master, from an operator's recovery.
    #[must_use]
    pub const fn vacant(epoch: Epoch, in_sync: Vec<Listed>, members: Vec<NodeId>) -> Self {
        Self {
            format: FORMAT,
            epoch,
            master: None,
            in_sync,
            members,
        }
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

    /// Reads a stored record.
    ///
    /// # Errors
    /// [`StateError`] if it is not readable, newer than this release or unsound.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let state: Self = serde_json::from_slice(bytes)?;
        if state.format > FORMAT {
            return Err(StateError::Newer(state.format));
        }
        state.check()?;
        Ok(state)
    }

    /// Whether this node's log, by its id, is in sync.
    #[must_use]
    pub fn lists(&self, node: &NodeId, log_id: LogId) -> bool {
        self.in_sync
            .iter()
            .any(|listed| listed.node == *node && listed.log_id == log_id)
    }

    /// The fewest logs that may acknowledge a write (REP-MIN).
    #[must_use]
    pub const fn min_in_sync(&self) -> usize {
        if self.members.len() == 1 { 1 } else { 2 }
    }

    fn check(&self) -> Result<(), StateError> {
        if self.epoch == Epoch::ZERO {
            return Err(StateError::Unsound("the epoch is zero"));
        }
        if self.in_sync.is_empty() {
            return Err(StateError::Unsound("no log is in sync"));
        }
        let is_listed = |node: &NodeId| self.in_sync.iter().any(|listed| listed.node == *node);
        if !self.master.as_ref().is_none_or(is_listed) {
            return Err(StateError::Unsound("the master is not in sync"));
        }
        if !self
            .in_sync
            .iter()
            .all(|listed| self.members.contains(&listed.node))
        {
            return Err(StateError::Unsound("a node in sync is no member"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> ClusterState {
        let node = NodeId::new("n1").unwrap();
        let listed = Listed {
            node: node.clone(),
            log_id: LogId(7),
        };
        ClusterState::new(Epoch(3), node.clone(), vec![listed], vec![node])
    }

    #[test]
    fn it_comes_back_as_it_was_written() {
        assert_eq!(ClusterState::decode(&state().encode()).unwrap(), state());
        let node = NodeId::new("n1").unwrap();
        assert!(state().lists(&node, LogId(7)));
        assert!(!state().lists(&node, LogId(8)));
        let vacant = ClusterState::vacant(Epoch(4), state().in_sync, state().members);
        assert_eq!(ClusterState::decode(&vacant.encode()).unwrap(), vacant);
        assert_eq!(vacant.master, None);
    }

    /// Earlier releases read records with a master, and refuse others as newer.
    #[test]
    fn a_record_with_a_master_keeps_its_format() {
        let expected = concat!(
            r#"{"format":1,"epoch":3,"master":"n1","in_sync":[{"node":"n1","log_id":7}],"#,
            r#""members":["n1"]}"#
        );
        assert_eq!(state().encode(), expected);
        let vacant = ClusterState::vacant(Epoch(4), state().in_sync, state().members);
        assert!(vacant.encode().starts_with(br#"{"format":2,"#));
    }

    #[test]
    fn unsound_newer_and_unreadable_records_are_refused() {
        let newer = ClusterState {
            format: FORMAT + 1,
            ..state()
        };
        assert!(matches!(
            ClusterState::decode(&newer.encode()),
            Err(StateError::Newer(3))
        ));
        let stranger = ClusterState {
            master: NodeId::new("n2").ok(),
            ..state()
        };
        assert!(matches!(
            ClusterState::decode(&stranger.encode()),
            Err(StateError::Unsound(_))
        ));
        assert!(matches!(
            ClusterState::decode(b"{"),
            Err(StateError::Unreadable(_))
        ));
    }
}
