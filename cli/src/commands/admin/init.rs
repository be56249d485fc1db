//! `tierkv admin init`: founds a platform.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use tierkv_coordination::directory::FoundingCluster;
use tierkv_protocol::replication::{DEFAULT_F_MS, least_staleness};
use tierkv_server_coordinator::Founding;
use tierkv_types::{ClusterId, NodeId, PlatformId};

use crate::{
    configuration::Configuration,
    outcome::Outcome,
    output::{self, Output},
    roles::{arguments::MetadataArguments, metadata},
};

/// Options of `tierkv admin init`.
#[derive(Args)]
pub(crate) struct InitArguments {
    #[command(flatten)]
    metadata: MetadataArguments,
    /// A cluster and its data nodes, as in c1=n1,n2,n3; repeat it for each cluster. Three nodes
    /// survive the loss of any one of them.
    #[arg(long, value_name = "CLUSTER=NODE,…", required = true, value_parser = cluster)]
    cluster: Vec<FoundingCluster>,
    /// Silence after which a cluster suspects its master, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = DEFAULT_F_MS)]
    failover_ms: u32,
    /// Succeed also if the platform is founded already, and leave it as it is.
    #[arg(long)]
    if_absent: bool,
    /// How to print it.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Parses `c1=n1,n2`.
pub(super) fn cluster(text: &str) -> Result<FoundingCluster, String> {
    let (id, nodes) = text
        .split_once('=')
        .ok_or("write it as CLUSTER=NODE,…, as in c1=n1,n2,n3")?;
    let words = |error: tierkv_types::Error| error.message;
    let members = nodes.split(',').map(|node| NodeId::new(node.trim()));
    Ok(FoundingCluster {
        id: ClusterId::new(id.trim()).map_err(words)?,
        weight: 1,
        members: members.collect::<Result<_, _>>().map_err(words)?,
    })
}

/// Checks that reads outlast a failover, by the staleness bound of the configuration (REP-TIMES).
pub(super) fn check_failover(f_ms: u32, configuration: &Configuration) -> Result<(), String> {
    let least = least_staleness(f_ms).as_millis();
    let bound = configuration.reads.max_staleness_ms;
    match u128::from(bound) >= least {
        true => Ok(()),
        false => Err(format!(
            "failover-ms {f_ms} needs reads.max_staleness_ms of at least {least}, so that reads \
             outlast a failover; it is {bound}. Set it in the configuration of every client \
             coordinator and of this command (--set reads.max_staleness_ms={least}), or choose a \
             shorter failover-ms"
        )),
    }
}

/// Founds the platform and prints what it is.
pub(crate) async fn run(arguments: InitArguments) -> Outcome {
    let configuration = arguments.metadata.load(Vec::new())?;
    check_failover(arguments.failover_ms, &configuration)?;
    let coordination = metadata::connect(&configuration.coordination).await?;
    let founding = Founding {
        platform: PlatformId(rand::random()),
        clusters: arguments.cluster,
        f_ms: arguments.failover_ms,
    };
    let (platform, is_new) = match arguments.if_absent {
        true => founding.complete(&*coordination).await?,
        false => (founding.carry_out(&*coordination).await?, true),
    };
    let clusters = metadata::nodes_of_all(&*coordination).await?;
    match arguments.output {
        Output::Json => {
            let clusters = clusters.iter().map(|(id, nodes)| {
                let nodes: Vec<&str> = nodes.iter().map(NodeId::as_str).collect();
                json!({ "id": id.as_str(), "nodes": nodes })
            });
            output::json(&json!({
                "platform": platform.to_string(),
                "founded": is_new,
                "clusters": clusters.collect::<Vec<_>>(),
            }))?;
        }
        Output::Raw => output::line(platform.to_string())?,
        Output::Table => {
            let done = match is_new {
                true => "founded platform",
                false => "there is already the platform",
            };
            output::line(format!(
                "{done} {platform} with {} clusters; its processes find it at {}",
                clusters.len(),
                configuration.coordination.url
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
