//! The route of a slot: its cluster, the cluster's master, and the connection to it.
//!
//! The table is rebuilt at every change in coordination. Requests use the newest table; a refused
//! request waits for the next one.
//!
//! A node whose presence lapsed keeps its last known address while a cluster's state lists it: only
//! the record says who is master, and a node that still answers is not taken out of service
//! (COORD-PRESENCE).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use tierkv_coordination::{
    Coordination, CoordinationError, Versioned, Watched,
    directory::{self, Presence},
};
use tierkv_protocol::{placement::PlacementMap, replication::ClusterState};
use tierkv_rpc::{
    Follower,
    proto::internal::reply,
    tiers::{Peer, ToDataNode},
};
use tierkv_types::{ClusterId, Epoch, Error, NodeId, PlatformId, Slot};
use tokio::sync::watch;

use crate::{
    balanced_read::{Balance, Member, SharedLoad},
    target::Target,
};

/// One version of the routing table.
#[derive(Default)]
pub(crate) struct Routes {
    pub(crate) placement: Option<PlacementMap>,
    pub(crate) clusters: BTreeMap<ClusterId, Cluster>,
    /// All live data nodes, and those that a cluster lists, at their last known addresses.
    pub(crate) nodes: BTreeMap<String, DataNode>,
}

/// One cluster and the connections to its members.
pub(crate) struct Cluster {
    pub(crate) state: ClusterState,
    /// `None` while there is no master.
    master: Option<Peer<ToDataNode>>,
    /// The members in sync, the master among them, as far as they can be reached.
    in_sync: Arc<[Member<Peer<ToDataNode>>]>,
    /// Kept over all tables.
    balance: Arc<Balance>,
}

/// One data node: its newest presence, which may have lapsed, and the connection to it.
#[derive(Clone)]
pub(crate) struct DataNode {
    pub(crate) presence: Presence,
    pub(crate) peer: Peer<ToDataNode>,
    /// Of its reads.
    load: SharedLoad,
}

/// The route to a slot's master.
pub(crate) struct Route {
    pub(crate) master: Peer<ToDataNode>,
    /// The version of the placement map that the route was built from.
    pub(crate) placement_version: u64,
}

/// The members of the cluster that owns a slot, one of which answers a read with a bound.
pub(crate) struct ReadRoute {
    pub(crate) members: Arc<[Member<Peer<ToDataNode>>]>,
    pub(crate) balance: Arc<Balance>,
    /// As in [`Route`].
    pub(crate) placement_version: u64,
}

impl Routes {
    /// The route to the master that owns `slots`.
    ///
    /// # Errors
    /// `Unavailable` while the placement map, the cluster or its master is missing;
    /// `InvalidArgument` if `slots` is empty or has several owners.
    pub(crate) fn of_slots(&self, slots: &[Slot]) -> Result<Route, Error> {
        let placement = self.placement()?;
        let mut owners = slots.iter().map(|slot| placement.owner(*slot).0);
        let cluster = owners
            .next()
            .ok_or_else(|| Error::invalid("the request has no key; give at least one"))?;
        if owners.any(|other| other != cluster) {
            return Err(Error::invalid(
                "the keys of the write live in several clusters, and this release writes within \
                 one; write them apart",
            ));
        }
        let master = self.of_cluster(cluster)?;
        Ok(Route {
            master,
            placement_version: placement.version,
        })
    }

    /// The members that may answer a read of `slot` with a bound; `None` if only the master may,
    /// as no other one is in sync.
    ///
    /// # Errors
    /// `Unavailable` while there is no placement map.
    pub(crate) fn readers_of(&self, slot: Slot) -> Result<Option<ReadRoute>, Error> {
        let placement = self.placement()?;
        let cluster = self.clusters.get(placement.owner(slot).0);
        Ok(cluster.and_then(|cluster| {
            let is_one_a_replica = cluster.in_sync.iter().any(|member| !member.is_master);
            is_one_a_replica.then(|| ReadRoute {
                members: Arc::clone(&cluster.in_sync),
                balance: Arc::clone(&cluster.balance),
                placement_version: placement.version,
            })
        }))
    }

