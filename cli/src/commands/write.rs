//! `tierkv write`: an atomic batch, as JSON in the form of REST's `POST /v1/write`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde_json::Value;
use tierkv::{
    Condition, Write, Written,
    rpc::proto::v1::{self, condition, write_operation},
};
use tierkv_openapi::{
    answers::{BatchWritten, WriteResult},
    json_refusal,
    object::of_value,
    octets::split,
    requests::WriteRequest,
};

use tierkv_types::limits::MAX_REQUEST_BYTES;

use crate::{
    connection::Connection,
    input,
    outcome::{Outcome, done},
    output::{self, Output, Table, readable, readable_value},
};

/// Longest batch that is read, in bytes: the largest request, with every byte escaped.
const MAX_BATCH_BYTES: usize = 6 * MAX_REQUEST_BYTES;

/// An example of a batch, for error messages.
const FORM: &str = r#"such as {"operations": [{"put": {"key": "a", "value": "1"}}]}"#;

/// Options of `tierkv write`.
#[derive(Args)]
pub(crate) struct WriteArguments {
    #[command(flatten)]
    connection: Connection,
    /// A file with the batch; `-` or no file is standard input. As in
    /// {"conditions": [{"key": "a", "if_absent": true}, {"key": "b", "if_version": "7"}],
    /// "operations": [{"put": {"key": "a", "value": "1", "ttl_ms": 60000}},
    /// {"delete": {"key": "b"}}, {"increment": {"key": "c", "delta": 5}},
    /// {"touch": {"key": "d", "ttl_ms": 60000}}],
    /// "return_previous": true}; key_base64 and value_base64 take any bytes.
    file: Option<PathBuf>,
    /// How to print the results.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Applies the batch and prints its results; exits 1 if a condition did not hold.
pub(crate) async fn run(arguments: WriteArguments) -> Outcome {
    let file = arguments.file.as_deref();
    let body = input::read(
        file.filter(|path| *path != Path::new("-")),
        MAX_BATCH_BYTES,
        &format!("the batch has over {MAX_BATCH_BYTES} bytes; write it in several parts"),
    )?;
    let request = parse(&body, &arguments.connection.namespace())?;
    if let Some(named) = arguments.connection.named_namespace()
        && named != request.namespace
    {
        return Err(format!(
            "the batch has the namespace {}, but --namespace is {named}; leave one of them out",
            request.namespace
        )
        .into());
    }
    let client = arguments.connection.open().await?;
    let client = client.in_namespace(&request.namespace)?;
    let return_previous = request.return_previous;
    let tells_existence: Vec<bool> = (request.operations.iter())
        .map(|operation| {
            let is_delete = matches!(operation.kind, Some(write_operation::Kind::Delete(_)));
            return_previous || is_delete
        })
        .collect();
    let keys = keys(&request);
    let written = client.write(batch(request)).await?;
    Ok(done(match arguments.output {
        Output::Json => output::json(&as_json(&written, &tells_existence)),
        Output::Raw => output::line(written.version.to_string()),
        Output::Table => output::print(as_table(&written, &keys, &tells_existence)),
    }))
}

/// Parses a batch; `namespace` is the default for its namespace.
fn parse(body: &[u8], namespace: &str) -> Result<v1::WriteRequest, String> {
    let unusable = |why: String| format!("not a usable batch: {why}; a batch is {FORM}");
    let mut body: Value =
        serde_json::from_slice(body).map_err(|error| unusable(json_refusal::why(&error)))?;
    if let Some(fields) = body.as_object_mut() {
        fields
            .entry("namespace")
            .or_insert_with(|| namespace.into());
    }
    let model: WriteRequest = of_value(body).map_err(unusable)?;
    model
        .try_into()
        .map_err(|error: tierkv_types::Error| format!("not a usable batch: {}", error.message))
}

/// The SDK's batch of a parsed request, in which every operation and condition has its kind.
fn batch(request: v1::WriteRequest) -> Write {
    let mut write = Write::new();
    for condition in request.conditions {
        let kind = match condition.kind {
            Some(condition::Kind::IfAbsent(_)) => Condition::Absent,
            Some(condition::Kind::IfPresent(_)) => Condition::Present,
            Some(condition::Kind::IfVersion(version)) => Condition::Version(version),
            None => continue,
        };
        write = write.only_if(condition.key, kind);
    }
    for operation in request.operations {
        write = match operation.kind {
            Some(write_operation::Kind::Put(put)) => {
                let ttl = (put.ttl_ms > 0).then(|| Duration::from_millis(put.ttl_ms));
                write.put_for(put.key, put.value, ttl)
            }
            Some(write_operation::Kind::Delete(delete)) => write.delete(delete.key),
            Some(write_operation::Kind::Increment(increment)) => {
                write.increment(increment.key, increment.delta)
            }
            Some(write_operation::Kind::Touch(touch)) => {
                let ttl = (touch.ttl_ms > 0).then(|| Duration::from_millis(touch.ttl_ms));
                write.touch(touch.key, ttl)
            }
            None => write,
        };
    }
    match request.return_previous {
        true => write.return_previous(),
        false => write,
    }
}

fn keys(request: &v1::WriteRequest) -> Vec<String> {
    let key = |operation: &v1::WriteOperation| match &operation.kind {
        Some(write_operation::Kind::Put(put)) => readable(&put.key),
        Some(write_operation::Kind::Delete(delete)) => readable(&delete.key),
        Some(write_operation::Kind::Increment(increment)) => readable(&increment.key),
        Some(write_operation::Kind::Touch(touch)) => readable(&touch.key),
        None => String::new(),
    };
    request.operations.iter().map(key).collect()
}

/// The results in REST's form.
fn as_json(written: &Written, tells_existence: &[bool]) -> BatchWritten {
    let results = written.changes.iter().zip(tells_existence);
    let results = results.map(|(change, tells_existence)| {
        let previous = change.previous.as_ref();
        let (previous_value, previous_value_base64) =
            previous.map_or((None, None), |previous| split(&previous.value));
        WriteResult {
            existed: tells_existence.then_some(change.existed),
            number: change.number.map(|number| number.to_string()),
            previous_value,
            previous_value_base64,
            previous_version: previous.map(|previous| previous.version.to_string()),
        }
    });
    BatchWritten {
        version: written.version.to_string(),
        results: results.collect(),
        replayed: written.replayed,
    }
}

fn as_table(written: &Written, keys: &[String], tells_existence: &[bool]) -> String {
    let mut table = Table::new(["KEY", "NUMBER", "BEFORE"]);
    let changes = keys.iter().zip(&written.changes).zip(tells_existence);
    for ((key, change), tells_existence) in changes {
        let number = change
            .number
            .map_or_else(String::new, |number| number.to_string());
        let before = match &change.previous {
            Some(previous) => readable_value(&previous.value),
            None if change.existed => "(was there)".to_owned(),
            None if *tells_existence => "(absent)".to_owned(),
            None => String::new(),
        };
        table.push([key.clone(), number, before]);
    }
    format!("version {}\n{}", written.version, table.take())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_of_the_namespace_that_it_or_the_command_names() {
        let operations = r#""operations": [{"delete": {"key": "a"}}]"#;
        let of = |body: String| parse(body.as_bytes(), "mine").unwrap().namespace;
        assert_eq!(of(format!("{{{operations}}}")), "mine");
        assert_eq!(
            of(format!(r#"{{{operations}, "namespace": "theirs"}}"#)),
            "theirs"
        );
        for bad in ["", "[]", "{}", r#"{"operations": [{"put": {"key": "a"}}]}"#] {
            let words = parse(bad.as_bytes(), "mine").unwrap_err();
            assert!(words.contains("not a usable batch"), "{bad}: {words}");
        }
    }

    #[test]
    fn every_part_of_a_request_is_in_the_batch() {
        let body = r#"{
            "conditions": [{"key": "a", "if_absent": true}, {"key": "b", "if_present": true},
                {"key": "c", "if_version": "7"}],
            "operations": [{"put": {"key": "a", "value": "1", "ttl_ms": 1500}},
                {"put": {"key": "b", "value": "2"}}, {"delete": {"key": "c"}},
                {"increment": {"key": "d", "delta": -5}},
                {"touch": {"key": "e", "ttl_ms": 1500}}, {"touch": {"key": "f"}}],
            "return_previous": true}"#;
        let request = parse(body.as_bytes(), "mine").unwrap();
        let words = format!("{:?}", batch(request.clone()));
        for part in request.conditions.iter() {
            assert!(words.contains(&format!("{part:?}")), "{part:?}: {words}");
        }
        for part in request.operations.iter() {
            assert!(words.contains(&format!("{part:?}")), "{part:?}: {words}");
        }
        assert!(words.contains("return_previous: true"), "{words}");
    }
}
