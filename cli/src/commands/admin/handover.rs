//! `tierkv admin handover`: hands the mastership of a cluster to another of its nodes.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use tierkv::{Client, NodeRole, rpc::proto::v1::HandOverRequest};
use tierkv_types::{ClusterId, NodeId};
use tokio::time::{Instant, sleep};

use crate::{
    connection::Connection,
    outcome::{Outcome, done},
    output::{self, Output},
};

/// How long to wait until the new master serves, and how often to look.
const SERVING_LIMIT: Duration = Duration::from_secs(10);
const SERVING_PAUSE: Duration = Duration::from_millis(50);

/// Options of `tierkv admin handover`.
#[derive(Args)]
pub(crate) struct HandoverArguments {
    #[command(flatten)]
    connection: Connection,
    /// The cluster.
    #[arg(long, value_name = "NAME", value_parser = super::cluster_name)]
    cluster: ClusterId,
    /// The new master, which must be in sync; without it, the node that has the most of the log.
    #[arg(long, value_name = "NODE", value_parser = super::node_name)]
    to: Option<NodeId>,
    /// How to print it.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Hands over, waits until the new master serves, and prints its name.
pub(crate) async fn run(arguments: HandoverArguments) -> Outcome {
    let client = arguments.connection.open().await?;
    let cluster = &arguments.cluster;
    let order = HandOverRequest {
        cluster: cluster.to_string(),
        to: arguments.to.map_or_else(String::new, |to| to.to_string()),
    };
    let answer = client.hand_over(order).await?;
    let master = answer.master;
    let epoch = serving(&client, cluster, &master).await;
    if epoch.is_none() {
        output::note(format_args!(
            "{master} is master by the cluster's record, but did not serve within {} s; `tierkv \
             status` shows it",
            SERVING_LIMIT.as_secs()
        ));
    }
    let printed = match arguments.output {
        Output::Json => output::json(&json!({
            "cluster": cluster.as_str(),
            "master": master,
            "epoch": epoch,
            "changed": answer.changed,
        })),
        Output::Raw => output::line(&master),
        Output::Table => output::line(match (answer.changed, epoch) {
            (false, _) => format!("{master} is the master of cluster {cluster} already"),
            (true, Some(epoch)) => {
                format!("{master} is the master of cluster {cluster} now, in epoch {epoch}")
            }
            (true, None) => format!("{master} takes over cluster {cluster}"),
        }),
    };
    Ok(done(printed))
}

/// Waits until this node serves as master; returns its epoch, `None` after a limited time.
async fn serving(client: &Client, cluster: &ClusterId, master: &str) -> Option<u64> {
    let deadline = Instant::now() + SERVING_LIMIT;
    loop {
        // An error says nothing about the handover, which is done.
        if let Ok(report) = client.cluster().await {
            let found = (report.clusters.iter()).find(|it| it.id == cluster.as_str());
            let serves = found.filter(|it| {
                let mut members = it.members.iter();
                members.any(|member| {
                    member.node == master && NodeRole::from(member.role()) == NodeRole::Master
                })
            });
            if let Some(cluster) = serves {
                return Some(cluster.epoch);
            }
        }
        if Instant::now() >= deadline {
            return None;
        }
        sleep(SERVING_PAUSE).await;
    }
}
