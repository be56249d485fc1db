//! `tierkv admin`: what operators decide.

pub(crate) mod memory;
pub(crate) mod recover;

use clap::Subcommand;

use crate::outcome::Outcome;

/// Commands of `tierkv admin`.
#[derive(Subcommand)]
pub(crate) enum AdminCommand {
    /// Show what the data nodes keep in memory, or change it while they run.
    Memory(memory::MemoryArguments),
    /// Say what keeps a stopped node from starting, and go on with what can be kept.
    Recover(recover::RecoverArguments),
}

/// Runs one.
pub(crate) async fn run(command: AdminCommand) -> Outcome {
    match command {
        AdminCommand::Memory(arguments) => memory::run(arguments).await,
        AdminCommand::Recover(arguments) => recover::run(arguments).await,
    }
}
