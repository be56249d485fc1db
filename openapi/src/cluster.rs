//! The topology and its health, as JSON.

use serde::{Deserialize, Serialize};
use tierkv_proto::v1;
use tierkv_types::{CacheHealth, CoordinationHealth, CoordinatorRole, LogId, NodeRole};
use utoipa::{
    ToSchema,
    openapi::{Object, ObjectBuilder, Type},
};

/// The note of a cluster without slots.
const NO_SLOTS: &str = "owns no slots: it has no keys until slots are moved to it";

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
    /// The store of the platform's metadata.
    pub coordination: Coordination,
}

/// The store of the platform's metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Coordination {
    /// `memory` or `etcd`.
    pub kind: String,
    /// Its addresses, as `host:port`; none for `memory`.
    pub endpoints: Vec<String>,
    /// Whether it answers.
    #[schema(schema_with = coordination_health)]
    pub health: CoordinationHealth,
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
    /// The fewest nodes in sync with which it takes writes.
    #[serde(default)]
    pub min_in_sync: u32,
    /// The silence after which its master is suspected, in milliseconds.
    #[serde(default)]
    pub failover_ms: u32,
    /// How many of the 4,096 slots it owns.
    pub slots: u32,
    /// What an operator should know about it; absent if it is as usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub note: Option<String>,
    /// How far its time is ahead of the platform's, the median of the clusters' times, in
    /// milliseconds; negative: behind. Absent if its master did not answer lately, and while it is
    /// the only cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub time_ahead_ms: Option<i64>,
    /// All its nodes.
    pub members: Vec<Member>,
}

/// One data node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Its name.
    pub node: String,
    /// Where other processes reach it; its last known address if it is not reachable.
    pub address: String,
    /// The same address: its gRPC server.
    pub grpc: String,
    /// The machine it runs on.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// Whether it answered.
    pub reachable: bool,
    /// What it is in its cluster.
    #[schema(schema_with = node_role)]
    pub role: NodeRole,
    /// The id of its log, 16 hexadecimal digits; absent if it is not reachable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub log_id: Option<String>,
    /// The last record of its log.
    pub log_index: u64,
    /// The last record that it knows to be committed.
    pub commit_index: u64,
    /// How many records of its master's log it lacks.
    pub lag: u64,
    /// An upper bound of the staleness of its state, in milliseconds; absent while it knows none, as
    /// before it has caught up, or if it is not reachable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub age_ms: Option<u32>,
}

/// One coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Coordinator {
    /// Its name.
    pub node: String,
    /// Where other processes reach it; its last known address if it is not reachable.
    pub address: String,
    /// The same address: its gRPC server.
    pub grpc: String,
    /// The address of a client coordinator's REST server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rest: Option<String>,
    /// The machine it runs on.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// Whether it answered.
    pub reachable: bool,
    /// What it is in its tier.
    #[schema(schema_with = coordinator_role)]
    pub role: CoordinatorRole,
    /// The epoch in which it is primary; 0 if it is not.
    pub epoch: u64,
}

/// One cache node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CacheNode {
    /// Its name.
    pub node: String,
    /// Whether it answers.
    #[schema(schema_with = cache_health)]
    pub health: CacheHealth,
    /// Share of lookups that were hits, 0 to 1.
    pub hit_ratio: f64,
    /// The age that a hit would have now, by cluster; absent if there is no mark.
    pub marks: Vec<CacheMark>,
}

/// The freshness of one cache node for one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheMark {
    /// The cluster.
    pub cluster: String,
    /// The age that a hit would have now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub age_ms: Option<u32>,
}

/// The schema of a role, which is here because `tierkv-types` does not depend on utoipa.
fn node_role() -> Object {
    one_of(
        "`master`, `replica` (in sync), `taking_over`, `joining`, `learner`, `starting` or \
         `unreachable`.",
        NodeRole::ALL.iter().map(|role| role.name()),
    )
}

fn coordinator_role() -> Object {
    one_of(
        "`primary`, `backup` or `serving`.",
        CoordinatorRole::ALL.iter().map(|role| role.name()),
    )
}

fn coordination_health() -> Object {
    one_of(
        "`up` or `down`.",
        CoordinationHealth::ALL.iter().map(|health| health.name()),
    )
}

