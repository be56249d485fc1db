//! `tierkv touch`.

use std::{ffi::OsString, time::Duration};

use clap::Args;
use tierkv::TouchOptions;
use tierkv_openapi::Written;

use super::{condition::PresenceArguments, key::KeyForm};
use crate::{
    connection::Connection,
    outcome::{Outcome, done},
    output::{self, Output},
    time,
};

/// Options of `tierkv touch`.
#[derive(Args)]
pub(crate) struct TouchArguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: KeyForm,
    #[command(flatten)]
    condition: PresenceArguments,
    /// The key.
    key: OsString,
    /// Time to live from now on, as in 1500ms, 60s, 15m, 12h or 30d; without it, the key never
    /// expires.
    #[arg(long, value_parser = time::ttl)]
    ttl: Option<Duration>,
    /// How to print the new version.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Sets when the key expires and prints its new version; exits 1 if the key is absent.
pub(crate) async fn run(arguments: TouchArguments) -> Outcome {
    let key = arguments.form.read(arguments.key)?;
    let options = TouchOptions {
        ttl: arguments.ttl,
        condition: arguments.condition.condition(),
    };
    let client = arguments.connection.open().await?;
    let version = client.touch_with(key, options).await?.to_string();
    Ok(done(match arguments.output {
        Output::Json => output::json(&Written { version }),
        Output::Table | Output::Raw => output::line(version),
    }))
}
