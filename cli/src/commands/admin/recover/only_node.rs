//! The node to recover of a cluster that has only one, if no data directory is named: the record in
//! coordination has its name, and its directory may be where the configuration puts it.

use std::path::Path;

use tierkv_coordination::{Coordination, Versioned, directory::cluster_state};
use tierkv_protocol::replication::ClusterState;
use tierkv_types::{ClusterId, NodeId};

use super::DEFAULT_NODE;
use crate::{data_dir, roles::metadata};

type Failure = Box<dyn std::error::Error>;

/// The node of `cluster`, which must be `named`, if any is, and have its directory in `folder`.
/// `command` is the one that recovers a node by its data directory.
///
/// # Errors
/// A message with what to do, unless its directory is here; and if the store refuses.
pub(super) async fn only_node(
    store: &dyn Coordination,
    cluster: &ClusterId,
    folder: &Path,
    named: Option<&NodeId>,
    command: impl Fn(&NodeId) -> String,
) -> Result<NodeId, Failure> {
    let record = store.get(&cluster_state(cluster)).await?;
    let members = record.as_ref().and_then(members);
    let member = members.as_ref().and_then(|members| members.first());
    let node = match (named, member) {
        (Some(named), Some(member)) if named != member => {
            return Err(format!(
                "the cluster {cluster} has no node {named}; its only node is {member}: set --node \
                 {member}, or --cluster to the one of {named}"
            )
            .into());
        }
        (Some(node), _) | (None, Some(node)) => node.clone(),
        (None, None) => NodeId::new(DEFAULT_NODE)?,
    };
    let dir = folder.join(cluster.as_str()).join(node.as_str());
    data_dir::check(folder)?;
    data_dir::check(&dir)?;
    if dir.is_dir() {
        return Ok(node);
    }
    let command = command(&node);
    let advice = format!(
        "on its machine, while it does not run: {command} ({} does not exist)",
        dir.display()
    );
    Err(match (&record, member) {
        (Some(_), Some(member)) => format!(
            "the cluster {cluster} has one node, {member}, and is recovered from the data directory \
             of that node: {advice}"
        ),
        (Some(_), None) => format!(
            "coordination's record of cluster {cluster} is unreadable; it is replaced with the help \
             of a node's data directory: {advice}"
        ),
        (None, _) => {
            let existing = metadata::nodes_of_all(store).await?;
            let existing: Vec<&str> = existing.keys().map(ClusterId::as_str).collect();
            format!(
                "the platform has no cluster {cluster}; it has the clusters {}: set --cluster to \
                 one of them. If coordination lost its record, recover its node {advice}",
                existing.join(", ")
            )
        }
    }
    .into())
}

fn members(record: &Versioned) -> Option<Vec<NodeId>> {
    let state = ClusterState::decode(&record.value).ok()?;
    Some(state.members)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tierkv_coordination::{ConfigStore, MemoryCoordination, Swap};
    use tierkv_protocol::replication::DEFAULT_F_MS;

    use super::*;

    async fn put(store: &MemoryCoordination, cluster: &str, record: Bytes) {
        let key = cluster_state(&ClusterId::new(cluster).unwrap());
        let put = store.put_if_absent(&key, record).await.unwrap();
        assert!(matches!(put, Swap::Won(_)));
    }

    #[tokio::test]
    async fn the_only_node_is_found_or_the_message_leads_to_its_directory() {
        let store = MemoryCoordination::ephemeral();
        let member = NodeId::new("n5").unwrap();
        let state = ClusterState::unfounded(vec![member.clone()], DEFAULT_F_MS);
        put(&store, "c5", state.encode()).await;
        put(&store, "c6", Bytes::from_static(b"?")).await;
        let folder = tempfile::tempdir().unwrap();
        let find = async |cluster: &str, node: Option<&str>| {
            let node = node.map(|node| NodeId::new(node).unwrap());
            let command = |node: &NodeId| format!("recover {node}");
            let cluster = ClusterId::new(cluster).unwrap();
            let found = only_node(&*store, &cluster, folder.path(), node.as_ref(), command);
            let found = found.await;
            found.map_err(|error| error.to_string())
        };

        let elsewhere = find("c5", None).await.unwrap_err();
        assert!(elsewhere.contains("has one node, n5, and"), "{elsewhere}");
        assert!(
            elsewhere.contains("does not run: recover n5"),
            "{elsewhere}"
        );
        let other = find("c5", Some("n1")).await.unwrap_err();
        assert!(
            other.contains("its only node is n5: set --node n5"),
            "{other}"
        );
        let unreadable = find("c6", Some("n6")).await.unwrap_err();
        assert!(unreadable.contains("c6 is unreadable"), "{unreadable}");
        let nowhere = find("c7", None).await.unwrap_err();
        assert!(
            nowhere.contains("has the clusters c5, c6: set"),
            "{nowhere}"
        );

        std::fs::create_dir_all(folder.path().join("c5/n5")).unwrap();
        assert_eq!(find("c5", None).await, Ok(member.clone()));
        assert_eq!(find("c5", Some("n5")).await, Ok(member));
    }
}