fn cache_health() -> Object {
    one_of(
        "`up` or `down`.",
        CacheHealth::ALL.iter().map(|health| health.name()),
    )
}

fn one_of(description: &str, names: impl Iterator<Item = &'static str>) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
        .enum_values(Some(names))
        .build()
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
            coordination: wire.coordination.unwrap_or_default().into(),
        }
    }
}

impl From<v1::CoordinationStatus> for Coordination {
    fn from(wire: v1::CoordinationStatus) -> Self {
        let health = wire.health().into();
        Self {
            kind: wire.kind,
            endpoints: wire.endpoints,
            health,
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
            min_in_sync: wire.min_in_sync,
            failover_ms: wire.failover_ms,
            slots: wire.slots,
            note: (wire.slots == 0).then(|| NO_SLOTS.to_owned()),
            time_ahead_ms: wire.time_ahead_ms,
            members: wire.members.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<v1::MemberStatus> for Member {
    fn from(wire: v1::MemberStatus) -> Self {
        let role = wire.role().into();
        Self {
            node: wire.node,
            grpc: wire.address.clone(),
            address: wire.address,
            host: wire.host,
            pid: wire.pid,
            reachable: wire.reachable,
            role,
            log_id: (wire.log_id != 0).then(|| LogId(wire.log_id).to_string()),
            log_index: wire.log_index,
            commit_index: wire.commit_index,
            lag: wire.lag,
            age_ms: wire.age_ms,
        }
    }
}

impl From<v1::CoordinatorStatus> for Coordinator {
    fn from(wire: v1::CoordinatorStatus) -> Self {
        let role = wire.role().into();
        Self {
            node: wire.node,
            grpc: wire.address.clone(),
            address: wire.address,
            rest: (!wire.rest.is_empty()).then_some(wire.rest),
            host: wire.host,
            pid: wire.pid,
            reachable: wire.reachable,
            role,
            epoch: wire.epoch,
        }
    }
}

impl From<v1::CacheStatus> for CacheNode {
    fn from(wire: v1::CacheStatus) -> Self {
        let health = wire.health().into();
        let mark = |mark: v1::MarkStatus| CacheMark {
            cluster: mark.cluster,
            age_ms: mark.age_ms,
        };
        Self {
            node: wire.node,
            health,
            hit_ratio: wire.hit_ratio,
            marks: wire.marks.into_iter().map(mark).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn member(role: i32) -> Member {
        let wire = v1::MemberStatus {
            role,
            ..v1::MemberStatus::default()
        };
        wire.into()
    }

    #[test]
    fn json_has_the_names_that_tables_have() {
        for role in NodeRole::ALL {
            assert_eq!(json!(role), role.name());
            assert_eq!(
                serde_json::from_value::<NodeRole>(json!(role)).unwrap(),
                *role
            );
        }
        for role in CoordinatorRole::ALL {
            assert_eq!(json!(role), role.name());
        }
        for health in CacheHealth::ALL {
            assert_eq!(json!(health), health.name());
        }
        let over = member(v1::NodeRole::TakingOver.into());
        assert_eq!(json!(over)["role"], "taking_over");
    }

    #[test]
    fn a_cluster_without_slots_is_noted() {
        let cluster = |slots| {
            json!(Cluster::from(v1::ClusterStatus {
                slots,
                ..v1::ClusterStatus::default()
            }))
        };
        let idle = cluster(0);
        assert_eq!(idle["slots"], 0);
        assert!(idle["note"].as_str().unwrap().starts_with("owns no slots"));
        assert_eq!(cluster(1).get("note"), None);
    }

    #[test]
    fn values_of_a_newer_release_are_unknown_and_no_failure() {
        for number in [0, 99, -1] {
            assert_eq!(member(number).role, NodeRole::Unknown);
        }
        let mut newer = json!(member(99));
        assert_eq!(newer["role"], "unknown");
        newer["role"] = "observer".into();
        let read: Member = serde_json::from_value(newer).unwrap();
        assert_eq!(read.role, NodeRole::Unknown);
        let health: CacheHealth = serde_json::from_value(json!("limping")).unwrap();
        assert_eq!(health, CacheHealth::Unknown);
    }
}
