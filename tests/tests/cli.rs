//! The command line: keys of any bytes, conditions, output formats and exit statuses against a
//! real platform; scans and watches against a mock coordinator.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

// The SDK's own tests use the same mock coordinator.
#[path = "../../sdk/tests/played/mod.rs"]
mod played;

use std::{
    fs,
    io::Write as _,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tierkv::{
    Code,
    rpc::proto::v1::{
        ScanItem, ScanResponse, WatchEvent, WatchResponse, Written, scan_request, watch_event,
    },
};
use tierkv_tests::{binary, ephemeral::Ephemeral};
use tokio::net::TcpListener;

use crate::played::{Act, PLATFORM_TIME, Played, Plot, Word, id_of, put_answer};

fn command(address: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary::tierkv().path);
    command.args(arguments).env("TIERKV_ADDRESS", address);
    command
}

/// Runs a command with empty input.
fn tierkv(address: &str, arguments: &[&str]) -> Output {
    let mut command = command(address, arguments);
    command.stdin(Stdio::null()).output().unwrap()
}

/// Runs a command with this input.
fn fed(address: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut running = command(address, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    running.stdin.take().unwrap().write_all(input).unwrap();
    running.wait_with_output().unwrap()
}

fn status(output: &Output) -> Option<i32> {
    output.status.code()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_str(&text(output)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_condition_fails_ends_with_status_1() {
    let platform = Ephemeral::start().await.unwrap();
    let run = |arguments: &[&str]| tierkv(&platform.grpc, arguments);
    let version = text(&run(&["put", "--if-absent", "job", "first"]));
    let version = version.trim();
    for failing in [
        &["put", "--if-absent", "job", "second"][..],
        &["put", "--if-present", "other", "second"],
        &["put", "--if-version", "7", "job", "second"],
        &["delete", "--if-version", "7", "job"],
        &["delete", "--if-present", "other"],
    ] {
        let output = run(failing);
        assert_eq!(status(&output), Some(1), "{failing:?}: {output:?}");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(words.contains("ConditionFailed"), "{words}");
    }
    assert_eq!(text(&run(&["get", "job"])), "first");
    let put = run(&[
        "put",
        "--if-version",
        version,
        "--output",
        "json",
        "job",
        "next",
    ]);
    let version = json_of(&put)["version"].as_str().unwrap().to_owned();
    let delete = ["delete", "--if-version", &version, "--output", "raw", "job"];
    assert_eq!(text(&run(&delete)), "1\n");
    assert_eq!(text(&run(&["delete", "--output", "raw", "job"])), "0\n");
    let both = run(&["put", "--if-absent", "--if-present", "job", "x"]);
    assert_eq!(status(&both), Some(2), "both conditions can never hold");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_values_are_any_bytes() {
    let platform = Ephemeral::start().await.unwrap();
    let run = |arguments: &[&str]| tierkv(&platform.grpc, arguments);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("value");
    fs::write(&file, b"\0\xff\n").unwrap();
    let file = file.to_str().unwrap();
    assert!(
        run(&["put", "--key-base64", "AP8=", "--file", file])
            .status
            .success()
    );
    let get = run(&["get", "--key-base64", "AP8="]);
    assert_eq!(get.stdout, b"\0\xff\n");
    assert!(
        fed(&platform.grpc, &["put", "piped", "-"], b"by \xfe pipe")
            .status
            .success()
    );
    assert!(fed(&platform.grpc, &["put", "also"], b"").status.success());
    assert_eq!(run(&["get", "piped"]).stdout, b"by \xfe pipe");
    for value in ["-5", "-0.5"] {
        text(&run(&["put", "negative", value]));
        assert_eq!(text(&run(&["get", "negative"])), value);
    }
    text(&run(&["put", "option", "--", "--verbose"]));
    assert_eq!(text(&run(&["get", "option"])), "--verbose");

    let several = ["get", "--output", "json", "also", "absent", "piped"];
    let several = run(&several);
    assert_eq!(status(&several), Some(1), "one of them is absent");
    let lines: Vec<Value> = (String::from_utf8(several.stdout).unwrap().lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (&lines[0]["found"], &lines[0]["value"]),
        (&json!(true), &json!(""))
    );
    assert_eq!(
        (&lines[1]["key"], &lines[1]["found"]),
        (&json!("absent"), &json!(false))
    );
    assert_eq!(lines[2]["value_base64"], "Ynkg/iBwaXBl");

    let table = text(&run(&["get", "--output", "table", "piped", "also"]));
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows[0].starts_with("KEY    VALUE"), "{table}");
    assert!(rows[1].contains("by \\xfe pipe"), "{table}");

    let explained = run(&[
        "get",
        "--explain",
        "--output",
        "json",
        "--consistency",
        "latest",
        "also",
    ]);
    let path = json_of(&explained)["path"].clone();
    assert_eq!(path[0]["tier"], "client-coordinator", "{path}");
    assert!(path.as_array().unwrap().len() >= 3, "{path}");
}

#[tokio::test(flavor = "multi_thread")]
async fn increments_and_batches_are_applied() {
    let platform = Ephemeral::start().await.unwrap();
    let run = |arguments: &[&str]| tierkv(&platform.grpc, arguments);
    assert_eq!(text(&run(&["increment", "n"])), "1\n");
    assert_eq!(text(&run(&["increment", "n", "-5"])), "-4\n");
    let printed = json_of(&run(&["increment", "--output", "json", "n", "14"]));
    assert_eq!(printed["value"], "10");
    assert!(printed["version"].as_str().unwrap().parse::<u64>().is_ok());
    run(&["put", "word", "abc"]);
    assert_eq!(status(&run(&["increment", "word"])), Some(2));

    let batch = json!({
        "conditions": [{"key": "n", "if_version": printed["version"]}, {"key": "new", "if_absent": true}],
        "operations": [
            {"put": {"key": "new", "value_base64": "/w=="}},
            {"delete": {"key": "word"}},
            {"increment": {"key": "n", "delta": 5}},
        ],
        "return_previous": true,
    })
    .to_string();
    let done = fed(
        &platform.grpc,
        &["write", "--output", "json"],
        batch.as_bytes(),
    );
    let done = json_of(&done);
    assert_eq!(done["replayed"], false);
    assert_eq!(done["results"][0], json!({"existed": false}));
    assert_eq!(done["results"][1]["previous_value"], "abc");
    assert_eq!(done["results"][2]["number"], "15");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("batch.json");
    fs::write(&file, &batch).unwrap();
    let again = run(&["write", file.to_str().unwrap()]);
    assert_eq!(
        status(&again),
        Some(1),
        "its conditions no longer hold: {again:?}"
    );
    assert_eq!(text(&run(&["get", "n"])), "15");
    let table = fed(
        &platform.grpc,
        &["write", "-"],
        br#"{"operations": [{"increment": {"key": "n", "delta": 1}}]}"#,
    );
    assert!(text(&table).contains("n    16"), "{table:?}");
    let bad = fed(&platform.grpc, &["write"], b"{}");
    assert_eq!(status(&bad), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_touch_sets_the_expiry_and_keeps_the_value() {
    let platform = Ephemeral::start().await.unwrap();
    let run = |arguments: &[&str]| tierkv(&platform.grpc, arguments);
    let absent = run(&["touch", "k", "--ttl", "1h"]);
    assert_eq!(status(&absent), Some(1), "a negative answer: {absent:?}");
    run(&["put", "k", "v"]);
    let touched = json_of(&run(&["touch", "k", "--ttl", "1h", "--output", "json"]));
    let version = touched["version"].as_str().unwrap();
    let read = || {
        json_of(&run(&[
            "get",
            "k",
            "--output",
            "json",
            "--consistency",
            "latest",
        ]))
    };
    let found = read();
    assert_eq!(
        (&found["value"], &found["version"]),
        (&json!("v"), &json!(version))
    );
    assert!(found["expires_at"].is_u64(), "{found}");
    let refused = run(&["touch", "k", "--if-version", "7"]);
    assert_eq!(status(&refused), Some(1), "{refused:?}");
    text(&run(&["touch", "k", "--if-version", version]));
    let found = read();
    assert_eq!(
        (&found["value"], &found["expires_at"]),
        (&json!("v"), &Value::Null)
    );
    let batch = br#"{"operations": [{"touch": {"key": "k", "ttl_ms": 60000}}]}"#;
    assert!(text(&fed(&platform.grpc, &["write"], batch)).ends_with("\nk\n"));
    assert!(read()["expires_at"].is_u64());
    let bad = run(&["touch", "k", "--ttl", "60"]);
    assert_eq!(status(&bad), Some(2), "{bad:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_a_prefix_are_deleted_only_after_a_confirmation() {
    let platform = Ephemeral::start().await.unwrap();
    let run = |arguments: &[&str]| tierkv(&platform.grpc, arguments);
    let mut lines = String::new();
    for number in 0..1_500 {
        lines += &format!("{{\"key\": \"user/{number}\", \"value\": \"v\"}}\n");
    }
    lines += "{\"key\": \"users\", \"value\": \"v\"}\n{\"key\": \"\u{ff}\", \"value\": \"v\"}\n";
    text(&fed(&platform.grpc, &["import", "-"], lines.as_bytes()));
    let count = || text(&run(&["count"]));
    let delete = ["delete", "--prefix", "user/"];
    for (input, exit) in [("n\n", 1), ("\n", 1), ("no y\n", 1), ("", 1)] {
        let refused = fed(&platform.grpc, &delete, input.as_bytes());
        assert_eq!(status(&refused), Some(exit), "{input:?}: {refused:?}");
        let words = String::from_utf8_lossy(&refused.stderr);
        assert!(
            words.contains("1500 keys of the namespace default"),
            "{words}"
        );
        assert!(words.contains("'user/'") && words.contains("nothing was deleted"));
        assert_eq!(words.contains("--yes"), input.is_empty(), "{words}");
        assert_eq!(count(), "1502\n");
    }
    let agreed = fed(&platform.grpc, &delete, b"y\n");
    assert_eq!(text(&agreed), "1500 deleted\n");
    assert_eq!(count(), "2\n");
    // With no key to delete, there is no question.
    let none = json_of(&run(&["delete", "--prefix", "user/", "--output", "json"]));
    assert_eq!(none, json!({"deleted": 0}));
    let odd = [
        "delete",
        "--prefix",
        "w78=",
        "--key-base64",
        "--yes",
        "--output",
        "raw",
    ];
    assert_eq!(text(&run(&odd)), "1\n");
    assert_eq!(
        text(&run(&["delete", "--prefix", "", "--yes"])),
        "1 deleted\n"
    );
    assert_eq!(count(), "0\n");
    for usage in [
        &["delete"][..],
        &["delete", "--yes", "k"],
        &["delete", "--prefix", "a", "k"],
        &["delete", "--prefix", "a", "--if-present"],
    ] {
        assert_eq!(status(&run(usage)), Some(2), "{usage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_statuses_distinguish_refusals_failures_and_unknown_outcomes() {
    let silent = Played::new(|_, _| Act::Ignore);
    let address = silent.address.to_string();
    let began = Instant::now();
    let doubt = tierkv(&address, &["increment", "--timeout", "300ms", "n"]);
    assert_eq!(
        status(&doubt),
        Some(3),
        "the write may have been applied: {doubt:?}"
    );
    let read = tierkv(&address, &["get", "--timeout", "300ms", "n"]);
    assert_eq!(status(&read), Some(2), "{read:?}");
    assert!(began.elapsed() < Duration::from_secs(10));

    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mute.local_addr().unwrap().to_string();
    let began = Instant::now();
    let nobody = tierkv(&address, &["put", "--timeout", "500ms", "n", "1"]);
    assert_eq!(
        status(&nobody),
        Some(2),
        "the write was never sent: {nobody:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(10));
    for usage in [
        &["put"][..],
        &["get"],
        &["scan", "--limit", "many"],
        &["count", "--timeout", "5"],
    ] {
        assert_eq!(status(&tierkv(&address, usage)), Some(2), "{usage:?}");
    }
}

/// A page with the items from `from` to `to`.
fn items(from: u32, to: u32, next: &str) -> Word<ScanResponse> {
    let item = |number: u32| ScanItem {
        key: format!("k{number:03}").into(),
        value: match number {
            1 => b"\xff\t"[..].into(),
            _ => format!("value {number}").into(),
        },
        version: u64::MAX - u64::from(number),
        expires_at_ms: match number {
            2 => PLATFORM_TIME + 3_600_000,
            3 => PLATFORM_TIME - 1,
            _ => 0,
        },
    };
    Word::Send(ScanResponse {
        items: (from..to).map(item).collect(),
        next_page_token: next.to_owned().into(),
    })
}

fn scanned() -> Played {
    Played::with(Plot {
        scan: Box::new(|_, scan| match (&scan.page_token[..], scan.limit) {
            (b"", 4) => vec![items(0, 4, "four")],
            (b"", _) => vec![items(0, 5, "five"), items(5, 9, "")],
            (b"four", _) => vec![items(4, 9, "")],
            other => panic!("{other:?}"),
        }),
        count: Box::new(|_, _| Ok(9)),
        ..Plot::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_and_counted() {
    let played = scanned();
    let address = played.address.to_string();
    let run = |arguments: &[&str]| tierkv(&address, arguments);
    let table = text(&run(&["scan", "k"]));
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 10, "{table}");
    assert_eq!(
        rows[0].split_whitespace().collect::<Vec<_>>(),
        ["KEY", "VALUE", "VERSION", "EXPIRES"]
    );
    assert!(rows[2].starts_with("k001  \\xff\\t"), "{table}");
    assert!(rows[1].ends_with("never"), "{table}");
    let expiry = rows[3].split_whitespace().last().unwrap();
    assert!(expiry.contains('T') && expiry.ends_with('Z'), "{table}");
    let raw = run(&["scan", "--output", "raw"]).stdout;
    assert!(raw.starts_with(b"k000\tvalue 0\nk001\t\xff\t\n"), "{raw:?}");
    let keys = text(&run(&["scan", "--keys-only", "--output", "raw"]));
    assert_eq!(keys.lines().count(), 9);
    let page = run(&[
        "scan", "--limit", "4", "--output", "json", "--start", "a", "--end", "z",
    ]);
    let lines: Vec<Value> = (text(&page).lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 5);
    let second =
        json!({"key": "k001", "value_base64": "/wk=", "version": (u64::MAX - 1).to_string()});
    assert_eq!(lines[1], second);
    assert_eq!(lines[2]["expires_at"], PLATFORM_TIME + 3_600_000);
    let token = lines[4]["next_page_token"].as_str().unwrap();
    let rest = [
        "scan",
        "--page-token",
        token,
        "--keys-only",
        "--output",
        "raw",
        "--start",
        "a",
    ];
    assert_eq!(text(&run(&rest)).lines().next(), Some("k004"));
    assert_eq!(text(&run(&["count", "--key-base64", "/w=="])), "9\n");
    assert_eq!(
        json_of(&run(&["count", "--output", "json"])),
        json!({"count": 9})
    );

    let asked = played.scans();
    let prefix = scan_request::Selection::Prefix("k".into());
    assert_eq!(asked[0].selection, Some(prefix));
    assert!(format!("{:?}", asked[3].selection).contains("end: b\"z\""));
    assert!(format!("{:?}", played.counts()[0]).contains("\\xff"));
    let both = run(&["scan", "k", "--start", "a"]);
    assert_eq!(status(&both), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_may_be_an_option() {
    let played = scanned();
    let address = played.address.to_string();
    let run = |arguments: &[&str]| tierkv(&address, arguments);
    text(&run(&["scan", "--prefix", "k"]));
    let prefix = scan_request::Selection::Prefix("k".into());
    assert_eq!(played.scans()[0].selection, Some(prefix));
    text(&run(&["count", "--prefix", "user/"]));
    assert!(format!("{:?}", played.counts()[0]).contains("user/"));
    for both in [
        ["scan", "k", "--prefix", "k"],
        ["scan", "--prefix=k", "--end", "z"],
    ] {
        assert_eq!(status(&run(&both)), Some(2), "{both:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_can_be_imported() {
    let played = scanned();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines");
    let file = file.to_str().unwrap();
    let export = tierkv(&played.address.to_string(), &["export", "--file", file]);
    assert!(export.status.success(), "{export:?}");
    let lines = fs::read_to_string(file).unwrap();
    assert_eq!(
        lines.lines().count(),
        8,
        "the expired key must be left out: {lines}"
    );
    let third: Value = serde_json::from_str(lines.lines().nth(2).unwrap()).unwrap();
    let left = third["ttl_ms"].as_u64().unwrap();
    assert!(
        (3_500_000..=3_600_000).contains(&left),
        "{left} ms are left"
    );
    let piped = tierkv(&played.address.to_string(), &["export"]);
    assert_eq!(
        piped.stdout.iter().filter(|byte| **byte == b'\n').count(),
        8
    );

    let platform = Ephemeral::start().await.unwrap();
    let import = tierkv(&platform.grpc, &["import", file]);
    assert_eq!(text(&import), "8 imported, 0 bad lines left out\n");
    assert_eq!(tierkv(&platform.grpc, &["get", "k001"]).stdout, b"\xff\t");
    let printed = json_of(&tierkv(
        &platform.grpc,
        &["get", "--output", "json", "k002"],
    ));
    assert!(printed["expires_at"].is_u64(), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_printed_as_they_happen() {
    let played = Played::with(Plot {
        watch: Box::new(|_, watch| {
            let event = |version| WatchEvent {
                key: "k".into(),
                version,
                kind: Some(watch_event::Kind::Written(Written {
                    value: "v".into(),
                    expires_at_ms: 0,
                })),
            };
            let response = |events, token: &str| {
                Word::Send(WatchResponse {
                    events,
                    resume_token: token.to_owned().into(),
                    is_partial: false,
                })
            };
            match &watch.resume_token[..] {
                b"" => vec![
                    response(vec![], "t0"),
                    response(vec![event(1), event(2)], "t2"),
                    Word::Hang,
                ],
                b"t2" => vec![response(vec![event(3)], "t3"), Word::Hang],
                _ => vec![Word::Refuse(Code::TokenExpired)],
            }
        }),
        ..Plot::default()
    });
    let address = played.address.to_string();
    let watch = tierkv(
        &address,
        &["watch", "k", "--limit", "2", "--output", "json"],
    );
    let lines: Vec<Value> = (text(&watch).lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (&lines[0]["version"], &lines[1]["version"]),
        (&json!("1"), &json!("2"))
    );
    assert_eq!(
        (&lines[0]["event"], &lines[0]["value"]),
        (&json!("written"), &json!("v"))
    );
    let token = lines[1]["resume_token"].as_str().unwrap();
    let words = String::from_utf8(watch.stderr).unwrap();
    assert!(words.contains(token), "{words}");
    let on = ["watch", "k", "--limit", "1", "--resume-token", token];
    assert_eq!(text(&tierkv(&address, &on)), "written  3  k  v\n");
    let old = ["watch", "k", "--resume-token", "b2xk"];
    assert_eq!(status(&tierkv(&address, &old)), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_output_pipe_is_not_a_failure() {
    let played = Played::with(Plot {
        // Far more than the buffer of a pipe.
        scan: Box::new(|_, _| (0..2_000).map(|_| items(4, 104, "on")).collect()),
        ..Plot::default()
    });
    let binary = binary::tierkv().path;
    let binary = binary.canonicalize().unwrap();
    let script = format!(
        "{0} scan --output json | head -n 1; echo ${{PIPESTATUS[0]}}; \
         {0} config sample | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}",
        binary.display()
    );
    let output = Command::new("bash")
        .args(["-c", &script])
        .env("TIERKV_ADDRESS", played.address.to_string())
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!((lines[1], lines[2]), ("0", "0"), "{printed}");
    assert!(
        output.stderr.is_empty(),
        "{:?}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_of_one_platform_can_be_imported_into_another() {
    let (from, to) = (
        Ephemeral::start().await.unwrap(),
        Ephemeral::start().await.unwrap(),
    );
    let lines: Vec<String> = (0..500)
        .map(|number| json!({"key": format!("k{number:03}"), "value": "v".repeat(number)}))
        .chain([
            json!({"key_base64": "AP8=", "value_base64": "/w=="}),
            json!({"key": "soon", "value": "gone", "ttl_ms": 3_600_000}),
        ])
        .map(|line| line.to_string())
        .collect();
    let import = fed(&from.grpc, &["import", "-"], lines.join("\n").as_bytes());
    assert!(import.status.success(), "{import:?}");
    let latest = ["--consistency", "latest"];
    let count = |address: &str| text(&tierkv(address, &[&["count"], &latest[..]].concat()));
    assert_eq!(count(&from.grpc), "502\n");
    let export = |address: &str| {
        let export = tierkv(address, &[&["export"], &latest[..]].concat());
        assert!(export.status.success(), "{export:?}");
        export.stdout
    };
    let exported = export(&from.grpc);
    let import = fed(&to.grpc, &["import", "-"], &exported);
    assert_eq!(text(&import), "502 imported, 0 bad lines left out\n");
    let items = |lines: &[u8]| -> Vec<Value> {
        (lines.split(|byte| *byte == b'\n'))
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .map(|mut line: Value| {
                // The remaining time to live gets shorter.
                let left = line.as_object_mut().unwrap().remove("ttl_ms");
                assert_eq!(left.is_some(), line["key"] == "soon", "{line}");
                line
            })
            .collect()
    };
    assert_eq!(items(&export(&to.grpc)), items(&exported));
    let page = [
        "scan",
        "k0",
        "--limit",
        "10",
        "--keys-only",
        "--output",
        "raw",
        "--consistency",
        "latest",
    ];
    assert_eq!(
        text(&tierkv(&from.grpc, &page)).lines().last(),
        Some("k009")
    );
}

/// The platform's time went back by a day, and the answer to the first line is lost too.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_retries_lines_that_are_refused_for_their_birth() {
    const EARLIER: u64 = PLATFORM_TIME - 86_400_000;
    let played = Played::with(Plot {
        operation: Box::new(|number, operation| match id_of(operation).birth_ms {
            _ if number == 0 => Act::Break,
            ..PLATFORM_TIME => put_answer(7),
            _ => Act::RefuseBirth(EARLIER),
        }),
        time: Box::new(|_, _| EARLIER),
        ..Plot::default()
    });
    let lines: String = (0..40)
        .map(|number| format!("{{\"key\":\"k{number}\",\"value\":\"v\"}}\n"))
        .collect();
    let address = played.address.to_string();
    let output = fed(&address, &["import", "-"], lines.as_bytes());
    assert_eq!(text(&output), "40 imported, 0 bad lines left out\n");
}
