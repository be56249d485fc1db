//! The README's tutorial, end to end: the Debian package index of this machine is imported into
//! a real platform and read back.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{
    collections::HashMap,
    fs,
    process::{Command, Output},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tierkv::Client;
use tierkv_harness::{Options, TierKv, poll_until};
use tierkv_tests::{
    binary::{self, repository},
    http::Request,
};
use tierkv_types::limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES};

/// A Debian archive has at least this many packages.
const A_REAL_INDEX: usize = 10_000;
/// Keys in one batch read: their values must fit one answer.
const KEYS_A_READ: usize = 200;
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a client command against `platform`.
fn tierkv(platform: &TierKv, arguments: &[&str]) -> Output {
    Command::new(binary::tierkv().path)
        .args(arguments)
        .env("TIERKV_ADDRESS", platform.grpc())
        .output()
        .unwrap()
}

/// Runs a pipeline of the tutorial in the top folder of the repository, with `tierkv` on the
/// path.
fn shell(platform: &TierKv, script: &str) -> Output {
    let binary = binary::tierkv().path.canonicalize().unwrap();
    let path = format!(
        "{}:{}",
        binary.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    Command::new("bash")
        .args(["-o", "pipefail", "-c", script])
        .current_dir(repository())
        .env("PATH", path)
        .env("TIERKV_ADDRESS", platform.grpc())
        .env("REST", platform.rest())
        .output()
        .unwrap()
}

/// The records of the package index, which the converter's output must equal.
fn index() -> Vec<(String, Vec<u8>)> {
    let dump = Command::new("apt-cache").arg("dumpavail").output();
    let dump = dump.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&dump);
    assert!(
        text.matches("\n\n").count() >= A_REAL_INDEX,
        "this machine has no package lists: `make test` installs them (`apt-get update`)"
    );
    assert_eq!(text.as_bytes(), dump, "the index is not UTF-8 throughout");
    let mut seen = HashMap::new();
    let mut records = Vec::new();
    for record in text
        .split("\n\n")
        .map(str::trim)
        .filter(|record| !record.is_empty())
    {
        let field = |line: &str| {
            line.strip_prefix("Package:")
                .map(|name| name.trim().to_owned())
        };
        let name = record.lines().find_map(field).unwrap();
        if seen.insert(name.clone(), ()).is_none() {
            records.push((name, format!("{record}\n").into_bytes()));
        }
    }
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn the_package_index_is_imported_and_read_back() {
    let index = index();
    let mut platform = TierKv::start(Options::default()).await.unwrap();
    let import = shell(
        &platform,
        "apt-cache dumpavail | ops/packages-to-json.py | tierkv import --namespace packages -",
    );
    assert!(import.status.success(), "{import:?}");
    let words = String::from_utf8_lossy(&import.stdout);
    let expected = format!("{} imported, 0 bad lines left out\n", index.len());
    assert_eq!(words, expected);

    compare_all(&platform, &index).await;

    let (largest, _) = index.iter().max_by_key(|(_, record)| record.len()).unwrap();
    let with_plus = index
        .iter()
        .map(|(name, _)| name)
        .find(|name| name.contains("++"));
    let some = ["bash", "coreutils", largest, with_plus.unwrap()];
    for name in some {
        let (_, record) = index.iter().find(|(known, _)| known == name).unwrap();
        let path = format!("/v1/kv/packages/{name}");
        let found = Request::new("GET", &path)
            .send(platform.rest())
            .await
            .unwrap();
        assert!(
            found.status == 200 && found.body == *record,
            "{name} by HTTP"
        );
        let curl = shell(&platform, &format!("curl -sS --fail http://$REST{path}"));
        assert!(
            curl.status.success() && curl.stdout == *record,
            "{name} by curl"
        );
        let get = tierkv(&platform, &["get", "--namespace", "packages", name]);
        assert!(
            get.status.success() && get.stdout == *record,
            "{name} by tierkv get"
        );
    }
    let absent = tierkv(
        &platform,
        &["get", "--namespace", "packages", "no-such-package"],
    );
    assert_eq!(absent.status.code(), Some(1));
    assert!(absent.stdout.is_empty() && !absent.stderr.is_empty());

    // All of it is still there after an orderly stop and a restart.
    assert!(platform.stop().await.unwrap().success());
    platform.restart().await.unwrap();
    compare_all(&platform, &index).await;
}

async fn compare_all(platform: &TierKv, index: &[(String, Vec<u8>)]) {
    let builder = Client::builder().address(platform.grpc());
    let client = builder.namespace("packages").connect().await.unwrap();
    for chunk in index.chunks(KEYS_A_READ) {
        let names: Vec<&str> = chunk.iter().map(|(name, _)| name.as_str()).collect();
        let found = client.batch_get(&names).await.unwrap();
        for ((name, record), found) in chunk.iter().zip(found) {
            assert!(
                found.value.as_deref() == Some(record.as_slice()),
                "{name} differs"
            );
        }
    }
}

/// Lines 2, 3, 5, 7, 8 and 9 are bad.
fn good_and_bad_lines() -> [String; 12] {
    let line = |value: Value| value.to_string();
    [
        line(json!({"key": "first", "value": "1"})),
        "this is not JSON".to_owned(),
        line(json!({"value": "no key"})),
        String::new(),
        line(json!({"key": "both", "value": "1", "value_base64": "MQ=="})),
        line(json!({"key_base64": STANDARD.encode([0, 255]), "value_base64": "/w=="})),
        line(json!({"key": "k".repeat(MAX_KEY_BYTES + 1), "value": "too long a key"})),
        line(json!({"key": "large", "value": "v".repeat(MAX_VALUE_BYTES + 1)})),
        line(json!({"key": "for ages", "value": "1", "ttl_ms": u64::MAX})),
        line(json!({"key": "expiring", "value": "1", "ttl_ms": 86_400_000})),
        line(json!({"key": "largest", "value": "\u{1}".repeat(MAX_VALUE_BYTES)})),
        line(json!({"key": "last", "value": ""})),
    ]
}

async fn only_the_good_lines_are_stored(platform: &TierKv) {
    let client = Client::builder()
        .address(platform.grpc())
        .connect()
        .await
        .unwrap();
    let keys = [
        &b"first"[..],
        &[0, 255],
        b"largest",
        b"last",
        b"both",
        b"for ages",
        b"expiring",
    ];
    let found = client.batch_get(&keys).await.unwrap();
    let lengths: Vec<Option<usize>> = (found.iter())
        .map(|found| found.value.as_ref().map(bytes::Bytes::len))
        .collect();
    assert_eq!(
        lengths,
        [
            Some(1),
            Some(1),
            Some(MAX_VALUE_BYTES),
            Some(0),
            None,
            None,
            Some(1)
        ]
    );
    let expiring: Vec<bool> = (found.iter())
        .map(|found| found.expires_at.is_some())
        .collect();
    assert_eq!(
        expiring,
        [false, false, false, false, false, false, true],
        "{found:?}"
    );
}

#[tokio::test]
async fn bad_lines_are_listed_and_the_others_imported() {
    let platform = TierKv::start(Options::default()).await.unwrap();
    let lines = good_and_bad_lines();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines");
    fs::write(&file, lines.join("\n")).unwrap();
    let import = tierkv(&platform, &["import", file.to_str().unwrap()]);
    assert_eq!(import.status.code(), Some(1), "{import:?}");
    assert_eq!(
        String::from_utf8_lossy(&import.stdout),
        "5 imported, 6 bad lines left out\n"
    );
    let words = String::from_utf8_lossy(&import.stderr);
    for number in 1..=lines.len() {
        let is_bad = [2, 3, 5, 7, 8, 9].contains(&number);
        let is_listed = words.contains(&format!("line {number}: "));
        assert_eq!(is_bad, is_listed, "line {number}: {words}");
    }

    only_the_good_lines_are_stored(&platform).await;
    let missing = tierkv(&platform, &["import", "no-such-file"]);
    assert_eq!(
        missing.status.code(),
        Some(2),
        "an error is not a negative answer"
    );
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no-such-file"));
}

#[tokio::test]
async fn keys_are_put_read_and_deleted_by_command() {
    let platform = TierKv::start(Options::default()).await.unwrap();
    let run = |arguments: &[&str]| tierkv(&platform, arguments);
    assert!(run(&["put", "greeting", "hello"]).status.success());
    assert_eq!(run(&["get", "greeting"]).stdout, b"hello");
    let latest = run(&["get", "--consistency", "latest", "--verbose", "greeting"]);
    assert_eq!(latest.stdout, b"hello");
    assert!(
        String::from_utf8_lossy(&latest.stderr).contains("source master"),
        "{latest:?}"
    );
    assert_eq!(run(&["delete", "greeting"]).stdout, b"deleted\n");
    assert_eq!(run(&["get", "greeting"]).status.code(), Some(1));
    let again = run(&["delete", "greeting"]);
    assert_eq!(again.stdout, b"the key was absent\n");
    let absent = run(&["get", "--output", "json", "greeting"]);
    let answer: Value = serde_json::from_slice(&absent.stdout).unwrap();
    assert_eq!(
        (absent.status.code(), &answer["found"]),
        (Some(1), &false.into())
    );

    let put = run(&["put", "--ttl", "1h", "greeting", "hello"]);
    let version: u64 = String::from_utf8_lossy(&put.stdout).trim().parse().unwrap();
    let answer = run(&["get", "--output", "json", "greeting"]).stdout;
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["value"], "hello");
    assert_eq!(answer["expires_at"], (version >> 16) + 3_600_000);
    let soon = run(&["put", "--ttl", "soon", "greeting", "hello"]);
    assert_eq!(soon.status.code(), Some(2), "{soon:?}");
    let nobody = run(&["get", "--address", "127.0.0.1:1", "greeting"]);
    assert_eq!(
        nobody.status.code(),
        Some(2),
        "absence and failure must differ"
    );
    let version = "9";
    let mixed = [
        "get",
        "--consistency",
        "cached",
        "--min-version",
        version,
        "greeting",
    ];
    assert_eq!(
        run(&mixed).status.code(),
        Some(2),
        "a bound would be ignored"
    );
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("client coordinator"));
}

