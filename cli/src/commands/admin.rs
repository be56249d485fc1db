//! `tierkv admin`: commands for operators.

pub(crate) mod memory;
pub(crate) mod recover;

use clap::Subcommand;

use crate::outcome::Outcome;

/// Commands of `tierkv admin`.
#[derive(Subcommand)]
pub(crate) enum AdminCommand {
    /// Show or change the memory settings of running data nodes.
    Memory(memory::MemoryArguments),
    /// Find out why a stopped node does not start, and recover what can be kept.
    Recover(recover::RecoverArguments),
}

/// Runs the command.
pub(crate) async fn run(command: AdminCommand) -> Outcome {
    match command {
        AdminCommand::Memory(arguments) => memory::run(arguments).await,
        AdminCommand::Recover(arguments) => recover::run(arguments).await,
    }
}
