//! The `tierkv` binary: runs the platform, and the commands for a running platform.
//!
//! Reading order:
//! - [`configuration`]: the settings of an operator; [`dev`]: runs every tier in this process,
//!   within its limit of [`descriptors`] and with one [`metrics_page`] (each [`histogram`] of
//!   which is ours), until one of the [`signals`];
//! - [`commands`]: the other commands, one file each; they use [`connection`], [`input`],
//!   [`number`] and [`json_refusal`] to read, [`output`] to print, and [`outcome`] for the exit
//!   status;
//! - [`shell`]: runs commands line by line, with the state of [`kept`];
//! - [`logging`].

mod commands;
mod configuration;
mod connection;
mod descriptors;
mod dev;
mod histogram;
mod input;
mod json_refusal;
mod kept;
mod logging;
mod metrics_page;
mod number;
mod outcome;
mod output;
mod shell;
mod signals;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// TierKV: a cache tier and a durable key-value store under one guarantee.
#[derive(Parser)]
#[command(
    name = "tierkv",
    version,
    about,
    after_help = "Start with: tierkv dev\n\nExit status: 0 on success; 1 if a key to read or touch is absent, a \
                  condition did not hold, lines of an import were left out, operations of a bench \
                  failed or a recovery is due; 2 for any error; 3 if the outcome of a write is unknown."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole platform in this process.
    Dev(dev::DevArguments),
    /// Check the configuration, or print a sample of it.
    #[command(subcommand)]
    Config(commands::config::ConfigCommand),
    #[command(flatten)]
    Operation(commands::Operation),
    /// Run commands line by line over one connection.
    Shell(shell::ShellArguments),
    /// Measure how fast a running platform reads and writes.
    Bench(commands::bench::BenchArguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(refusal) = logging::start() {
        return outcome::failed(&*Box::<dyn std::error::Error>::from(refusal));
    }
    let ended = match arguments.command {
        Command::Dev(arguments) => dev::run(arguments).await,
        Command::Config(command) => commands::config::run(&command),
        Command::Operation(operation) => operation.run().await,
        Command::Shell(arguments) => shell::run(arguments).await,
        Command::Bench(arguments) => commands::bench::run(arguments).await,
    };
    ended.unwrap_or_else(|error| outcome::failed(&*error))
}
