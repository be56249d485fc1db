//! `tierkv delete`.

use std::ffi::OsString;

use clap::Args;
use tierkv::DeleteOptions;
use tierkv_openapi::Deleted;

use super::{condition::ConditionArguments, key::KeyForm};
use crate::{
    connection::Connection,
    outcome::{Outcome, done},
    output::{self, Output},
};

/// Options of `tierkv delete`.
#[derive(Args)]
pub(crate) struct DeleteArguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: KeyForm,
    #[command(flatten)]
    condition: ConditionArguments,
    /// The key.
    key: OsString,
    /// How to print whether it was there; raw is 1 or 0.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Removes the key and says whether it was there.
pub(crate) async fn run(arguments: DeleteArguments) -> Outcome {
    let key = arguments.form.read(arguments.key)?;
    let options = DeleteOptions {
        condition: arguments.condition.condition(),
    };
    let client = arguments.connection.open().await?;
    let deleted = client.delete_with(key, options).await?;
    Ok(done(match (arguments.output, deleted.existed) {
        (Output::Json, existed) => output::json(&Deleted {
            existed,
            version: deleted.version.to_string(),
        }),
        (Output::Raw, existed) => output::line(u8::from(existed).to_string()),
        (Output::Table, true) => output::line("deleted"),
        (Output::Table, false) => output::line("the key was absent"),
    }))
}
