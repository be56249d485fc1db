//! The cluster of a data node, checked in coordination before the node starts. With a cluster that
//! the platform does not have, or that has other members, it would wait for ever, or start and end.

use std::path::Path;

use tierkv_coordination::{
    Coordination, CoordinationError,
    directory::{self, cluster_state},
};
use tierkv_protocol::replication::ClusterState;
use tierkv_types::{ClusterId, NodeId};

use super::metadata;

/// Why a data node must not start in its cluster.
#[derive(Debug, thiserror::Error)]
pub(super) enum OwnClusterError {
    /// The platform does not have the cluster.
    #[error(
        "the platform has no cluster {cluster}; it has the clusters {existing}. Add it with \
         `tierkv admin add-cluster {cluster}={node}`, or set --cluster to the one of {node}{past}"
    )]
    Unknown {
        cluster: ClusterId,
        node: NodeId,
        existing: String,
        /// What follows if the node has a directory of that cluster.
        past: String,
    },
    /// The cluster has other members.
    #[error(
        "the cluster {cluster} has no node {node}; its nodes are {members}{elsewhere}. Set \
         --cluster and --node to those of a node that the platform has{remedy}"
    )]
    OtherMembers {
        cluster: ClusterId,
        node: NodeId,
        members: String,
        /// Which cluster has the node, if one has.
        elsewhere: String,
        /// How to add it, if none has.
        remedy: String,
    },
    /// The cluster's record can't be read.
    #[error("the record of cluster {0} in coordination: {1}")]
    Unreadable(ClusterId, String),
    /// From the coordination store.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
}

/// Waits until the founding of the platform is complete, then checks that it has `cluster`, with the
/// member `node`, whose directory is `dir`. Waits for a coordination store that is away.
///
/// # Errors
/// [`OwnClusterError`].
pub(super) async fn check(
    coordination: &dyn Coordination,
    cluster: &ClusterId,
    node: &NodeId,
    dir: &Path,
) -> Result<(), OwnClusterError> {
    // The last record of a founding: before it, a cluster without a record may still get one.
    metadata::await_record(coordination, directory::PLACEMENT, FOUNDING_IS_PARTIAL).await?;
    let key = cluster_state(cluster);
    let record = metadata::answered(|| coordination.get(&key)).await?;
    let state = record.map(|record| ClusterState::decode(&record.value));
    let state = state.transpose();
    let state =
        state.map_err(|error| OwnClusterError::Unreadable(cluster.clone(), error.to_string()))?;
    if state.as_ref().is_some_and(|it| it.has(node)) {
        return Ok(());
    }
    let all = metadata::members_of_all(coordination).await?;
    let Some(state) = state else {
        let existing: Vec<&str> = all.keys().map(ClusterId::as_str).collect();
        return Err(OwnClusterError::Unknown {
            cluster: cluster.clone(),
            node: node.clone(),
            existing: existing.join(", "),
            past: match dir.exists() {
                true => format!(
                    ". If the platform had it, since the node has {} already, an old backup of \
                     coordination was restored: bring the newest one back",
                    dir.display()
                ),
                false => String::new(),
            },
        });
    };
    let mut having = all.iter().filter(|(_, members)| members.contains(node));
    let other = having.next().map(|(other, _)| other);
    Err(OwnClusterError::OtherMembers {
        cluster: cluster.clone(),
        node: node.clone(),
        members: names(&state.members),
        elsewhere: other.map_or_else(String::new, |other| {
            format!(", and {node} belongs to cluster {other}")
        }),
        remedy: match other {
            Some(_) => String::new(),
            None => {
                format!(", or add it: `tierkv admin add-node --cluster {cluster} --node {node}`")
            }
        },
    })
}

/// What is logged while the founding is not complete.
const FOUNDING_IS_PARTIAL: &str = "the platform is founded in part; waiting for the rest: run \
                                   `tierkv admin init` with the same clusters again if it was \
                                   interrupted";

fn names(nodes: &[NodeId]) -> String {
    let nodes: Vec<&str> = nodes.iter().map(NodeId::as_str).collect();
    nodes.join(", ")
}

#[cfg(test)]
mod tests {
    use tierkv_coordination::{MemoryCoordination, directory::FoundingCluster};
    use tierkv_protocol::replication::DEFAULT_F_MS;
    use tierkv_server_coordinator::Founding;
    use tierkv_types::PlatformId;

    use super::*;

    #[tokio::test]
    async fn a_node_belongs_to_its_cluster_or_is_refused_in_words() {
        let coordination = MemoryCoordination::ephemeral();
        let clusters = [("c1", "n1"), ("c3", "n3")].map(|(id, node)| FoundingCluster {
            id: ClusterId::new(id).unwrap(),
            weight: 1,
            members: vec![NodeId::new(node).unwrap()],
        });
        let founding = Founding {
            platform: PlatformId(1),
            clusters: clusters.to_vec(),
            f_ms: DEFAULT_F_MS,
        };
        founding.carry_out(&*coordination).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let check = async |cluster: &str, node: &str, dir: &Path| {
            let (cluster, node) = (ClusterId::new(cluster), NodeId::new(node));
            let checked = check(&*coordination, &cluster.unwrap(), &node.unwrap(), dir).await;
            checked.map_err(|error| error.to_string())
        };
        let new = folder.path().join("new");
        assert_eq!(check("c3", "n3", &new).await, Ok(()));
        let unknown = check("c7", "n7", &new).await.unwrap_err();
        assert!(unknown.contains("has the clusters c1, c3"), "{unknown}");
        assert!(unknown.contains("add-cluster c7=n7`"), "{unknown}");
        assert!(!unknown.contains("backup"), "{unknown}");
        let known_before = check("c7", "n7", folder.path()).await.unwrap_err();
        assert!(known_before.contains("old backup"), "{known_before}");
        let elsewhere = check("c1", "n3", &new).await.unwrap_err();
        assert!(
            elsewhere.contains("its nodes are n1, and n3"),
            "{elsewhere}"
        );
        assert!(elsewhere.contains("belongs to cluster c3"), "{elsewhere}");
        let nowhere = check("c1", "n9", &new).await.unwrap_err();
        assert!(nowhere.contains("its nodes are n1. Set"), "{nowhere}");
        assert!(
            nowhere.ends_with("add-node --cluster c1 --node n9`"),
            "{nowhere}"
        );
    }
}
