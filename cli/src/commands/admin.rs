//! `tierkv admin`: commands for operators.

pub(crate) mod add_cluster;
pub(crate) mod init;
pub(crate) mod memory;
pub(crate) mod recover;

use clap::Subcommand;

use crate::outcome::Outcome;

/// Commands of `tierkv admin`.
#[derive(Subcommand)]
pub(crate) enum AdminCommand {
    /// Found a platform in coordination: its first clusters, and their slots.
    Init(init::InitArguments),
    /// Add a cluster to a founded platform; it owns no slots yet.
    AddCluster(add_cluster::AddClusterArguments),
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
        AdminCommand::Memory(arguments) => memory::run(arguments).await,
        AdminCommand::Recover(arguments) => recover::run(arguments).await,
    }
}
