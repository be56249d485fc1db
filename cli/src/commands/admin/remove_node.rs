//! `tierkv admin remove-node`: removes a node from its cluster for good.

use clap::Args;
use serde_json::json;
use tierkv::rpc::proto::v1::{
    ChangeClusterRequest, ChangeClusterResponse, RemoveNode, change_cluster_request::Change,
};
use tierkv_types::{ClusterId, NodeId};

use crate::{
    connection::Connection,
    outcome::{Outcome, done},
    output::{self, Output},
};

/// Options of `tierkv admin remove-node`.
#[derive(Args)]
pub(crate) struct RemoveNodeArguments {
    #[command(flatten)]
    connection: Connection,
    /// The cluster.
    #[arg(long, value_name = "NAME", value_parser = super::cluster_name)]
    cluster: ClusterId,
    /// The node; not the cluster's master.
    #[arg(long, value_name = "NAME", value_parser = super::node_name)]
    node: NodeId,
    /// How to print it.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Removes the node, and prints what is left.
pub(crate) async fn run(arguments: RemoveNodeArguments) -> Outcome {
    let client = arguments.connection.open().await?;
    let (cluster, node) = (&arguments.cluster, &arguments.node);
    let order = ChangeClusterRequest {
        cluster: cluster.to_string(),
        change: Some(Change::RemoveNode(RemoveNode {
            node: node.to_string(),
        })),
    };
    let after = client.change_cluster(order).await?;
    let printed = match arguments.output {
        Output::Json => output::json(&json!({
            "cluster": cluster.as_str(),
            "node": node.as_str(),
            "members": after.members,
            "in_sync": after.in_sync,
        })),
        Output::Raw => output::line(node.as_str()),
        Output::Table => output::line(words(cluster, node, &after)),
    };
    Ok(done(printed))
}

/// What is left, and what that means.
fn words(cluster: &ClusterId, node: &NodeId, after: &ChangeClusterResponse) -> String {
    let left = after.members.join(", ");
    let meaning = match after.members.len() {
        1 => "; a loss of its disk loses acknowledged writes",
        2 => "; writes stop while one of them is away",
        _ => "",
    };
    format!(
        "{node} is removed from cluster {cluster}, and its process stops; its data directory is not \
         needed any more. Left: {left}{meaning}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_warns_of_small_clusters() {
        let words = |members: &[&str]| {
            let after = ChangeClusterResponse {
                members: members.iter().map(ToString::to_string).collect(),
                ..ChangeClusterResponse::default()
            };
            let (cluster, node) = (ClusterId::new("c1").unwrap(), NodeId::new("n4").unwrap());
            words(&cluster, &node, &after)
        };
        assert!(words(&["n1", "n2", "n3"]).ends_with("Left: n1, n2, n3"));
        assert!(words(&["n1", "n2"]).ends_with("writes stop while one of them is away"));
        assert!(words(&["n1"]).ends_with("loses acknowledged writes"));
    }
}
