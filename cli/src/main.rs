//! The `tierkv` binary: runs the platform, and the commands for a running platform.
//!
//! Reading order:
//! - [`configuration`]: the settings of an operator; [`dev`]: runs every tier in this process, on
//!   its [`data_dir`], [`listening`] within its limit of [`descriptors`], and with one [`metrics_page`] (each [`histogram`] of
//!   which is ours), until one of the [`signals`];
//! - [`cluster`]: runs a platform of many processes on this machine;
//! - [`roles`]: runs one tier, or one node of it, in this process;
//! - [`runtime`]: the threads on which a command runs;
//! - [`commands`]: the other commands, one file each; they use [`connection`], [`input`],
//!   [`number`] and [`time`] to read, [`output`] to print, and [`outcome`] for the exit status;
//!   [`tips`] are added to the messages for wrong usage;
//! - [`shell`]: runs commands line by line, with the state of [`kept`];
//! - [`logging`].

mod cluster;
mod commands;
mod configuration;
mod connection;
mod data_dir;
mod descriptors;
mod dev;
mod histogram;
mod input;
mod kept;
mod listening;
mod logging;
mod metrics_page;
mod number;
mod outcome;
mod output;
mod recovery_command;
mod roles;
mod runtime;
mod shell;
mod signals;
mod time;
mod tips;

use std::{env, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// TierKV: a cache tier and a durable key-value store under one guarantee.
#[derive(Parser)]
#[command(
    name = "tierkv",
    version,
    after_help = "Start with: tierkv dev\n\nExit status: 0 on success; 1 if a key to read or touch is absent, a \
                  condition did not hold, a deletion was not confirmed, lines of an import were left \
                  out, operations of a bench failed or its keys are left over, or a recovery is due; 2 for any error; 3 if the outcome of a write is unknown."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole platform in this process.
    Dev(dev::DevArguments),
    /// Run a platform of many processes on this machine, over a real etcd.
    Cluster(cluster::ClusterArguments),
    /// Run a data node, in a platform of many processes.
    #[command(name = "datanode")]
    DataNode(roles::DataNodeArguments),
    /// Run a server coordinator, in a platform of many processes.
    ServerCoordinator(roles::ServerCoordinatorArguments),
    /// Run a client coordinator, in a platform of many processes.
    ClientCoordinator(roles::ClientCoordinatorArguments),
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

impl Arguments {
    /// Parses the command line. With wrong usage, or to print help, the process ends here.
    fn of_process() -> Self {
        let error = match Self::try_parse() {
            Ok(arguments) => return arguments,
            Err(error) => error,
        };
        // Clap's usage lists an option that the environment sets as if it were required.
        let mut bare = connection::without_environment(Self::command());
        let error = match bare.try_get_matches_from_mut(env::args_os()) {
            Err(same) if error.use_stderr() && same.kind() == error.kind() => same,
            _ => error,
        };
        tips::with_tip(error, &bare).exit()
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::of_process();
    if let Err(refusal) = logging::start() {
        return outcome::failed(&*Box::<dyn std::error::Error>::from(refusal));
    }
    let ended = match arguments.command {
        Command::Dev(arguments) => dev::run(arguments),
        Command::Cluster(arguments) => runtime::run(None, cluster::run(arguments)),
        Command::DataNode(arguments) => roles::run_data_node(arguments),
        Command::ServerCoordinator(arguments) => roles::run_server_coordinator(arguments),
        Command::ClientCoordinator(arguments) => roles::run_client_coordinator(arguments),
        Command::Config(command) => commands::config::run(&command),
        Command::Operation(operation) => runtime::run(None, operation.run()),
        Command::Shell(arguments) => runtime::run(None, shell::run(arguments)),
        Command::Bench(arguments) => runtime::run(None, commands::bench::run(arguments)),
    };
    ended.unwrap_or_else(|error| outcome::failed(&*error))
}
