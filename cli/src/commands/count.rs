//! `tierkv count`.

use std::process::ExitCode;

use clap::Args;
use tierkv_openapi::answers::Counted;

use super::{freshness::FreshnessArguments, key::KeyForm, prefix::PrefixArguments};
use crate::{
    connection::Connection,
    outcome::Outcome,
    output::{self, Output},
};

/// Options of `tierkv count`.
#[derive(Args)]
pub(crate) struct CountArguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: KeyForm,
    #[command(flatten)]
    freshness: FreshnessArguments,
    #[command(flatten)]
    prefix: PrefixArguments,
    /// How to print the count.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Prints the number of keys.
pub(crate) async fn run(arguments: CountArguments) -> Outcome {
    let selection = arguments.form.prefix(arguments.prefix.given())?;
    let options = arguments.freshness.options()?;
    let client = arguments.connection.open().await?;
    let count = client.count_with(selection, options).await?;
    match arguments.output {
        Output::Json => output::json(&Counted { count })?,
        Output::Table | Output::Raw => output::line(count.to_string())?,
    }
    Ok(ExitCode::SUCCESS)
}
