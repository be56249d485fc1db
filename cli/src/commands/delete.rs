//! `tierkv delete`.

use std::{ffi::OsString, process::ExitCode};

use clap::Args;

use super::bytes;
use crate::{Outcome, connection::Connection};

/// Options of `tierkv delete`.
#[derive(Args)]
pub(crate) struct DeleteArguments {
    #[command(flatten)]
    connection: Connection,
    /// The key.
    key: OsString,
}

/// Removes the key and says whether it was there.
pub(crate) async fn run(arguments: DeleteArguments) -> Outcome {
    let client = arguments.connection.open().await?;
    let deleted = client.delete(bytes(arguments.key)).await?;
    println!(
        "{}",
        if deleted.existed {
            "deleted"
        } else {
            "the key was absent"
        }
    );
    Ok(ExitCode::SUCCESS)
}