    /// Takes note of the clock that a cluster's answer has shown.
    pub(crate) fn learn_clock(&self, cluster: &ClusterId, answer: &reply::Kind) {
        if let Some(cluster) = self.clusters.get(cluster) {
            cluster.balance.learn_clock(answer);
        }
    }

    /// The routes to the masters of all clusters that own slots.
    ///
    /// # Errors
    /// `Unavailable` while the placement map or one of the masters is missing.
    pub(crate) fn of_all(&self) -> Result<Vec<Route>, Error> {
        let placement = self.placement()?;
        let owners = (placement.clusters.iter())
            .map(|cluster| &cluster.id)
            .filter(|id| placement.share(id) > 0);
        let routes = owners.map(|id| {
            Ok(Route {
                master: self.of_cluster(id)?,
                placement_version: placement.version,
            })
        });
        routes.collect()
    }

    /// The epoch of the target's cluster; zero while that is not known.
    pub(crate) fn epoch_of(&self, target: &Target) -> Epoch {
        let cluster = match target {
            Target::Cluster(cluster) => Some(cluster),
            Target::Slot(slot) => self.owner(*slot),
            // All have one owner, else the request is refused.
            Target::Slots(slots) => slots.first().and_then(|slot| self.owner(*slot)),
        };
        let known = cluster.and_then(|cluster| self.clusters.get(cluster));
        known.map_or(Epoch::ZERO, |cluster| cluster.state.epoch)
    }

    fn owner(&self, slot: Slot) -> Option<&ClusterId> {
        let placement = self.placement.as_ref()?;
        Some(placement.owner(slot).0)
    }

    /// Whether the master of any cluster with slots has a route.
    pub(crate) fn has_any(&self) -> bool {
        let Some(placement) = &self.placement else {
            return false;
        };
        (self.clusters.iter()).any(|(id, it)| it.master.is_some() && placement.share(id) > 0)
    }

    fn placement(&self) -> Result<&PlacementMap, Error> {
        let known = self.placement.as_ref();
        known.ok_or_else(|| Error::unavailable("the platform has no placement map yet"))
    }

    /// The connection to the master of `cluster`.
    ///
    /// # Errors
    /// `Unavailable` while the cluster or its master is missing.
    pub(crate) fn of_cluster(&self, cluster: &ClusterId) -> Result<Peer<ToDataNode>, Error> {
        (self.clusters.get(cluster))
            .and_then(|cluster| cluster.master.clone())
            .ok_or_else(|| {
                Error::unavailable(format!(
                    "cluster {cluster} has no master that could be reached"
                ))
            })
    }
}

/// The states of the clusters, as they stand in coordination.
#[derive(Default)]
struct States {
    readable: BTreeMap<ClusterId, ClusterState>,
    /// Whether a record could not be read: it may list any node.
    has_unreadable: bool,
}

impl States {
    fn may_list(&self, name: &str) -> bool {
        let is_listed = |state: &ClusterState| {
            let in_sync = state.in_sync.iter().map(|listed| &listed.node);
            let nodes = state.members.iter().chain(&state.learners);
            (nodes.chain(in_sync).chain(&state.master)).any(|node| node.as_str() == name)
        };
        self.has_unreadable || self.readable.values().any(is_listed)
    }
}

/// Follows coordination and publishes a new table at every change.
pub(crate) struct RouteKeeper {
    platform: PlatformId,
    placement: Watched<Option<Versioned>>,
    states: Watched<BTreeMap<String, Versioned>>,
    nodes: Watched<BTreeMap<String, Bytes>>,
    known: HashMap<String, DataNode>,
    balances: HashMap<ClusterId, Arc<Balance>>,
    routes: watch::Sender<Arc<Routes>>,
}

impl Follower for RouteKeeper {
    type Error = CoordinationError;

    fn name(&self) -> &'static str {
        "routes"
    }

    async fn apply(&mut self) {
        let table = Arc::new(self.table());
        self.routes.send_replace(table);
    }

    async fn changed(&mut self) -> Result<(), CoordinationError> {
        tokio::select! {
            biased;
            changed = self.placement.changed() => changed,
            changed = self.states.changed() => changed,
            changed = self.nodes.changed() => changed,
        }
    }
}

