//! The commands except `dev`, one file each, and their shared options: [`key`], [`prefix`],
//! [`condition`] and [`freshness`]. [`Operation`] are the commands for a running platform, which the command
//! line and the shell share.

pub(crate) mod admin;
pub(crate) mod bench;
mod condition;
pub(crate) mod config;
pub(crate) mod count;
pub(crate) mod delete;
pub(crate) mod export;
mod freshness;
pub(crate) mod get;
pub(crate) mod import;
pub(crate) mod increment;
mod key;
mod prefix;
pub(crate) mod put;
pub(crate) mod scan;
pub(crate) mod status;
pub(crate) mod touch;
pub(crate) mod watch;
pub(crate) mod write;

use clap::Subcommand;

use crate::outcome::Outcome;

/// The commands for a running platform.
#[derive(Subcommand)]
pub(crate) enum Operation {
    /// Print the value of a key.
    Get(get::GetArguments),
    /// Set a key.
    Put(put::PutArguments),
    /// Remove a key, or all keys of a prefix.
    Delete(delete::DeleteArguments),
    /// Set when a key expires, and keep its value.
    Touch(touch::TouchArguments),
    /// Add to a number.
    Increment(increment::IncrementArguments),
    /// Change several keys, all or none.
    Write(write::WriteArguments),
    /// List keys and their values in order.
    Scan(scan::ScanArguments),
    /// Count keys.
    Count(count::CountArguments),
    /// Print changes as they happen.
    Watch(watch::WatchArguments),
    /// Load keys from JSON lines.
    Import(import::ImportArguments),
    /// Save keys as JSON lines.
    Export(export::ExportArguments),
    /// Show the topology and its health.
    Status(status::StatusArguments),
    /// Commands for operators.
    #[command(subcommand)]
    Admin(admin::AdminCommand),
}

impl Operation {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        match self {
            Self::Get(arguments) => get::run(arguments).await,
            Self::Put(arguments) => put::run(arguments).await,
            Self::Delete(arguments) => delete::run(arguments).await,
            Self::Touch(arguments) => touch::run(arguments).await,
            Self::Increment(arguments) => increment::run(arguments).await,
            Self::Write(arguments) => write::run(arguments).await,
            Self::Scan(arguments) => scan::run(arguments).await,
            Self::Count(arguments) => count::run(arguments).await,
            Self::Watch(arguments) => watch::run(arguments).await,
            Self::Import(arguments) => import::run(arguments).await,
            Self::Export(arguments) => export::run(arguments).await,
            Self::Status(arguments) => status::run(arguments).await,
            Self::Admin(command) => admin::run(command).await,
        }
    }

    /// Whether the command handles Ctrl-C and SIGTERM itself.
    pub(crate) const fn ends_by_signal(&self) -> bool {
        matches!(self, Self::Watch(_))
    }

    /// Whether the command only reads, so that an interruption has no effect.
    pub(crate) const fn only_reads(&self) -> bool {
        matches!(
            self,
            Self::Get(_)
                | Self::Scan(_)
                | Self::Count(_)
                | Self::Watch(_)
                | Self::Export(_)
                | Self::Status(_)
        )
    }
}
