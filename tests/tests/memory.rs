//! Changing the memory limits of data nodes while they run.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{
    cell::Cell,
    process::{Command, Output},
    time::Duration,
};

use serde_json::{Value, json};
use tierkv::{
    Client, Consistency, ReadOptions,
    rpc::proto::v1::{MemoryOverrides, SetMemoryRequest, set_memory_request::Change},
};
use tierkv_harness::{Options, TierKv, poll_until};
use tierkv_tests::{binary, http::Request, metrics::counter};

const KEYS: usize = 2_000;
/// Keys in one batch read.
const KEYS_A_READ: usize = 500;
/// Timeout for a metric to reach its value.
const PATIENCE: Duration = Duration::from_secs(60);

fn tierkv(platform: &TierKv, arguments: &[&str]) -> Output {
    Command::new(binary::tierkv().path)
        .args(arguments)
        .env("TIERKV_ADDRESS", platform.grpc())
        .output()
        .unwrap()
}

/// The output of `admin memory` with `options`.
fn memory(platform: &TierKv, options: &[&str]) -> Value {
    let arguments = [&["admin", "memory", "--output", "json"], options].concat();
    let output = tierkv(platform, &arguments);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn name(nth: usize) -> String {
    format!("key-{nth}")
}

async fn client(platform: &TierKv) -> Client {
    let builder = Client::builder().address(platform.grpc());
    builder.connect().await.unwrap()
}

/// Waits until the gauge `name` has the wanted value.
async fn gauge(platform: &TierKv, name: &str, wanted: impl Fn(f64) -> bool) {
    let last = Cell::new(f64::NAN);
    let reached = poll_until(PATIENCE, || async {
        last.set(counter(platform.rest(), name).await.ok()?);
        wanted(last.get()).then_some(())
    })
    .await;
    assert!(reached.is_some(), "{name} stays at {}", last.get());
}

/// Reads every key from the data node, bypassing the cache.
async fn check_all(platform: &TierKv) {
    let client = client(platform).await;
    let names: Vec<String> = (0..KEYS).map(name).collect();
    let latest = ReadOptions {
        consistency: Consistency::Latest,
        ..ReadOptions::default()
    };
    for names in names.chunks(KEYS_A_READ) {
        let found = client.batch_get_with(names, latest).await.unwrap();
        for (name, found) in names.iter().zip(found) {
            assert_eq!(found.value.as_deref(), Some(name.as_bytes()), "{name}");
        }
    }
}

#[tokio::test]
async fn memory_shrinks_while_it_runs_and_every_read_stays_right() {
    let options = Options {
        arguments: ["--set", "memory.policy=lru"].map(str::to_owned).into(),
        ..Options::default()
    };
    let mut platform = TierKv::start(options).await.unwrap();
    let own = json!({"policy": "lru", "max_records": 0, "max_bytes": 512 << 20});
    let before = memory(&platform, &[]);
    assert_eq!(
        before,
        json!({
            "set": {}, "revision": 0,
            "nodes": [{"cluster": "c1", "node": "n1", "in_force": own}],
        })
    );

    let writer = client(&platform).await;
    let puts = (0..KEYS).map(|nth| {
        let writer = writer.clone();
        tokio::spawn(async move { writer.put(name(nth), name(nth)).await })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap().unwrap();
    }
    // After a checkpoint the entries are clean.
    gauge(&platform, "tierkv_clean_records", |now| now >= 2_000.0).await;

    let answer = memory(&platform, &["--max-records", "100", "--policy", "fifo"]);
    assert_eq!(answer["set"], json!({"policy": "fifo", "max_records": 100}));
    let in_force = json!({"policy": "fifo", "max_records": 100, "max_bytes": 512 << 20});
    assert_eq!(answer["nodes"][0]["in_force"], in_force);
    gauge(&platform, "tierkv_clean_records", |now| now <= 100.0).await;
    gauge(&platform, "tierkv_clean_limit_records", |now| now == 100.0).await;
    check_all(&platform).await;
    gauge(&platform, "tierkv_clean_records", |now| now <= 100.0).await;

    // Another change keeps the other limits, and all survive a restart.
    let answer = memory(&platform, &["--max-bytes", "1 MiB"]);
    assert_eq!(
        answer["set"],
        json!({"policy": "fifo", "max_records": 100, "max_bytes": 1 << 20})
    );
    platform.restart().await.unwrap();
    let answer = memory(&platform, &[]);
    let in_force = json!({"policy": "fifo", "max_records": 100, "max_bytes": 1 << 20});
    assert_eq!(answer["nodes"][0]["in_force"], in_force);
    check_all(&platform).await;

    let answer = memory(&platform, &["--reset"]);
    assert_eq!(
        (&answer["set"], &answer["revision"]),
        (&json!({}), &0.into())
    );
    // The command can't see whether a node has followed a reset: nothing is set then.
    let has_followed = poll_until(PATIENCE, || async {
        (memory(&platform, &[])["nodes"][0]["in_force"] == own).then_some(())
    });
    has_followed
        .await
        .expect("the node follows its own settings");
    check_all(&platform).await;
    gauge(&platform, "tierkv_clean_records", |now| now > 100.0).await;
}

#[tokio::test]
async fn invalid_memory_limits_are_refused_and_change_nothing() {
    let platform = TierKv::start(Options::default()).await.unwrap();
    let before = memory(&platform, &[]);
    for (options, word) in [
        (&["--policy", "mru"][..], "s3fifo, lru, lfu and fifo"),
        (&["--max-bytes", "much"], "MiB"),
        (&["--max-bytes", "0"], "at least 1"),
        (&["--max-records=-1"], "max-records"),
        (&["--reset", "--policy", "lru"], "--reset"),
    ] {
        let output = tierkv(&platform, &[&["admin", "memory"], options].concat());
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(words.contains(word), "{words}");
    }
    let client = client(&platform).await;
    let unknown = MemoryOverrides {
        policy: Some(99),
        ..MemoryOverrides::default()
    };
    for (change, word) in [
        (Some(Change::Set(unknown)), "99"),
        (Some(Change::Set(MemoryOverrides::default())), "nothing"),
        (None, "neither"),
    ] {
        let refused = client.set_memory(SetMemoryRequest { change }).await;
        let error = refused.unwrap_err();
        assert_eq!(error.code(), tierkv::Code::InvalidArgument);
        assert!(error.message().contains(word), "{error}");
    }
    assert_eq!(memory(&platform, &[]), before);
}

#[tokio::test]
async fn every_queue_and_limit_has_a_metric() {
    let platform = TierKv::start(Options::default()).await.unwrap();
    client(&platform).await.put("k", "v").await.unwrap();
    gauge(&platform, "tierkv_stored_index", |now| now > 0.0).await;
    let page = Request::new("GET", "/metrics").send(platform.rest()).await;
    let page = String::from_utf8(page.unwrap().body).unwrap();
    for name in [
        "tierkv_pinned_bytes",
        "tierkv_pinned_limit_bytes",
        "tierkv_clean_bytes",
        "tierkv_clean_limit_bytes",
        "tierkv_clean_records",
        "tierkv_clean_limit_records",
        "tierkv_log_bytes",
        "tierkv_log_limit_bytes",
        "tierkv_log_segments",
        "tierkv_log_queue_bytes",
        "tierkv_log_queue_limit_bytes",
        "tierkv_remembered_requests",
        "tierkv_remembered_requests_limit",
        "tierkv_durable_index",
        "tierkv_applied_index",
        "tierkv_stored_index",
        "tierkv_checkpoint_age_seconds",
        "tierkv_write_waits_total",
        "tierkv_write_refusals_total",
    ] {
        assert!(page.contains(&format!("# HELP {name} ")), "{name}: {page}");
        let has_sample = (page.lines()).any(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        assert!(has_sample, "{name}: {page}");
    }
}
