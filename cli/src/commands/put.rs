//! `tierkv put`.

use std::{
    ffi::OsString,
    io::{Read, stdin},
    process::ExitCode,
};

use clap::Args;

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
    let version = client.put(bytes(arguments.key), value).await?;
    println!("{version}");
    Ok(ExitCode::SUCCESS)
}