/// The report without the figures that change all the time.
fn settled(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                let moves = ["log_index", "commit_index", "age_ms", "hit_ratio"];
                *field = match moves.contains(&name.as_str()) {
                    true => Value::Null,
                    false => settled(field.take()),
                };
            }
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| *item = settled(item.take())),
        _ => {}
    }
    value
}

#[tokio::test]
async fn status_prints_the_same_as_the_cluster_page() {
    let platform = TierKv::start(Options::default()).await.unwrap();
    // A mark may appear between the two requests.
    let same = poll_until(PATIENCE, || async {
        let status = tierkv(&platform, &["status", "--output", "json"]);
        assert!(status.status.success(), "{status:?}");
        let by_command: Value = serde_json::from_slice(&status.stdout).unwrap();
        let page = Request::new("GET", "/v1/cluster")
            .send(platform.rest())
            .await
            .unwrap();
        (settled(by_command) == settled(page.json())).then_some(page.json())
    });
    let page = same.await.expect("the command and the page differ");
    assert_eq!(page["clusters"][0]["slots"], 4096);
    assert_eq!(page["clusters"][0]["members"][0]["pid"], platform.pid());

    let table = tierkv(&platform, &["status"]);
    let table = String::from_utf8(table.stdout).unwrap();
    for word in [
        "client coordinator",
        "server coordinator",
        "cluster c1",
        "cache",
        "master",
    ] {
        assert!(table.contains(word), "{word}: {table}");
    }
}
