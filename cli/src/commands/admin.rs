//! `tierkv admin`: what operators decide.

pub(crate) mod memory;

use clap::Subcommand;

use crate::Outcome;

/// Commands of `tierkv admin`.
#[derive(Subcommand)]
pub(crate) enum AdminCommand {
    /// Show what the data nodes keep in memory, or change it while they run.
    Memory(memory::MemoryArguments),
}

/// Runs one.
pub(crate) async fn run(command: AdminCommand) -> Outcome {
    match command {
        AdminCommand::Memory(arguments) => memory::run(arguments).await,
    }
}
