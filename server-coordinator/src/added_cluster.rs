//! Adds a cluster to a founded platform.
//!
//! ```text
//!   the cluster's state, unfounded ──► placement map, with the cluster and its slots as they were
//! ```
//!
//! The placement map is the last: a cluster that it has is added. If the work is interrupted before,
//! it is completed by adding the same cluster with the same nodes again. The cluster owns no slot, so
//! nothing depends on it until slots are moved to it.

use std::{collections::BTreeMap, slice};

use tierkv_coordination::{
    Coordination, CoordinationError, Revision, Swap, Versioned,
    directory::{self, FoundingCluster, Platform},
};
use tierkv_protocol::{
    placement::{PlacementError, PlacementMap, WeightedCluster},
    replication::ClusterState,
};
use tierkv_types::{ClusterId, NodeId, PlatformId};

use crate::founding::{MAX_ATTEMPTS, check, create, names};

/// A cluster that is added to a platform.
#[derive(Clone, Debug)]
pub struct AddedCluster {
    /// The cluster.
    pub cluster: FoundingCluster,
    /// The silence after which its master is suspected, in milliseconds (REP-TIMES).
    pub f_ms: u32,
}

/// Why a cluster was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// There is no platform.
    #[error(
        "coordination has no founded platform to add a cluster to; found one with `tierkv admin \
         init`, or check coordination.url"
    )]
    NotFounded,
    /// The platform has the cluster.
    #[error(
        "the platform has a cluster {cluster} already, with {slots} slots and the nodes {nodes}; \
         nothing was changed. Start its data nodes with `tierkv datanode --cluster {cluster} --node \
         NODE` and the coordination options of this command, or choose another name"
    )]
    Exists {
        /// Its name.
        cluster: ClusterId,
        /// How many slots it owns.
        slots: u32,
        /// Its nodes.
        nodes: String,
    },
    /// The cluster was begun with other nodes, and not completed.
    #[error(
        "adding the cluster {0} was begun with other nodes or another failover-ms, and not \
         completed; complete it with `tierkv admin add-cluster {0}={1} --failover-ms {2}`, or \
         choose another name"
    )]
    BegunOtherwise(ClusterId, String, u32),
    /// A node belongs to another cluster.
    #[error(
        "the node {0} belongs to cluster {1}; a node belongs to one cluster, so name another one"
    )]
    NodeTaken(NodeId, ClusterId),
    /// The cluster can't be used.
    #[error("{0}")]
    Unsound(String),
    /// A record can't be read.
    #[error("the record {0} in coordination can't be read: {1}; nothing was changed")]
    Unreadable(String, String),
    /// The placement map can't be read.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// From the coordination store.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
}

impl AddedCluster {
    /// Adds the cluster; returns the platform's id.
    ///
    /// # Errors
    /// [`AddError`]. After one of the coordination store's, the cluster may be added in part: add it
    /// again.
    pub async fn carry_out(&self, coordination: &dyn Coordination) -> Result<PlatformId, AddError> {
        check(slice::from_ref(&self.cluster), self.f_ms).map_err(AddError::Unsound)?;
        let founded = coordination.get(directory::PLATFORM).await?;
        let founded = founded.ok_or(AddError::NotFounded)?;
        let platform = Platform::decode(&founded.value)
            .map_err(|why| AddError::Unreadable(directory::PLATFORM.to_owned(), why))?;
        let mut placement = self.placement(coordination).await?;
        self.check_new(&placement.1, &self.states(coordination).await?)?;
        self.create_state(coordination).await?;
        // Whether an earlier swap has an unknown outcome: a map with the cluster is then its effect
        // (COORD-CAS).
        let mut may_be_added = false;
        for _ in 0..MAX_ATTEMPTS {
            let (revision, map) = placement;
            let next = map.with_cluster(WeightedCluster {
                id: self.cluster.id.clone(),
                weight: self.cluster.weight,
            });
            let swapped = coordination
                .compare_and_swap(directory::PLACEMENT, revision, next.encode())
                .await;
            match swapped {
                Ok(Swap::Won(_)) => return Ok(platform.id),
                Ok(Swap::Lost) => {}
                Err(CoordinationError::OutcomeUnknown(_)) => may_be_added = true,
                Err(error) => return Err(error.into()),
            }
            placement = self.placement(coordination).await?;
            if may_be_added && placement.1.has(&self.cluster.id) {
                return Ok(platform.id);
            }
            self.check_new(&placement.1, &self.states(coordination).await?)?;
        }
        Err(CoordinationError::Unavailable(
            "the placement map is being changed by others; add the cluster again".to_owned(),
        )
        .into())
    }

    /// Checks that the platform neither has the cluster nor needs its nodes elsewhere.
    fn check_new(
        &self,
        map: &PlacementMap,
        states: &BTreeMap<ClusterId, ClusterState>,
    ) -> Result<(), AddError> {
        let id = &self.cluster.id;
        if map.has(id) {
            let members = states.get(id).map(|state| state.members.as_slice());
            return Err(AddError::Exists {
                cluster: id.clone(),
                slots: map.share(id),
                nodes: names(members.unwrap_or_default()),
            });
        }
        for node in &self.cluster.members {
            let others = states.iter().filter(|(cluster, _)| *cluster != id);
            let mut having = others.filter(|(_, state)| state.has(node));
            if let Some((cluster, _)) = having.next() {
                return Err(AddError::NodeTaken(node.clone(), cluster.clone()));
            }
        }
        Ok(())
    }

    /// The placement map and its revision.
    async fn placement(
        &self,
        coordination: &dyn Coordination,
    ) -> Result<(Revision, PlacementMap), AddError> {
        let stored = coordination.get(directory::PLACEMENT).await?;
        let stored = stored.ok_or(AddError::NotFounded)?;
        Ok((stored.revision, PlacementMap::decode(&stored.value)?))
    }

    /// The states of all clusters.
    async fn states(
        &self,
        coordination: &dyn Coordination,
    ) -> Result<BTreeMap<ClusterId, ClusterState>, AddError> {
        let watched = coordination.watch_prefix(directory::CLUSTERS).await?;
        let stored = watched.current();
        let states = stored.iter().filter_map(|(name, stored)| {
            let id = directory::cluster_of_state(name)?;
            Some(decoded(name, stored).map(|state| (id, state)))
        });
        states.collect()
    }

    /// Creates the cluster's state. One that an interrupted attempt left is kept: its nodes may have
    /// begun their log meanwhile.
    async fn create_state(&self, coordination: &dyn Coordination) -> Result<(), AddError> {
        let key = directory::cluster_state(&self.cluster.id);
        let state = ClusterState::unfounded(self.cluster.members.clone(), self.f_ms);
        let stored = create(coordination, &key, state.encode()).await?;
        let stored = ClusterState::decode(&stored)
            .map_err(|error| AddError::Unreadable(key, error.to_string()))?;
        match stored.members == state.members && stored.f_ms == state.f_ms {
            true => Ok(()),
            false => Err(AddError::BegunOtherwise(
                self.cluster.id.clone(),
                names(&stored.members),
                stored.f_ms,
            )),
        }
    }
}

fn decoded(name: &str, stored: &Versioned) -> Result<ClusterState, AddError> {
    ClusterState::decode(&stored.value)
        .map_err(|error| AddError::Unreadable(name.to_owned(), error.to_string()))
}

#[cfg(test)]
mod tests;
