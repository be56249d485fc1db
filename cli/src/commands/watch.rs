//! `tierkv watch`.

use std::process::ExitCode;

use bytes::Bytes;
use clap::Args;
use serde_json::{Map, Value};
use tierkv::{Change, Event};
use tierkv_openapi::octets::{split, token, token_bytes};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    key::{KeyForm, millis},
    prefix::PrefixArguments,
};
use crate::{
    connection::Connection,
    number,
    outcome::Outcome,
    output::{self, Output, readable, readable_value},
    time::date,
};

/// Options of `tierkv watch`.
#[derive(Args)]
pub(crate) struct WatchArguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: KeyForm,
    #[command(flatten)]
    prefix: PrefixArguments,
    /// Resume where an earlier watch of the same keys ended, instead of from now.
    #[arg(long)]
    resume_token: Option<String>,
    /// End after this many changes. Changes that arrived together with the last one are printed,
    /// too, because a watch resumes after all of them.
    #[arg(long, value_parser = number::limit)]
    limit: Option<u64>,
    /// How to print changes; each line of JSON has its resume token.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Prints changes as they happen until it is interrupted, then the resume token on standard
/// error.
pub(crate) async fn run(arguments: WatchArguments) -> Outcome {
    let prefix = arguments.prefix.given();
    let prefix = prefix.map(|prefix| arguments.form.read(prefix));
    let prefix = prefix.transpose()?.unwrap_or_default();
    let from = (arguments.resume_token.as_deref())
        .map(|text| token_bytes("the resume token", "the output of an earlier watch", text));
    let from = from.transpose()?.unwrap_or_default();
    let client = arguments.connection.open().await?;
    let mut watch = client.watch_from(prefix, from).await?;
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    let mut connected = watch.connected();
    let mut is_lost = false;
    // Listened to throughout: a signal that arrives while a change is printed counts, too.
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    loop {
        let event = tokio::select! {
            event = watch.next() => event,
            Ok(()) = connected.changed() => {
                note_connection(*connected.borrow_and_update(), &mut is_lost);
                continue;
            }
            _ = interrupted.recv() => break,
            _ = terminated.recv() => break,
        };
        let Some(event) = event.transpose()? else {
            break;
        };
        match arguments.output {
            Output::Table => output::line(as_words(&event))?,
            Output::Json => output::json(&as_json(&event, watch.resume_token()))?,
            Output::Raw => output::line(raw(&event))?,
        }
        left = left.saturating_sub(1);
        if left == 0 && watch.token_covers_all() {
            break;
        }
    }
    output::note(format_args!(
        "go on with --resume-token {}",
        token(watch.resume_token())
    ));
    Ok(ExitCode::SUCCESS)
}

/// Reports on standard error that the connection was lost, and that it is back.
fn note_connection(is_connected: bool, is_lost: &mut bool) {
    if !is_connected || !*is_lost {
        output::note("the connection to the platform was lost; reconnecting");
    }
    if is_connected {
        output::note("connected again; the watch resumes, and no change is missed");
    }
    *is_lost = !is_connected;
}

fn as_words(event: &Event) -> String {
    let (key, version) = (readable(&event.key), event.version);
    match &event.change {
        Change::Written { value, expires_at } => {
            let expires = millis(*expires_at)
                .map_or_else(String::new, |at| format!("  (expires {})", date(at)));
            let value = readable_value(value);
            format!("written  {version}  {key}  {value}{expires}")
        }
        Change::Removed => format!("removed  {version}  {key}"),
    }
}

/// The key and, if it was written, a tab and the value.
fn raw(event: &Event) -> Vec<u8> {
    match &event.change {
        Change::Written { value, .. } => [&event.key[..], b"\t", value].concat(),
        Change::Removed => event.key.to_vec(),
    }
}

/// The data of REST's event, with the event's name.
fn as_json(event: &Event, resume_token: &Bytes) -> Value {
    let mut fields = Map::new();
    let mut tell = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    let (key, key_base64) = split(&event.key);
    tell("key", key.map(Value::from));
    tell("key_base64", key_base64.map(Value::from));
    // A version exceeds what a JSON number holds exactly.
    tell("version", Some(event.version.to_string().into()));
    let name = match &event.change {
        Change::Written { value, expires_at } => {
            let (value, value_base64) = split(value);
            tell("value", value.map(Value::from));
            tell("value_base64", value_base64.map(Value::from));
            tell("expires_at", millis(*expires_at).map(Value::from));
            "written"
        }
        Change::Removed => "removed",
    };
    tell("event", Some(name.into()));
    tell("resume_token", Some(token(resume_token).into()));
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use serde_json::json;

    use super::*;

    #[test]
    fn changes_are_told_in_every_form() {
        let mut event = Event {
            key: b"\xff"[..].into(),
            version: u64::MAX,
            change: Change::Written {
                value: "a\n".into(),
                expires_at: None,
            },
        };
        assert_eq!(
            as_words(&event),
            "written  18446744073709551615  \\xff  a\\n"
        );
        assert_eq!(raw(&event), b"\xff\ta\n");
        assert_eq!(
            as_json(&event, &b"\xfb"[..].into()),
            json!({
                "event": "written", "key_base64": "/w==", "value": "a\n",
                "version": "18446744073709551615", "resume_token": "-w",
            })
        );
        event.change = Change::Written {
            value: "a".into(),
            expires_at: UNIX_EPOCH.checked_add(Duration::from_millis(1_500)),
        };
        let words = as_words(&event);
        assert!(
            words.ends_with("a  (expires 1970-01-01T00:00:01.500Z)"),
            "{words}"
        );
        event.change = Change::Removed;
        assert_eq!(as_words(&event), "removed  18446744073709551615  \\xff");
        assert_eq!(raw(&event), b"\xff");
        assert_eq!(as_json(&event, &Bytes::new())["event"], "removed");
    }
}
