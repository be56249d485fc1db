//! [`Following`]: the state of a node that is not master.

use std::collections::BTreeMap;

use tierkv_types::{BootTime, Epoch, NodeId, Round};

use super::{
    cluster_state::ClusterState,
    message::{Confirm, Offer, Process},
};

/// A node that follows a master, or looks for one.
#[derive(Clone, Debug)]
pub(super) struct Following {
    /// The master that was heard last, or that a record of a later epoch names.
    pub(super) master: Option<Process>,
    /// When a master was heard last, or a record of a later epoch was seen first; in the beginning,
    /// when the node began to follow.
    pub(super) heard_at: BootTime,
    /// The newest round of the master's.
    pub(super) round: Round,
    /// The epoch of the master's last message, if its log begins after the end of this node's.
    pub(super) lacking: Option<Epoch>,
    /// The question that was asked last.
    pub(super) asking: Option<Asking>,
    /// A master whose epoch is being promised.
    pub(super) promised_to: Option<(Process, Epoch)>,
    /// A master that asks this process not to take an epoch, which is being promised.
    pub(super) declining: Option<(NodeId, Epoch)>,
    /// An offer of mastership, and the last read before it, that waits for a read of the record.
    pub(super) offered: Option<(Process, Offer, u64)>,
}

impl Following {
    pub(super) const fn since(now: BootTime) -> Self {
        Self {
            master: None,
            heard_at: now,
            round: Round::ZERO,
            lacking: None,
            asking: None,
            promised_to: None,
            declining: None,
            offered: None,
        }
    }
}

/// A candidate's question and its answers.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    pub(super) number: u64,
    pub(super) asked_at: BootTime,
    /// The record that it goes by.
    pub(super) seen: (Epoch, u64),
    /// The members that confirm.
    pub(super) granted: BTreeMap<NodeId, Confirm>,
    /// The highest epoch that a member promised.
    pub(super) promised: Epoch,
}

/// A record that this node proposes, with itself as master.
#[derive(Clone, Debug)]
pub(super) struct Proposal {
    /// The revision that the swap replaces. Once the record has a later one, the swap has
    /// succeeded or never will.
    pub(super) expected: u64,
    pub(super) next: ClusterState,
    pub(super) stage: Stage,
}

/// How far a proposal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The epoch is being made durable.
    Promising,
    /// The swap is under way, or is tried again because its outcome is unknown.
    Swapping,
    /// The last try failed; an earlier one may have succeeded, which a read shows.
    Lost,
}
