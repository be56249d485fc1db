//! The place of a data node in the platform: its cluster has to list it, as a member or as a node
//! that is being added. A node that is started before it is added waits for that. A cluster that the
//! platform does not have, or another one that has the node, is a mistake of its configuration.

use std::path::Path;

use tierkv_coordination::{
    Coordination, CoordinationError, Versioned,
    directory::{self, cluster_state},
};
use tierkv_protocol::replication::ClusterState;
use tierkv_types::{ClusterId, NodeId};
use tokio::time::timeout;

use super::metadata::{self, NOTICE_INTERVAL};

/// Why a data node can't start in its cluster.
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
    /// Another cluster has the node.
    #[error(
        "the cluster {cluster} has no node {node}; its nodes are {members}, and {node} belongs to \
         cluster {other}. Set --cluster and --node to those of a node that the platform has"
    )]
    Elsewhere {
        cluster: ClusterId,
        node: NodeId,
        members: String,
        other: ClusterId,
    },
    /// The cluster's record can't be read.
    #[error("the record of cluster {0} in coordination: {1}")]
    Unreadable(ClusterId, String),
    /// From the coordination store.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
}

/// Waits until the founding of the platform is complete and `cluster` lists `node`, whose directory
/// is `dir`. Waits for a coordination store that is away. Logs what it waits for.
///
/// # Errors
/// [`OwnClusterError`], if the platform does not have the cluster, or another one has the node.
pub(super) async fn await_listing(
    coordination: &dyn Coordination,
    cluster: &ClusterId,
    node: &NodeId,
    dir: &Path,
) -> Result<(), OwnClusterError> {
    // The last record of a founding: before it, a cluster without a record may still get one.
    metadata::await_record(coordination, directory::PLACEMENT, FOUNDING_IS_PARTIAL).await?;
    let key = cluster_state(cluster);
    let mut watched = metadata::answered(|| coordination.watch(&key)).await?;
    loop {
        let record = watched.current();
        let state = decode(record.as_ref().as_ref());
        let state = state.map_err(|why| OwnClusterError::Unreadable(cluster.clone(), why))?;
        if state.as_ref().is_some_and(|it| it.has(node)) {
            return Ok(());
        }
        let all = metadata::nodes_of_all(coordination).await?;
        let Some(state) = state else {
            return Err(unknown(cluster, node, dir, all.keys()));
        };
        let members = names(&state.members);
        let mut having = all.iter().filter(|(_, nodes)| nodes.contains(node));
        if let Some((other, _)) = having.next() {
            return Err(OwnClusterError::Elsewhere {
                cluster: cluster.clone(),
                node: node.clone(),
                members,
                other: other.clone(),
            });
        }
        tracing::warn!(
            "waiting: the cluster {cluster} has no node {node} yet; its nodes are {members}. Add it \
             with `tierkv admin add-node --cluster {cluster} --node {node}`, or stop this process \
             if its --cluster or --node is wrong, or the node was removed for good"
        );
        let listed = watched.wait_for(|record| {
            let state = decode(record.as_ref());
            // Anything else than a cluster without the node is judged above.
            state.map_or(true, |it| it.is_none_or(|it| it.has(node)))
        });
        if let Ok(listed) = timeout(NOTICE_INTERVAL, listed).await {
            listed?;
        }
    }
}

fn decode(record: Option<&Versioned>) -> Result<Option<ClusterState>, String> {
    let state = record.map(|record| ClusterState::decode(&record.value));
    state.transpose().map_err(|error| error.to_string())
}

fn unknown<'a>(
    cluster: &ClusterId,
    node: &NodeId,
    dir: &Path,
    existing: impl Iterator<Item = &'a ClusterId>,
) -> OwnClusterError {
    let existing: Vec<&str> = existing.map(ClusterId::as_str).collect();
    OwnClusterError::Unknown {
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
    }
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
    use std::{pin::pin, sync::Arc, time::Duration};

    use tierkv_coordination::{ConfigStore, MemoryCoordination, Swap, directory::FoundingCluster};
    use tierkv_protocol::replication::DEFAULT_F_MS;
    use tierkv_server_coordinator::Founding;
    use tierkv_types::PlatformId;

    use super::*;

    /// A platform with two clusters of one node.
    async fn platform() -> Arc<MemoryCoordination> {
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
        coordination
    }

    #[tokio::test]
    async fn a_node_belongs_to_its_cluster_or_is_refused_in_words() {
        let coordination = platform().await;
        let folder = tempfile::tempdir().unwrap();
        let check = async |cluster: &str, node: &str, dir: &Path| {
            let (cluster, node) = (ClusterId::new(cluster), NodeId::new(node));
            let (cluster, node) = (cluster.unwrap(), node.unwrap());
            let checked = await_listing(&*coordination, &cluster, &node, dir).await;
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
    }

    /// Adds `n9` to a cluster, as its master does.
    async fn add(coordination: &MemoryCoordination, cluster: &ClusterId) {
        let key = cluster_state(cluster);
        let record = coordination.get(&key).await.unwrap().unwrap();
        let mut state = ClusterState::decode(&record.value).unwrap();
        state.learners.push(NodeId::new("n9").unwrap());
        let (revision, added) = (record.revision, state.encode());
        let swapped = coordination.compare_and_swap(&key, revision, added).await;
        assert!(matches!(swapped, Ok(Swap::Won(_))), "{swapped:?}");
    }

    #[tokio::test]
    async fn a_node_that_is_started_before_it_is_added_waits() {
        let coordination = platform().await;
        let [c1, c3] = ["c1", "c3"].map(|id| ClusterId::new(id).unwrap());
        let node = NodeId::new("n9").unwrap();
        let mut first = pin!(await_listing(&*coordination, &c1, &node, Path::new("new")));
        let polled = timeout(Duration::ZERO, first.as_mut()).await;
        assert!(polled.is_err(), "{polled:?}");
        add(&coordination, &c1).await;
        timeout(NOTICE_INTERVAL, first).await.unwrap().unwrap();
        let elsewhere = await_listing(&*coordination, &c3, &node, Path::new("new")).await;
        let elsewhere = elsewhere.unwrap_err().to_string();
        assert!(
            elsewhere.contains("n9 belongs to cluster c1"),
            "{elsewhere}"
        );
    }
}
