//! `tierkv admin add-cluster`: adds a cluster to a founded platform.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use tierkv_coordination::directory::FoundingCluster;
use tierkv_protocol::replication::DEFAULT_F_MS;
use tierkv_server_coordinator::AddedCluster;

use super::init;
use crate::{
    outcome::Outcome,
    output::{self, Output},
    roles::{arguments::MetadataArguments, metadata},
};

/// Options of `tierkv admin add-cluster`.
#[derive(Args)]
pub(crate) struct AddClusterArguments {
    #[command(flatten)]
    metadata: MetadataArguments,
    /// The cluster and its data nodes, as in c3=n7,n8,n9.
    #[arg(value_name = "CLUSTER=NODE,…", value_parser = init::cluster)]
    cluster: FoundingCluster,
    /// Silence after which the cluster suspects its master, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = DEFAULT_F_MS)]
    failover_ms: u32,
    /// How to print it.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Adds the cluster and prints what it is.
pub(crate) async fn run(arguments: AddClusterArguments) -> Outcome {
    let configuration = arguments.metadata.load(Vec::new())?;
    init::check_failover(arguments.failover_ms, &configuration)?;
    let coordination = metadata::connect(&configuration.coordination).await?;
    let added = AddedCluster {
        cluster: arguments.cluster,
        f_ms: arguments.failover_ms,
    };
    let platform = added.carry_out(&*coordination).await?;
    let FoundingCluster { id, members, .. } = &added.cluster;
    let nodes: Vec<&str> = members.iter().map(|node| node.as_str()).collect();
    match arguments.output {
        Output::Json => output::json(&json!({
            "platform": platform.to_string(),
            "cluster": id.as_str(),
            "nodes": nodes,
            "slots": 0,
        }))?,
        Output::Raw => output::line(id.as_str())?,
        Output::Table => {
            output::line(format!(
                "added cluster {id} to platform {platform}; it owns no slots yet. Start its data \
                 nodes with:"
            ))?;
            for node in nodes {
                output::line(format!(
                    "  tierkv datanode --cluster {id} --node {node} --coordination-url {}",
                    configuration.coordination.url
                ))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
