//! `tierkv put`.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf, time::Duration};

use clap::Args;
use tierkv::PutOptions;
use tierkv_openapi::Written;
use tierkv_types::limits::MAX_VALUE_BYTES;

use super::{condition::ConditionArguments, key::KeyForm};
use crate::{
    connection::Connection,
    input,
    outcome::{Outcome, done},
    output::{self, Output},
    time,
};

/// Options of `tierkv put`.
#[derive(Args)]
pub(crate) struct PutArguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: KeyForm,
    #[command(flatten)]
    condition: ConditionArguments,
    /// The key.
    key: OsString,
    /// The value; with `-` or without a value it is read from standard input. A value that begins
    /// with `-` and is no number goes after `--`.
    #[arg(conflicts_with = "file", allow_negative_numbers = true)]
    value: Option<OsString>,
    /// Read the value from a file.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Time to live, as in 1500ms, 60s, 15m, 12h or 30d; without it, the key never expires.
    #[arg(long, value_parser = time::ttl)]
    ttl: Option<Duration>,
    /// How to print the new version.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Sets the key and prints its new version.
pub(crate) async fn run(arguments: PutArguments) -> Outcome {
    let key = arguments.form.read(arguments.key)?;
    let value = match (arguments.value, arguments.file) {
        (Some(value), None) if value != "-" => value.into_vec(),
        (_, file) => input::read(
            file.as_deref(),
            MAX_VALUE_BYTES,
            &format!(
                "the value is longer than the limit of {MAX_VALUE_BYTES} bytes; nothing was \
                 written"
            ),
        )?,
    };
    let options = PutOptions {
        ttl: arguments.ttl,
        condition: arguments.condition.condition(),
    };
    let client = arguments.connection.open().await?;
    let version = client.put_with(key, value, options).await?.to_string();
    Ok(done(match arguments.output {
        Output::Json => output::json(&Written { version }),
        Output::Table | Output::Raw => output::line(version),
    }))
}