impl RouteKeeper {
    pub(crate) async fn new(
        platform: PlatformId,
        coordination: &dyn Coordination,
    ) -> Result<Self, CoordinationError> {
        Ok(Self {
            platform,
            placement: coordination.watch(directory::PLACEMENT).await?,
            states: coordination.watch_prefix(directory::CLUSTERS).await?,
            nodes: coordination.observe(directory::DATA_NODES).await?,
            known: HashMap::new(),
            balances: HashMap::new(),
            routes: watch::Sender::default(),
        })
    }

    /// The newest table; empty before the first one.
    pub(crate) fn routes(&self) -> watch::Receiver<Arc<Routes>> {
        self.routes.subscribe()
    }

    /// Builds the table from coordination.
    fn table(&mut self) -> Routes {
        let states = self.states();
        self.update_nodes(&states);
        self.balances
            .retain(|cluster, _| states.readable.contains_key(cluster));
        let clusters = (states.readable.into_iter())
            .map(|(id, state)| {
                let cluster = self.cluster(&id, state);
                (id, cluster)
            })
            .collect();
        let placement = self.placement.current();
        let placement = placement.as_ref().as_ref().and_then(|stored| {
            PlacementMap::decode(&stored.value)
                .inspect_err(|error| tracing::error!(%error, "the placement map is invalid"))
                .ok()
        });
        let nodes = self
            .known
            .iter()
            .map(|(name, node)| (name.clone(), node.clone()))
            .collect();
        Routes {
            placement,
            clusters,
            nodes,
        }
    }

    fn cluster(&mut self, id: &ClusterId, state: ClusterState) -> Cluster {
        let master = (state.master.as_ref()).and_then(|node| self.connection(node));
        let balance = self.balances.entry(id.clone()).or_default();
        let in_sync = state.in_sync.iter().filter_map(|listed| {
            let node = self.known.get(listed.node.as_str())?;
            Some(Member {
                peer: node.peer.clone(),
                load: Arc::clone(&node.load),
                is_master: state.master.as_ref() == Some(&listed.node),
            })
        });
        Cluster {
            in_sync: in_sync.collect(),
            balance: Arc::clone(balance),
            master,
            state,
        }
    }

    /// The states of all clusters.
    fn states(&self) -> States {
        let mut states = States::default();
        for (name, stored) in self.states.current().iter() {
            let Some(id) = directory::cluster_of_state(name) else {
                continue;
            };
            match ClusterState::decode(&stored.value) {
                Ok(state) => {
                    states.readable.insert(id, state);
                }
                Err(error) => {
                    tracing::error!(cluster = %id, %error, "a cluster has no usable route");
                    states.has_unreadable = true;
                }
            }
        }
        states
    }

    /// Takes over the nodes that are present, and forgets those that neither are present nor listed
    /// by a cluster. Connections to nodes that remain are kept.
    fn update_nodes(&mut self, states: &States) {
        let living = self.nodes.current();
        self.known
            .retain(|node, _| living.contains_key(node) || states.may_list(node));
        for (node, data) in living.iter() {
            let Some(presence) = Presence::decode(data) else {
                continue;
            };
            let is_new = (self.known.get(node)).is_none_or(|node| node.presence != presence);
            if !is_new {
                continue;
            }
            // Another process has the name now, so nothing leads to the earlier one.
            match connect(self.platform, node, presence) {
                Some(known) => self.known.insert(node.clone(), known),
                None => self.known.remove(node),
            };
        }
    }

    fn connection(&self, node: &NodeId) -> Option<Peer<ToDataNode>> {
        self.known.get(node.as_str()).map(|node| node.peer.clone())
    }
}

fn connect(platform: PlatformId, node: &str, presence: Presence) -> Option<DataNode> {
    let connect = || {
        let name = presence.process_name(platform, NodeId::new(node)?);
        Peer::new(&presence.address, &name)
    };
    let peer = connect()
        .inspect_err(|error| tracing::error!(node, %error, "a data node can't be reached"))
        .ok()?;
    Some(DataNode {
        presence,
        peer,
        load: SharedLoad::default(),
    })
}
