//! `tierkv get`.

use std::{
    ffi::OsString,
    io::{IsTerminal, Write, stdout},
    process::ExitCode,
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use tierkv::{Consistency, Found, ReadOptions};

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
    /// How to print what was found.
    #[arg(long, short, value_enum, default_value = "value")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// The value's bytes as they are.
    Value,
    /// One line of JSON: key, value, version, source, age and, if it expires, when.
    Json,
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
        explain: false,
    };
    let key = bytes(arguments.key);
    let found = client.get_with(&key, options).await?;
    if arguments.verbose {
        let (source, version, age) = (found.source, found.version, found.age);
        let expiry = match expires_at_ms(&found) {
            Some(at) => format!("expires at {at} ms of Unix time"),
            None => "does not expire".to_owned(),
        };
        eprintln!(
            "source {source:?}, version {version}, age at most {} ms, {expiry}",
            age.as_millis()
        );
    }
    if arguments.output == Output::Json {
        println!("{}", as_json(&key, &found));
        return Ok(match found.value {
            Some(_) => ExitCode::SUCCESS,
            None => ExitCode::FAILURE,
        });
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

/// When the key expires, in milliseconds since the Unix epoch.
fn expires_at_ms(found: &Found) -> Option<u64> {
    let since = found.expires_at?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

/// What was found. Bytes that are not UTF-8 go as base64, in the fields of an import line.
fn as_json(key: &[u8], found: &Found) -> Value {
    let mut fields = Map::new();
    let mut tell = |name: &str, bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => fields.insert(name.to_owned(), text.into()),
        Err(_) => fields.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
    tell("key", key);
    if let Some(value) = &found.value {
        tell("value", value);
    }
    fields.insert("found".to_owned(), found.value.is_some().into());
    // A version exceeds what a JSON number holds exactly.
    fields.insert("version".to_owned(), found.version.to_string().into());
    let source = format!("{:?}", found.source).to_lowercase();
    fields.insert("source".to_owned(), source.into());
    fields.insert("age_ms".to_owned(), json!(found.age.as_millis()));
    if let Some(at) = expires_at_ms(found) {
        fields.insert("expires_at_ms".to_owned(), at.into());
    }
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use tierkv::Source;

    use super::*;

    #[test]
    fn what_was_found_is_told_in_json() {
        let mut found = Found {
            value: Some("v".into()),
            version: u64::MAX,
            source: Source::Cache,
            age: Duration::from_millis(7),
            expires_at: UNIX_EPOCH.checked_add(Duration::from_millis(1_500)),
            path: Vec::new(),
        };
        assert_eq!(
            as_json(b"k", &found),
            json!({
                "key": "k", "value": "v", "found": true, "version": "18446744073709551615",
                "source": "cache", "age_ms": 7, "expires_at_ms": 1_500,
            })
        );
        (found.value, found.expires_at) = (None, None);
        assert_eq!(
            as_json(&[255], &found),
            json!({
                "key_base64": "/w==", "found": false, "version": "18446744073709551615",
                "source": "cache", "age_ms": 7,
            })
        );
    }
}
