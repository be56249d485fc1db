//! `tierkv bench`: a short run against a real platform measures, checks the values that it
//! reads, and removes its keys.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tierkv::{Client, Consistency, Item, ReadOptions, ScanOptions, Selection};
use tierkv_harness::poll_until;
use tierkv_tests::{binary, ephemeral::Ephemeral};

const PATIENCE: Duration = Duration::from_secs(60);

fn command(address: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary::tierkv().path);
    command
        .args(["bench", "--keys", "500"])
        .args(arguments)
        .env("TIERKV_ADDRESS", address)
        .stdin(Stdio::null());
    command
}

fn bench(platform: &Ephemeral, arguments: &[&str]) -> Output {
    command(&platform.grpc, arguments).output().unwrap()
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn client(platform: &Ephemeral, namespace: &str) -> Client {
    let builder = Client::builder().address(&platform.grpc);
    builder.namespace(namespace).connect().await.unwrap()
}

fn newest() -> ScanOptions {
    ScanOptions {
        read: ReadOptions {
            consistency: Consistency::Latest,
            ..ReadOptions::default()
        },
        ..ScanOptions::default()
    }
}

/// The number of keys that benchmarks left.
async fn left(client: &Client) -> u64 {
    let selection = Selection::prefix("tierkv-bench/");
    let count = client.count_with(selection, newest().read);
    count.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_are_measured_and_all_keys_are_removed() {
    let platform = Ephemeral::start().await.unwrap();
    let client = client(&platform, "default").await;
    client.put("mine", "kept").await.unwrap();
    for protocol in ["session", "unary"] {
        let output = bench(
            &platform,
            &[
                "--protocol",
                protocol,
                "--duration",
                "500ms",
                "--writes",
                "0.3",
                "--in-flight",
                "8",
                "--connections",
                "2",
                "--value-bytes",
                "50",
                "-o",
                "json",
            ],
        );
        let results = report(&output);
        assert!(output.stderr.is_empty(), "no terminal: {output:?}");
        let (reads, writes) = (&results["reads"], &results["writes"]);
        let done = |part: &Value| part["succeeded"].as_f64().unwrap();
        assert!(done(reads) > 10.0 && done(writes) > 10.0, "{results}");
        let share = done(writes) / (done(reads) + done(writes));
        assert!((0.15..0.45).contains(&share), "{share}: {results}");
        let seconds = results["seconds"].as_f64().unwrap();
        assert!((0.5..30.0).contains(&seconds), "{results}");
        let rate = reads["per_second"].as_f64().unwrap();
        assert!((rate - done(reads) / seconds).abs() < 1.0, "{results}");
        for part in [reads, writes] {
            assert_eq!(part["failed"], 0, "{results}");
            let steps = ["p50", "p90", "p99", "p99.9", "max"];
            let latencies = steps.map(|step| part["latency_us"][step].as_f64().unwrap());
            assert!(latencies[0] > 0.0 && latencies.is_sorted(), "{results}");
        }
        let shares = results["sources"].as_object().unwrap().values();
        let sum: f64 = shares.map(|share| share.as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{results}");
        assert_eq!(
            (&results["keys"], &results["value_bytes"]),
            (&500.into(), &50.into())
        );
        assert_eq!(results["interrupted"], false);
        assert_eq!(left(&client).await, 0);
    }
    assert_eq!(client.get("mine").await.unwrap().value.unwrap(), "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_kept_on_request_and_a_table_is_printed() {
    let platform = Ephemeral::start().await.unwrap();
    let arguments = [
        "--keep",
        "--duration",
        "200ms",
        "--writes",
        "0",
        "-n",
        "other",
        "--shape",
        "ycsb",
        "--distribution",
        "uniform",
    ];
    let output = bench(&platform, &arguments);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("500 keys, values of 1000 bytes"), "{text}");
    for word in [
        "PER SECOND",
        "P99.9",
        "\nreads ",
        "\nwrites  0 ",
        "reads answered by: ",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(
        words.contains("the keys stay under tierkv-bench/"),
        "{words}"
    );
    let other = client(&platform, "other").await;
    assert_eq!(left(&other).await, 500);
    assert_eq!(left(&client(&platform, "default").await).await, 0);
    remove_as_told(&words);
    assert_eq!(left(&other).await, 0);
}

/// Runs the command that a bench prints for the keys that it left.
fn remove_as_told(words: &str) {
    let (_, remedy) = words.split_once("remove them with: tierkv ").unwrap();
    let output = Command::new(binary::tierkv().path)
        .args(remedy.split_whitespace())
        .arg("--yes")
        .output()
        .unwrap();
    assert!(output.status.success(), "{remedy}: {output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_an_interrupted_removal_leaves_are_named_with_a_remedy() {
    const KEYS: u64 = 10_000;
    let platform = Ephemeral::start().await.unwrap();
    let client = client(&platform, "default").await;
    // With few operations in flight the removal takes long enough to be interrupted.
    let running = Command::new(binary::tierkv().path)
        .args(["bench", "--keys", &KEYS.to_string(), "--duration", "1s"])
        .args(["--in-flight", "4", "--address", &platform.grpc])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    for is_reached in [|count: u64| count == KEYS, |count: u64| count < KEYS] {
        let reached = poll_until(PATIENCE, || async {
            is_reached(left(&client).await).then_some(())
        });
        reached.await.unwrap();
    }
    let pid = Pid::from_raw(i32::try_from(running.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let output = running.wait_with_output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("keys are left over (interrupted"), "{words}");
    assert!(!output.stdout.is_empty(), "the results are valid");
    assert!(left(&client).await > 0);
    remove_as_told(&words);
    assert_eq!(left(&client).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_prints_the_results_so_far() {
    let platform = Ephemeral::start().await.unwrap();
    let client = client(&platform, "default").await;
    let mut command = command(&platform.grpc, &["--duration", "1h", "-o", "json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let running = command.spawn().unwrap();
    let began = Instant::now();
    let is_measuring = async || {
        let page = client.scan_page(Selection::prefix("tierkv-bench/"), newest());
        // The values of the load phase have the stamp 0.
        let written = |item: &Item| item.value[..8] != [0; 8];
        page.await.unwrap().items.iter().any(written).then_some(())
    };
    poll_until(PATIENCE, is_measuring).await.unwrap();
    let pid = Pid::from_raw(i32::try_from(running.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let results = report(&running.wait_with_output().unwrap());
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(results["interrupted"], true, "{results}");
    assert_eq!(left(&client).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_options_and_a_missing_platform_are_refused() {
    for (arguments, words) in [
        (&["--writes", "1.5"][..], "a number from 0 to 1"),
        (&["--value-bytes", "7"], "a whole number from 8 to 1048576"),
        (&["--in-flight", "0"], "a whole number from 1 to 65536"),
        (&["--duration", "5"], "the duration '5' has no unit"),
        (&["--duration", "0s"], "the duration '0s' is over at once"),
        (&[], "does a platform serve gRPC at"),
        (&["--protocol", "unary"], "does a platform serve gRPC at"),
    ] {
        let output = command("127.0.0.1:1", arguments).output().unwrap();
        let printed = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{printed}");
        assert!(printed.contains(words), "{arguments:?}: {printed}");
    }
}
