//! `tierkv get`.

use std::{
    ffi::OsString,
    io::{IsTerminal, Write, stdout},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, ValueEnum};
use tierkv::{Consistency, ReadOptions};

use super::bytes;
use crate::{Outcome, connection::Connection};

/// Options of `tierkv get`.
#[derive(Args)]
pub(crate) struct GetArguments {
    #[command(flatten)]
    connection: Connection,
    /// The key.
    key: OsString,
    /// How fresh the answer must be [default: cached, or session with --min-version].
    #[arg(long, value_enum)]
    consistency: Option<Freshness>,
    /// The least version of the key to see, as a write or read of it told.
    #[arg(long)]
    min_version: Option<u64>,
    /// The read's own staleness bound in milliseconds.
    #[arg(long)]
    max_staleness_ms: Option<u64>,
    /// Tell on standard error where the value came from, its version and age.
    #[arg(long, short)]
    verbose: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Freshness {
    /// At most the platform's max_staleness old; answered by the cache where possible.
    Cached,
    /// Like cached, and at least --min-version.
    Session,
    /// The newest there is.
    Latest,
}

/// Prints the value as it is; exits 1 if the key is absent.
pub(crate) async fn run(arguments: GetArguments) -> Outcome {
    let client = arguments.connection.open().await?;
    let options = ReadOptions {
        consistency: match (arguments.consistency, arguments.min_version) {
            (None | Some(Freshness::Session), Some(version)) => Consistency::Session(version),
            (None | Some(Freshness::Cached), None) => Consistency::Cached,
            (Some(Freshness::Latest), None) => Consistency::Latest,
            (Some(Freshness::Session), None) => {
                return Err("--consistency session needs a --min-version".into());
            }
            (Some(Freshness::Cached | Freshness::Latest), Some(_)) => {
                return Err("--min-version goes with --consistency session".into());
            }
        },
        max_staleness: arguments.max_staleness_ms.map(Duration::from_millis),
    };
    let found = client.get_with(bytes(arguments.key), options).await?;
    if arguments.verbose {
        let (source, version, age) = (found.source, found.version, found.age);
        eprintln!(
            "source {source:?}, version {version}, age at most {} ms",
            age.as_millis()
        );
    }
    let Some(value) = found.value else {
        eprintln!("the key is absent");
        return Ok(ExitCode::FAILURE);
    };
    let mut out = stdout();
    out.write_all(&value)?;
    if out.is_terminal() && !value.ends_with(b"\n") {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
