//! `tierkv admin`: commands for operators.

pub(crate) mod add_cluster;
pub(crate) mod add_node;
pub(crate) mod failover_ms;
pub(crate) mod handover;
pub(crate) mod init;
pub(crate) mod memory;
pub(crate) mod recover;
pub(crate) mod remove_node;

use clap::Subcommand;
use tierkv_types::{ClusterId, NodeId};

use crate::outcome::Outcome;

/// Commands of `tierkv admin`.
#[derive(Subcommand)]
pub(crate) enum AdminCommand {
    /// Found a platform in coordination: its first clusters, and their slots.
    Init(init::InitArguments),
    /// Add a cluster to a founded platform; it owns no slots yet.
    AddCluster(add_cluster::AddClusterArguments),
    /// Add a node to a cluster, and wait until it is in sync.
    AddNode(add_node::AddNodeArguments),
    /// Remove a node from its cluster for good; its process stops.
    RemoveNode(remove_node::RemoveNodeArguments),
    /// Make another node the master of its cluster.
    Handover(handover::HandoverArguments),
    /// Set the silence after which a cluster suspects its master.
    FailoverMs(failover_ms::FailoverMsArguments),
    /// Show or change the memory settings of running data nodes.
    Memory(memory::MemoryArguments),
    /// Diagnose why a node does not start, and repair its data directory (may lose damaged data).
    Recover(recover::RecoverArguments),
}

/// Runs the command.
pub(crate) async fn run(command: AdminCommand) -> Outcome {
    match command {
        AdminCommand::Init(arguments) => init::run(arguments).await,
        AdminCommand::AddCluster(arguments) => add_cluster::run(arguments).await,
        AdminCommand::AddNode(arguments) => add_node::run(arguments).await,
        AdminCommand::RemoveNode(arguments) => remove_node::run(arguments).await,
        AdminCommand::Handover(arguments) => handover::run(arguments).await,
        AdminCommand::FailoverMs(arguments) => failover_ms::run(arguments).await,
        AdminCommand::Memory(arguments) => memory::run(arguments).await,
        AdminCommand::Recover(arguments) => recover::run(arguments).await,
    }
}

/// Parses the name of a cluster.
fn cluster_name(text: &str) -> Result<ClusterId, String> {
    ClusterId::new(text.trim()).map_err(|error| error.message.into_owned())
}

/// Parses the name of a node.
fn node_name(text: &str) -> Result<NodeId, String> {
    NodeId::new(text.trim()).map_err(|error| error.message.into_owned())
}
