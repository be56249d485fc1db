//! `tierkv increment`.

use std::ffi::OsString;

use clap::Args;
use tierkv_openapi::answers::Incremented;

use super::key::KeyForm;
use crate::{
    connection::Connection,
    number,
    outcome::{Outcome, done},
    output::{self, Output},
};

/// Options of `tierkv increment`.
#[derive(Args)]
pub(crate) struct IncrementArguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: KeyForm,
    /// The key of the number; an absent one counts as 0.
    key: OsString,
    /// What to add, which may be negative.
    #[arg(default_value_t = 1, allow_negative_numbers = true, value_parser = number::signed)]
    delta: i64,
    /// How to print the result.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Adds to the number and prints the result.
pub(crate) async fn run(arguments: IncrementArguments) -> Outcome {
    let key = arguments.form.read(arguments.key)?;
    let client = arguments.connection.open().await?;
    let incremented = client.increment(key, arguments.delta).await?;
    let value = incremented.value.to_string();
    Ok(done(match arguments.output {
        Output::Json => output::json(&Incremented {
            value,
            version: incremented.version.to_string(),
        }),
        Output::Table | Output::Raw => output::line(value),
    }))
}
