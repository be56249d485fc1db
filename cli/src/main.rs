//! The `tierkv` binary: runs the platform's roles, and talks to a running platform.
//!
//! Reading order: [`configuration`] is what an operator may say; [`dev`] puts every tier
//! into this process, which has so many [`descriptors`] and one [`metrics_page`] (with each
//! [`histogram`]); [`commands`] are the others, one file
//! each, over [`connection`] and by [`output`]; [`shell`] runs them line by line, over what is
//! [`kept`]; [`outcome`] is how each of them ends; [`signals`] is what ends `dev`; [`input`],
//! [`number`], [`json_refusal`] and [`logging`] are what they say.

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
    after_help = "Start with: tierkv dev\n\nExit status: 0 if all went well; 1 if a key to read or touch is absent, a \
                  condition did not hold, lines of an import were left out, operations of a bench \
                  failed or a recovery is due; 2 for any error; 3 if it is unknown whether a write happened."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every tier in this process, with nothing else installed.
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
