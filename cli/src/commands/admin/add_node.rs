//! `tierkv admin add-node`: adds a node to a cluster, and reports its progress until it is in sync.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use tierkv::{
    Client,
    rpc::proto::v1::{AddNode, ChangeClusterRequest, change_cluster_request::Change},
};
use tierkv_openapi::{
    ClusterReport,
    cluster::{Cluster, Member},
};
use tierkv_types::{ClusterId, NodeId, NodeRole};
use tokio::time::{Instant, sleep};

use crate::{
    connection::Connection,
    outcome::{Outcome, done},
    output::{self, Output},
};

/// How often the progress is asked for.
const PROGRESS_PAUSE: Duration = Duration::from_millis(200);
/// How often it is printed, unless the role changed.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
/// How long the platform may not answer before the command gives up waiting.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// Options of `tierkv admin add-node`.
#[derive(Args)]
pub(crate) struct AddNodeArguments {
    #[command(flatten)]
    connection: Connection,
    /// The cluster.
    #[arg(long, value_name = "NAME", value_parser = super::cluster_name)]
    cluster: ClusterId,
    /// The new node. Its process may be started before, and waits until the node is added, or after.
    #[arg(long, value_name = "NAME", value_parser = super::node_name)]
    node: NodeId,
    /// Return as soon as the node is added, before it has caught up.
    #[arg(long)]
    no_wait: bool,
    /// How to print it.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Adds the node, waits until it is in sync, and prints that.
pub(crate) async fn run(arguments: AddNodeArguments) -> Outcome {
    let client = arguments.connection.open().await?;
    let AddNodeArguments {
        cluster,
        node,
        no_wait,
        output,
        ..
    } = arguments;
    let order = ChangeClusterRequest {
        cluster: cluster.to_string(),
        change: Some(Change::AddNode(AddNode {
            node: node.to_string(),
        })),
    };
    let after = client.change_cluster(order).await?;
    let is_in_sync = match no_wait {
        true => after.in_sync.iter().any(|it| it == node.as_str()),
        false => {
            Progress::new(&cluster, &node).wait(&client).await?;
            true
        }
    };
    let printed = match output {
        Output::Json => output::json(&json!({
            "cluster": cluster.as_str(),
            "node": node.as_str(),
            "changed": after.changed,
            "in_sync": is_in_sync,
        })),
        Output::Raw => output::line(node.as_str()),
        Output::Table => output::line(match is_in_sync {
            true => format!("{node} is in sync in cluster {cluster}"),
            false => format!(
                "{node} is added to cluster {cluster} and becomes a member once it has caught up; \
                 `tierkv status` shows it. If its process does not run: tierkv datanode --cluster \
                 {cluster} --node {node} …"
            ),
        }),
    };
    Ok(done(printed))
}

/// The progress of a node, as it was printed last.
struct Progress<'a> {
    cluster: &'a ClusterId,
    node: &'a NodeId,
    role: Option<NodeRole>,
    printed_at: Instant,
}

impl<'a> Progress<'a> {
    fn new(cluster: &'a ClusterId, node: &'a NodeId) -> Self {
        Self {
            cluster,
            node,
            role: None,
            printed_at: Instant::now(),
        }
    }

    /// Waits until the node is in sync.
    async fn wait(mut self, client: &Client) -> Result<(), Box<dyn std::error::Error>> {
        let mut heard_at = Instant::now();
        loop {
            match client.cluster().await {
                Ok(report) => {
                    heard_at = Instant::now();
                    let report = ClusterReport::from(report);
                    let found = (report.clusters.iter())
                        .find(|it| it.id == self.cluster.as_str())
                        .and_then(|it| Some((it, find(it, self.node)?)));
                    let Some((cluster, member)) = found else {
                        return Err(format!(
                            "{} is not a node of cluster {} any more: it was removed meanwhile",
                            self.node, self.cluster
                        )
                        .into());
                    };
                    if cluster.in_sync.contains(&member.node) {
                        return Ok(());
                    }
                    self.print(cluster, member);
                }
                Err(error) if heard_at.elapsed() < SILENCE_LIMIT => {
                    tracing::debug!(%error, "the progress is not known now");
                }
                Err(error) => {
                    return Err(format!(
                        "{} is added and catches up by itself, but its progress is not known: \
                         {error}",
                        self.node
                    )
                    .into());
                }
            }
            sleep(PROGRESS_PAUSE).await;
        }
    }

    fn print(&mut self, cluster: &Cluster, member: &Member) {
        let is_new = self.role != Some(member.role);
        if !is_new && self.printed_at.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        (self.role, self.printed_at) = (Some(member.role), Instant::now());
        output::note(words(cluster, member));
    }
}

fn find<'a>(cluster: &'a Cluster, node: &NodeId) -> Option<&'a Member> {
    (cluster.members.iter()).find(|member| member.node == node.as_str())
}

/// How far the node is, in words.
fn words(cluster: &Cluster, member: &Member) -> String {
    let Member { node, role, .. } = member;
    if !member.reachable {
        return format!(
            "{node}: its process does not answer; start it with: tierkv datanode --cluster {} \
             --node {node} …",
            cluster.id
        );
    }
    let master = cluster.members.iter().find(|it| it.node == cluster.master);
    match master.filter(|master| master.reachable) {
        Some(master) => format!(
            "{node}: {role}, log ends at {} of {}",
            member.log_index, master.log_index
        ),
        None => format!("{node}: {role}, log ends at {}", member.log_index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: &str, role: NodeRole, log_index: u64) -> Member {
        let wire = tierkv::rpc::proto::v1::MemberStatus {
            node: node.to_owned(),
            role: tierkv::rpc::proto::v1::NodeRole::from(role).into(),
            reachable: role != NodeRole::Unreachable,
            log_index,
            ..Default::default()
        };
        wire.into()
    }

    #[test]
    fn the_progress_has_role_and_log() {
        let wire = tierkv::rpc::proto::v1::ClusterStatus {
            id: "c1".to_owned(),
            master: "n1".to_owned(),
            ..Default::default()
        };
        let mut cluster = Cluster::from(wire);
        cluster.members = vec![
            member("n1", NodeRole::Master, 900),
            member("n4", NodeRole::Learner, 7),
            member("n5", NodeRole::Unreachable, 0),
        ];
        let [_, learner, gone] = &cluster.members[..] else {
            panic!("three members");
        };
        assert_eq!(
            words(&cluster, learner),
            "n4: learner, log ends at 7 of 900"
        );
        let start = words(&cluster, gone);
        assert!(start.contains("--cluster c1 --node n5"), "{start}");
    }
}
