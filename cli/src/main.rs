//! The `tierkv` binary: runs the platform's roles, and talks to a running platform.
//!
//! Reading order: [`configuration`] is what an operator may say; [`dev`] puts every tier
//! into this process, which has so many [`descriptors`]; [`commands`] are the others, one file
//! each, over [`connection`] and by [`output`]; [`outcome`] is how each of them ends;
//! [`signals`] is what ends `dev`; [`input`] and [`logging`] are what they say.

mod commands;
mod configuration;
mod connection;
mod descriptors;
mod dev;
mod input;
mod logging;
mod outcome;
mod output;
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
                  condition did not hold, lines of an import were left out or a recovery is due; 2 for \
                  any error; 3 if it is unknown whether a write happened."
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
    /// Print the value of a key.
    Get(commands::get::GetArguments),
    /// Set a key.
    Put(commands::put::PutArguments),
    /// Remove a key, or all keys of a prefix.
    Delete(commands::delete::DeleteArguments),
    /// Set when a key expires, and keep its value.
    Touch(commands::touch::TouchArguments),
    /// Add to a number.
    Increment(commands::increment::IncrementArguments),
    /// Change several keys, all or none.
    Write(commands::write::WriteArguments),
    /// List keys and their values in order.
    Scan(commands::scan::ScanArguments),
    /// Count keys.
    Count(commands::count::CountArguments),
    /// Tell changes as they happen.
    Watch(commands::watch::WatchArguments),
    /// Load keys from JSON lines.
    Import(commands::import::ImportArguments),
    /// Save keys as JSON lines.
    Export(commands::export::ExportArguments),
    /// Show the topology and its health.
    Status(commands::status::StatusArguments),
    /// What operators decide.
    #[command(subcommand)]
    Admin(commands::admin::AdminCommand),
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
        Command::Get(arguments) => commands::get::run(arguments).await,
        Command::Put(arguments) => commands::put::run(arguments).await,
        Command::Delete(arguments) => commands::delete::run(arguments).await,
        Command::Touch(arguments) => commands::touch::run(arguments).await,
        Command::Increment(arguments) => commands::increment::run(arguments).await,
        Command::Write(arguments) => commands::write::run(arguments).await,
        Command::Scan(arguments) => commands::scan::run(arguments).await,
        Command::Count(arguments) => commands::count::run(arguments).await,
        Command::Watch(arguments) => commands::watch::run(arguments).await,
        Command::Import(arguments) => commands::import::run(arguments).await,
        Command::Export(arguments) => commands::export::run(arguments).await,
        Command::Status(arguments) => commands::status::run(arguments).await,
        Command::Admin(command) => commands::admin::run(command).await,
    };
    ended.unwrap_or_else(|error| outcome::failed(&*error))
}
