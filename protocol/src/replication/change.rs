//! [`Change`]s of a cluster that operators want.

use std::collections::VecDeque;

use tierkv_types::NodeId;

use super::cluster_state::{ClusterState, F_MS_BOUNDS, default_min_in_sync};

/// Most changes that may wait; more are refused.
const MAX_WANTED: usize = 16;
/// Most members and learners of a cluster.
pub const MAX_MEMBERS: usize = 9;

/// A change of a cluster's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The node gets the log; once it has it, it becomes a member in sync.
    AddNode(NodeId),
    /// The node is no member any more.
    RemoveNode(NodeId),
    /// F, in milliseconds (REP-TIMES).
    SetF(u32),
}

/// Why a change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The node is a member already.
    #[error("the node is a member of the cluster already")]
    IsMember,
    /// There is no such node.
    #[error("the cluster has no such node; `tierkv status` lists its nodes")]
    NoMember,
    /// The master itself.
    #[error("the node is the cluster's master; hand over first: `tierkv admin handover`")]
    IsMaster,
    /// Too few logs would be left.
    #[error(
        "fewer logs would be in sync than the cluster needs to commit; add a node first, or wait \
         until more nodes are in sync"
    )]
    TooFewInSync,
    /// Too many nodes.
    #[error("the cluster has {MAX_MEMBERS} nodes already, the limit max_members; remove one first")]
    TooManyMembers,
    /// F is out of bounds.
    #[error("F must be between {} and {} ms", F_MS_BOUNDS.start(), F_MS_BOUNDS.end())]
    FOutOfBounds,
    /// Too many changes wait.
    #[error("{MAX_WANTED} changes of the cluster wait already; try again later")]
    TooManyChanges,
    /// This node is not the master, or stopped being it meanwhile.
    #[error("this node is not the cluster's master")]
    NotMaster,
}

impl Change {
    /// Applies it to a record.
    pub(super) fn apply(self, state: &mut ClusterState, me: &NodeId) -> Result<(), ChangeError> {
        match self {
            Self::AddNode(node) => {
                if state.has(&node) {
                    return Err(ChangeError::IsMember);
                }
                if state.members.len() + state.learners.len() >= MAX_MEMBERS {
                    return Err(ChangeError::TooManyMembers);
                }
                state.learners.push(node);
            }
            Self::RemoveNode(node) => {
                if node == *me {
                    return Err(ChangeError::IsMaster);
                }
                if !state.has(&node) {
                    return Err(ChangeError::NoMember);
                }
                state.members.retain(|member| *member != node);
                state.learners.retain(|learner| *learner != node);
                state.in_sync.retain(|listed| listed.node != node);
                state.min_in_sync = default_min_in_sync(state.members.len());
            }
            Self::SetF(f_ms) => {
                if !F_MS_BOUNDS.contains(&f_ms) {
                    return Err(ChangeError::FOutOfBounds);
                }
                state.f_ms = f_ms;
            }
        }
        Ok(())
    }
}

/// The number of a wanted change that has ended, and its result.
pub(super) type Ended = (u64, Result<(), ChangeError>);

/// The changes that wait, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    changes: VecDeque<(u64, Change)>,
    /// Whether the first is part of the swap under way.
    is_included: bool,
}

impl Wanted {
    pub(super) fn push(&mut self, id: u64, change: Change) {
        self.changes.push_back((id, change));
    }

    pub(super) fn is_full(&self) -> bool {
        self.changes.len() >= MAX_WANTED
    }

    pub(super) fn next(&self) -> Option<(u64, Change)> {
        self.changes.front().cloned()
    }

    pub(super) fn take(&mut self) -> Option<(u64, Change)> {
        self.changes.pop_front()
    }

    /// The first one is part of a swap from now on.
    pub(super) fn include(&mut self) {
        self.is_included = !self.changes.is_empty();
    }

    /// The swap is settled. Returns the id of its change if that is installed now.
    pub(super) fn settled(&mut self, is_installed: bool) -> Option<u64> {
        let is_done = std::mem::take(&mut self.is_included) && is_installed;
        is_done.then(|| self.take()).flatten().map(|(id, _)| id)
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = u64> {
        self.changes.drain(..).map(|(id, _)| id)
    }
}
