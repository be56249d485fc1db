//! The node's place in its cluster as gauges, for alarms: how many of the cluster's nodes are in
//! sync, and whether this one does its share.

use std::{sync::Arc, time::Duration};

use metrics::{Gauge, gauge};
use tierkv_protocol::replication::ClusterState;
use tierkv_rpc::{Pace, Worker};
use tierkv_types::NodeRole;

use crate::{ownership::Owned, sequencer::Sequencer};

/// How often the gauges are set.
const INTERVAL: Duration = Duration::from_secs(1);

/// Whether a node with this role does its share. A master: whether it has applied which slots the
/// cluster owns. Any other node: whether it is in sync, by the record that it sees, and heard its
/// master within F.
pub(crate) fn is_ready(role: NodeRole, owned: &Owned) -> bool {
    match role {
        NodeRole::Master => owned.is_settled(),
        role => role == NodeRole::Replica,
    }
}

/// Sets the gauges of one data node.
pub(crate) struct Standing {
    sequencer: Arc<Sequencer>,
    owned: Arc<Owned>,
    ready: Gauge,
    master: Gauge,
    members: Gauge,
    in_sync: Gauge,
    min_in_sync: Gauge,
}

impl Standing {
    pub(crate) fn new(sequencer: Arc<Sequencer>, owned: Arc<Owned>) -> Self {
        let described = |name: &'static str, help: &'static str| {
            metrics::describe_gauge!(name, help);
            gauge!(name)
        };
        Self {
            sequencer,
            owned,
            ready: described(
                "tierkv_node_ready",
                "1 while the node serves as master, or is in sync and hears its master; else 0.",
            ),
            master: described(
                "tierkv_node_master",
                "1 while the node serves as master of its cluster, else 0.",
            ),
            members: described(
                "tierkv_cluster_members",
                "Members of the cluster, by its record as this node sees it.",
            ),
            in_sync: described(
                "tierkv_cluster_in_sync",
                "Members in sync, by the cluster's record as this node sees it.",
            ),
            min_in_sync: described(
                "tierkv_cluster_min_in_sync",
                "The fewest members in sync with which the cluster takes writes.",
            ),
        }
    }

    fn set(&self, role: NodeRole, state: Option<&ClusterState>) {
        let flag = |is_so: bool| if is_so { 1.0 } else { 0.0 };
        self.ready.set(flag(is_ready(role, &self.owned)));
        self.master.set(flag(role == NodeRole::Master));
        let (members, in_sync, least) = state.map_or((0, 0, 0), |state| {
            (
                state.members.len(),
                state.in_sync.len(),
                state.min_in_sync as usize,
            )
        });
        self.members.set(count(members));
        self.in_sync.set(count(in_sync));
        self.min_in_sync.set(count(least));
    }
}

#[allow(clippy::cast_precision_loss)] // A cluster has a few nodes.
const fn count(of: usize) -> f64 {
    of as f64
}

impl Worker for Standing {
    fn name(&self) -> &'static str {
        "standing"
    }

    async fn work(&mut self) -> Pace {
        let (role, state) = self.sequencer.look(|replica, now| {
            let seen = replica.seen().map(|seen| seen.state.clone());
            (replica.role(now), seen)
        });
        self.set(role, state.as_ref());
        Pace::Idle(INTERVAL)
    }
}

impl Drop for Standing {
    /// Without an engine, as while a snapshot is installed, the node serves nothing.
    fn drop(&mut self) {
        self.ready.set(0.0);
        self.master.set(0.0);
    }
}
