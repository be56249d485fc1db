//! `tierkv put`.

use std::{
    ffi::OsString,
    io::{Read, stdin},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use tierkv::PutOptions;
use tierkv_openapi::ttl;

use super::bytes;
use crate::{Outcome, connection::Connection};

/// Options of `tierkv put`.
#[derive(Args)]
pub(crate) struct PutArguments {
    #[command(flatten)]
    connection: Connection,
    /// The key.
    key: OsString,
    /// The value; `-`, or none at all, reads it from standard input.
    value: Option<OsString>,
    /// How long the key lives, as in 1500ms, 60s, 15m, 12h or 30d; without it, until it is
    /// removed.
    #[arg(long, value_parser = ttl::parse)]
    ttl: Option<Duration>,
}

/// Sets the key and prints its new version.
pub(crate) async fn run(arguments: PutArguments) -> Outcome {
    let client = arguments.connection.open().await?;
    let value = match arguments.value {
        Some(value) if value != "-" => bytes(value),
        _ => {
            let mut value = Vec::new();
            stdin().lock().read_to_end(&mut value)?;
            value
        }
    };
    let options = PutOptions {
        ttl: arguments.ttl,
        ..PutOptions::default()
    };
    let version = client
        .put_with(bytes(arguments.key), value, options)
        .await?;
    println!("{version}");
    Ok(ExitCode::SUCCESS)
}
