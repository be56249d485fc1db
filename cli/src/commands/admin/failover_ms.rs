//! `tierkv admin failover-ms`: the silence after which a cluster suspects its master (F).

use clap::Args;
use serde_json::json;
use tierkv::rpc::proto::v1::{ChangeClusterRequest, SetFailover, change_cluster_request::Change};
use tierkv_protocol::replication::F_MS_BOUNDS;
use tierkv_types::ClusterId;

use crate::{
    connection::Connection,
    outcome::{Outcome, done},
    output::{self, Output},
};

/// Options of `tierkv admin failover-ms`.
#[derive(Args)]
pub(crate) struct FailoverMsArguments {
    #[command(flatten)]
    connection: Connection,
    /// The cluster.
    #[arg(long, value_name = "NAME", value_parser = super::cluster_name)]
    cluster: ClusterId,
    /// The silence after which its master is suspected, in milliseconds. Each client coordinator's
    /// reads.max_staleness_ms must be at least 1.05 times as much, plus 1000.
    #[arg(value_name = "MS", value_parser = milliseconds)]
    failover_ms: u32,
    /// How to print it.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

fn milliseconds(text: &str) -> Result<u32, String> {
    let parsed = text.parse().ok().filter(|ms| F_MS_BOUNDS.contains(ms));
    parsed.ok_or_else(|| {
        format!(
            "it is a whole number of milliseconds from {} to {}",
            F_MS_BOUNDS.start(),
            F_MS_BOUNDS.end()
        )
    })
}

/// Sets the failover time, and prints it.
pub(crate) async fn run(arguments: FailoverMsArguments) -> Outcome {
    let client = arguments.connection.open().await?;
    let (cluster, failover_ms) = (&arguments.cluster, arguments.failover_ms);
    let order = ChangeClusterRequest {
        cluster: cluster.to_string(),
        change: Some(Change::SetFailover(SetFailover { failover_ms })),
    };
    let after = client.change_cluster(order).await?;
    let printed = match arguments.output {
        Output::Json => output::json(&json!({
            "cluster": cluster.as_str(),
            "failover_ms": after.failover_ms,
            "changed": after.changed,
        })),
        Output::Raw => output::line(after.failover_ms.to_string()),
        Output::Table => output::line(match after.changed {
            true => format!(
                "cluster {cluster} suspects its master after {failover_ms} ms without a word now"
            ),
            false => format!("failover-ms of cluster {cluster} is {failover_ms} already"),
        }),
    };
    Ok(done(printed))
}
