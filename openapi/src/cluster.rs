//! The topology and its health, as JSON.

use serde::{Deserialize, Serialize};
use tierkv_proto::v1;
use utoipa::ToSchema;

/// The whole platform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClusterReport {
    /// The data clusters.
    pub clusters: Vec<Cluster>,
    /// The server coordinators, primary and backups.
    pub server_coordinators: Vec<Coordinator>,
    /// The client coordinators.
    pub client_coordinators: Vec<Coordinator>,
    /// The cache tier's nodes.
    pub cache: Vec<CacheNode>,
    /// The version of the placement map.
    pub placement: u64,
    /// Transactions in doubt.
    pub transactions: u64,
}

/// One data cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// Its name.
    pub id: String,
    /// The master's term.
    pub epoch: u64,
    /// The master's name.
    pub master: String,
    /// The nodes whose logs hold everything committed.
    pub in_sync: Vec<String>,
    /// How many of the 4,096 slots it owns.
    pub slots: u32,
    /// All its nodes.
    pub members: Vec<Member>,
}

/// One data node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Its name.
    pub node: String,
    /// Where it listens.
    pub address: String,
    /// The machine it runs on.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// `master`, `replica`, `taking over`, `starting` or `unreachable`.
    pub role: String,
    /// The last record of its log.
    pub log_index: u64,
    /// The last record that it knows to be committed.
    pub commit_index: u64,
    /// How stale its answers may be.
    pub age_ms: u32,
}

/// One coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Coordinator {
    /// Its name.
    pub node: String,
    /// Where it listens.
    pub address: String,
    /// Its process id.
    pub pid: u32,
    /// `primary`, `backup` or `serving`.
    pub role: String,
    /// The epoch of its primacy; 0 without.
    pub epoch: u64,
}

/// One cache node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CacheNode {
    /// Its name.
    pub node: String,
    /// `up` or `down`.
    pub health: String,
    /// Hits a lookup, 0 to 1.
    pub hit_ratio: f64,
    /// How old a hit would be now, by cluster; absent where no mark stands.
    pub marks: Vec<CacheMark>,
}

/// How far one cache node may be believed about one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheMark {
    /// The cluster.
    pub cluster: String,
    /// How old a hit would be now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub age_ms: Option<u32>,
}

impl From<v1::GetClusterResponse> for ClusterReport {
    fn from(wire: v1::GetClusterResponse) -> Self {
        Self {
            clusters: wire.clusters.into_iter().map(Into::into).collect(),
            server_coordinators: wire
                .server_coordinators
                .into_iter()
                .map(Into::into)
                .collect(),
            client_coordinators: wire
                .client_coordinators
                .into_iter()
                .map(Into::into)
                .collect(),
            cache: wire.cache.into_iter().map(Into::into).collect(),
            placement: wire.placement,
            transactions: wire.transactions,
        }
    }
}

impl From<v1::ClusterStatus> for Cluster {
    fn from(wire: v1::ClusterStatus) -> Self {
        Self {
            id: wire.id,
            epoch: wire.epoch,
            master: wire.master,
            in_sync: wire.in_sync,
            slots: wire.slots,
            members: wire.members.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<v1::MemberStatus> for Member {
    fn from(wire: v1::MemberStatus) -> Self {
        Self {
            node: wire.node,
            address: wire.address,
            host: wire.host,
            pid: wire.pid,
            role: wire.role,
            log_index: wire.log_index,
            commit_index: wire.commit_index,
            age_ms: wire.age_ms,
        }
    }
}

impl From<v1::CoordinatorStatus> for Coordinator {
    fn from(wire: v1::CoordinatorStatus) -> Self {
        Self {
            node: wire.node,
            address: wire.address,
            pid: wire.pid,
            role: wire.role,
            epoch: wire.epoch,
        }
    }
}

impl From<v1::CacheStatus> for CacheNode {
    fn from(wire: v1::CacheStatus) -> Self {
        let mark = |mark: v1::MarkStatus| CacheMark {
            cluster: mark.cluster,
            age_ms: mark.age_ms,
        };
        Self {
            node: wire.node,
            health: wire.health,
            hit_ratio: wire.hit_ratio,
            marks: wire.marks.into_iter().map(mark).collect(),
        }
    }
}
