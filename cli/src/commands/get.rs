//! `tierkv get`.

use std::{
    ffi::OsString,
    io::{IsTerminal, stdout},
    process::ExitCode,
};

use clap::Args;
use tierkv::{Found, ReadOptions, Source};
use tierkv_openapi::{
    answers::{self, Hop},
    octets::split,
};

use super::{
    freshness::FreshnessArguments,
    key::{KeyForm, expiry, millis},
};
use crate::{
    connection::Connection,
    kept,
    outcome::Outcome,
    output::{self, Output, Table, readable, readable_value},
    time::date,
};

/// Options of `tierkv get`.
#[derive(Args)]
pub(crate) struct GetArguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: KeyForm,
    #[command(flatten)]
    freshness: FreshnessArguments,
    /// The key, or several.
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<OsString>,
    /// Print source, version and age of the value on standard error.
    #[arg(long, short)]
    verbose: bool,
    /// Print the path of the read: each tier with the time until it had its answer, the tiers
    /// below included. On standard error, or in the JSON.
    #[arg(long)]
    explain: bool,
    /// How to print what was found; raw ends each value with a newline if there are several.
    #[arg(long, short, value_enum, default_value = "raw")]
    output: Output,
}

/// Prints the values; exits 1 if a key is absent.
pub(crate) async fn run(arguments: GetArguments) -> Outcome {
    let options = ReadOptions {
        explain: arguments.explain,
        ..arguments.freshness.options()?
    };
    let keys = (arguments.keys.into_iter())
        .map(|key| arguments.form.read(key))
        .collect::<Result<Vec<_>, _>>()?;
    let client = arguments.connection.open().await?;
    let found = match &keys[..] {
        [key] => vec![client.get_with(key, options).await?],
        keys => client.batch_get_with(keys, options).await?,
    };
    let mut table = Table::new(["KEY", "VALUE", "VERSION", "SOURCE", "AGE", "EXPIRES"]);
    for (key, found) in keys.iter().zip(&found) {
        if arguments.verbose {
            output::note(format_args!("{}", provenance(found)));
        }
        if arguments.output != Output::Json {
            note_path(found);
        }
        match (arguments.output, &found.value) {
            (Output::Json, _) => output::json(&read(key, found))?,
            (Output::Table, value) => table.push([
                readable(key),
                value
                    .as_deref()
                    .map_or_else(|| "(absent)".to_owned(), readable_value),
                found.version.to_string(),
                source(found.source).name().to_owned(),
                format!("{} ms", found.age.as_millis()),
                (value.as_ref()).map_or_else(String::new, |_| expiry(found.expires_at)),
            ]),
            (Output::Raw, Some(value)) => {
                output::print(value)?;
                // On a terminal or in a shell, the next output must start on a new line.
                let is_followed = stdout().is_terminal() || kept::current().is_some();
                if keys.len() > 1 || (is_followed && !value.ends_with(b"\n")) {
                    output::print("\n")?;
                }
            }
            (Output::Raw, None) => {
                let place = kept::place();
                output::note(format_args!("{place}the key '{}' is absent", readable(key)));
            }
        }
    }
    if arguments.output == Output::Table {
        output::print(table.take())?;
    }
    Ok(match found.iter().all(|found| found.value.is_some()) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn note_path(found: &Found) {
    for hop in &found.path {
        let (tier, node, took) = (&hop.tier, &hop.node, hop.took.as_micros());
        output::note(format_args!("{tier} {node}: {took} µs"));
    }
}

fn provenance(found: &Found) -> String {
    let expiry = match millis(found.expires_at) {
        Some(at) => format!("expires at {}", date(at)),
        None if found.value.is_none() => "the key is absent".to_owned(),
        None => "does not expire".to_owned(),
    };
    format!(
        "source {}, version {}, age at most {} ms, {expiry}",
        source(found.source).name(),
        found.version,
        found.age.as_millis()
    )
}

const fn source(source: Source) -> answers::Source {
    match source {
        Source::Cache => answers::Source::Cache,
        Source::Replica => answers::Source::Replica,
        Source::Master => answers::Source::Master,
        Source::Unknown => answers::Source::Unknown,
    }
}

/// The answer in REST's form for one key of a batch.
fn read(key: &[u8], found: &Found) -> answers::Read {
    let (key, key_base64) = split(key);
    let (value, value_base64) = found.value.as_deref().map_or((None, None), split);
    let hop = |hop: &tierkv::Hop| Hop {
        tier: hop.tier.clone(),
        node: hop.node.clone(),
        micros: u64::try_from(hop.took.as_micros()).unwrap_or(u64::MAX),
    };
    answers::Read {
        key,
        key_base64,
        found: found.value.is_some(),
        value,
        value_base64,
        version: found.version.to_string(),
        source: source(found.source),
        age_ms: u32::try_from(found.age.as_millis()).unwrap_or(u32::MAX),
        expires_at: millis(found.expires_at),
        path: found.path.iter().map(hop).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_found_is_told_in_json() {
        let mut found = Found {
            value: Some("v".into()),
            version: u64::MAX,
            source: Source::Cache,
            age: Duration::from_millis(7),
            expires_at: UNIX_EPOCH.checked_add(Duration::from_millis(1_500)),
            path: vec![tierkv::Hop {
                tier: "cache".to_owned(),
                node: "m1".to_owned(),
                took: Duration::from_micros(12),
            }],
        };
        assert_eq!(
            serde_json::to_value(read(b"k", &found)).unwrap(),
            json!({
                "key": "k", "value": "v", "found": true, "version": "18446744073709551615",
                "source": "cache", "age_ms": 7, "expires_at": 1_500,
                "path": [{"tier": "cache", "node": "m1", "micros": 12}],
            })
        );
        (found.value, found.expires_at) = (None, None);
        found.path.clear();
        assert_eq!(
            serde_json::to_value(read(&[255], &found)).unwrap(),
            json!({
                "key_base64": "/w==", "found": false, "version": "18446744073709551615",
                "source": "cache", "age_ms": 7,
            })
        );
    }
}
