//! Messages of commands: invalid limits, numbers, JSON and base64, empty and absent values, and
//! broken connections.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{BufRead, BufReader, Write as _},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tierkv::Client;
use tierkv_harness::Proxy;
use tierkv_tests::{binary, ephemeral::Ephemeral};

const PATIENCE: Duration = Duration::from_secs(60);

fn command(address: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary::tierkv().path);
    command.args(arguments).env("TIERKV_ADDRESS", address);
    command
}

/// Runs a command with this input.
fn fed(address: &str, arguments: &[&str], input: &str) -> Output {
    let mut running = command(address, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments does not read its input.
    drop(running.stdin.take().unwrap().write_all(input.as_bytes()));
    running.wait_with_output().unwrap()
}

fn tierkv(address: &str, arguments: &[&str]) -> Output {
    fed(address, arguments, "")
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_keeps_the_last_line_of_each_key() {
    let platform = Ephemeral::start().await.unwrap();
    let (mut lines, mut last) = (String::new(), HashMap::new());
    for number in 0..6_000_u32 {
        // One key has every second line, a few keys have many lines, and some have one.
        let key = match number % 20 {
            odd if odd % 2 == 1 => "hot".to_owned(),
            0 | 8 => format!("alone {number}"),
            few => format!("few {few}"),
        };
        writeln!(
            lines,
            "{}",
            json!({"key": key, "value": number.to_string()})
        )
        .unwrap();
        last.insert(key, number.to_string());
    }
    let import = fed(&platform.grpc, &["import", "-"], &lines);
    assert_eq!(text(&import), "6000 imported, 0 bad lines left out\n");
    let client = Client::builder().address(&platform.grpc).connect().await;
    let client = client.unwrap();
    for (key, value) in last {
        let found = client.get(&key).await.unwrap();
        assert_eq!(found.value.as_deref(), Some(value.as_bytes()), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_0_is_refused_by_every_command() {
    let platform = Ephemeral::start().await.unwrap();
    for arguments in [&["scan", "--limit", "0"][..], &["watch", "--limit", "0"]] {
        let refused = tierkv(&platform.grpc, arguments);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let words = String::from_utf8(refused.stderr).unwrap();
        assert!(words.contains("limit: at least 1"), "{words}");
    }
}

/// A batch that changes a key twice.
const TWICE: &str = r#"{"operations": [{"put": {"key": "the same", "value": "1"}},
    {"delete": {"key": "the same"}}]}"#;

/// Commands, their input, and a part of the error message.
const SENSELESS: &[(&[&str], &str, &str)] = &[
    (
        &["increment", "k", "x"],
        "",
        "a whole number from -9223372036854775808 to",
    ),
    (
        &["scan", "--limit", "many"],
        "",
        "a whole number from 1 to 4294967295",
    ),
    (
        &["get", "--min-version", "x", "k"],
        "",
        "a whole number from 0 to",
    ),
    (
        &["count", "--max-staleness-ms", "1.5"],
        "",
        "a whole number from 0 to",
    ),
    (
        &["put", "--if-version", "x", "k", "v"],
        "",
        "a whole number from 0 to",
    ),
    (
        &["admin", "memory", "--max-records", "x"],
        "",
        "a whole number from 0 to",
    ),
    (
        &["scan", "--page-token", "%"],
        "",
        "the page token is not one that this platform gave: send it unchanged",
    ),
    (
        &["get", "--key-base64", "a"],
        "",
        "the key is no base64: 1 characters are one too few",
    ),
    (
        &["get", "--key-base64", "YR=="],
        "",
        "has surplus bits; give all of it",
    ),
    (
        &["write"],
        "{operations",
        "it is no JSON at column 2: names and texts need double",
    ),
    (
        &["write"],
        "[1,\n nope]",
        "it is no JSON at line 2, column 3",
    ),
    (
        &["write"],
        "{",
        "the JSON is cut off at column 1; a batch is such as {\"operations",
    ),
    (&["write"], TWICE, "changes the key 'the same' twice"),
    (
        &["write"],
        r#"{"operations": [{"put": {"key": "a", "value": ""}, "delete": {"key": "b"}}]}"#,
        "operations[0]: each operation is an object of its own, with one of put, delete,",
    ),
    (
        &["write"],
        r#"{"operations": [{"put": {"key": "a", "value": "", "ttl_ms": "5"}}]}"#,
        "operations[0].put.ttl_ms must be a whole number from 0 to 18446744073709551615, not",
    ),
    (
        &["import", "-"],
        "{a",
        "line 1: not a usable record: it is no JSON at column 2",
    ),
    (
        &["import", "-"],
        "null",
        "it must be a JSON object, not null; a line is such as {\"key\"",
    ),
    (
        &["import", "-"],
        r#"{"key_base64":"a","value":""}"#,
        "key_base64 is no base64: 1 char",
    ),
];

/// Error messages that a user can act on, without texts of libraries.
#[tokio::test(flavor = "multi_thread")]
async fn invalid_input_is_refused_with_a_plain_message() {
    let platform = Ephemeral::start().await.unwrap();
    for &(arguments, input, words) in SENSELESS {
        let refused = fed(&platform.grpc, arguments, input);
        let printed = String::from_utf8(refused.stderr).unwrap();
        assert!(matches!(refused.status.code(), Some(1 | 2)), "{printed}");
        assert!(printed.contains(words), "{arguments:?} {input}: {printed}");
        for raw in [
            "invalid digit",
            "Invalid",
            "expected ident",
            "struct Fields",
        ] {
            let printed = printed.replace("InvalidArgument", "");
            assert!(!printed.contains(raw), "{arguments:?}: {printed}");
        }
    }
    // The port for REST.
    let wrong = tierkv(&platform.rest, &["get", "k"]);
    let printed = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{printed}");
    assert!(
        printed.contains("does not speak gRPC") && printed.contains("--address"),
        "{printed}"
    );
    assert!(!printed.contains("compression"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_continue_and_empty_values_are_not_absent() {
    let platform = Ephemeral::start().await.unwrap();
    let latest = ["--consistency", "latest"];
    for (key, value) in [("a", ""), ("b", "2"), ("c", "3")] {
        text(&tierkv(&platform.grpc, &["put", key, value, "-o", "raw"]));
    }
    let page = |more: &[&str]| {
        let arguments = [&["scan", "-o", "json", "--limit", "2"], &latest[..], more].concat();
        let page = tierkv(&platform.grpc, &arguments);
        assert!(page.stderr.is_empty(), "{page:?}");
        let lines: Vec<Value> = (text(&page).lines())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        lines
    };
    let first = page(&[]);
    assert_eq!(
        (&first[0]["key"], &first[1]["key"]),
        (&json!("a"), &json!("b"))
    );
    let token = first[2]["next_page_token"].as_str().unwrap();
    let second = page(&["--page-token", token]);
    assert_eq!((second.len(), &second[0]["key"]), (1, &json!("c")));

    let get = [
        "get",
        "-o",
        "table",
        "a",
        "absent",
        "--consistency",
        "latest",
    ];
    let table = String::from_utf8(tierkv(&platform.grpc, &get).stdout).unwrap();
    assert!(table.contains("a       (empty) "), "{table}");
    assert!(table.contains("absent  (absent)"), "{table}");
    // What is absent does not expire, not even never.
    assert!(table.ends_with(" ms\n"), "{table}");
    let scan = [&["scan"], &latest[..]].concat();
    assert!(text(&tierkv(&platform.grpc, &scan)).contains("a    (empty)"));
    let batch = r#"{"return_previous": true, "operations":
        [{"put": {"key": "a", "value": "1"}}, {"delete": {"key": "absent"}}]}"#;
    let table = text(&fed(&platform.grpc, &["write"], batch));
    assert!(table.contains("a               (empty)"), "{table}");
    assert!(table.contains("absent          (absent)"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_reports_that_its_connection_was_lost_and_restored() {
    let platform = Ephemeral::start().await.unwrap();
    let proxy = Proxy::start(&platform.grpc).await.unwrap();
    let mut command = command(&proxy.address, &["watch", "-o", "raw"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = command.spawn().unwrap();
    let mut changes = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut words = BufReader::new(watch.stderr.take().unwrap()).lines();
    let client = Client::builder().address(&platform.grpc).connect().await;
    let client = client.unwrap();
    // A test cannot see from outside when the watch has begun.
    let writer = tokio::spawn({
        let client = client.clone();
        async move {
            let began = Instant::now();
            while began.elapsed() < PATIENCE {
                client.put("k", "first").await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    assert_eq!(changes.next().unwrap().unwrap(), "k\tfirst");
    writer.abort();
    proxy.set_up(false);
    let lost = words.next().unwrap().unwrap();
    assert!(lost.contains("was lost"), "{lost}");
    client.put("k", "meanwhile").await.unwrap();
    proxy.set_up(true);
    let mut back = words.next().unwrap().unwrap();
    while !back.contains("connected again") {
        // The log has the warning too.
        assert!(back.contains("WARN"), "{back}");
        back = words.next().unwrap().unwrap();
    }
    while changes.next().unwrap().unwrap() != "k\tmeanwhile" {}
    let pid = Pid::from_raw(i32::try_from(watch.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let last = words.next().unwrap().unwrap();
    assert!(last.starts_with("go on with --resume-token"), "{last}");
    assert!(watch.wait().unwrap().success());
}
