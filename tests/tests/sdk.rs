//! The Rust client against a real platform: its examples, touches, and increments over broken
//! connections.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{collections::HashSet, time::Duration};

use rand::{SeedableRng, rngs::StdRng};
use tierkv::{Client, Code, Condition, Consistency, ReadOptions, RequestId, TouchOptions, Write};
use tierkv_tests::{choices, cutter::Cutter, ephemeral::Ephemeral};
use tokio::time::timeout;

// The examples, unchanged; their `main` is not run here.
#[allow(dead_code, unreachable_pub)]
#[path = "../../sdk/examples/basics.rs"]
mod basics;
#[allow(dead_code, unreachable_pub)]
#[path = "../../sdk/examples/batch.rs"]
mod batch;
#[allow(dead_code, unreachable_pub)]
#[path = "../../sdk/examples/counter.rs"]
mod counter;
#[allow(dead_code, unreachable_pub)]
#[path = "../../sdk/examples/scan.rs"]
mod scan;
#[allow(dead_code, unreachable_pub)]
#[path = "../../sdk/examples/session.rs"]
mod session;
#[allow(dead_code, unreachable_pub)]
#[path = "../../sdk/examples/watch.rs"]
mod watch;

/// Timeout for everything that must happen.
const PATIENCE: Duration = Duration::from_secs(30);
const TASKS: usize = 16;
const INCREMENTS_A_TASK: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_run() {
    let platform = Ephemeral::start().await.unwrap();
    basics::run(&platform.grpc).await.unwrap();
    counter::run(&platform.grpc).await.unwrap();
    batch::run(&platform.grpc).await.unwrap();
    session::run(&platform.grpc).await.unwrap();
    scan::run(&platform.grpc).await.unwrap();
    let watched = timeout(PATIENCE, watch::run(&platform.grpc)).await;
    watched.expect("the removal was not reported").unwrap();
    let client = Client::builder()
        .address(&platform.grpc)
        .namespace("examples")
        .connect()
        .await
        .unwrap();
    for (key, value) in [
        ("visits", "10"),
        ("account/ann", "70"),
        ("account/bob", "30"),
        ("taken/1", "tom"),
        ("profile/ann", "has picture 5"),
    ] {
        let found = client.get_with(key, latest()).await.unwrap();
        assert_eq!(found.value.as_deref(), Some(value.as_bytes()), "{key}");
    }
}

fn latest() -> ReadOptions {
    ReadOptions {
        consistency: Consistency::Latest,
        ..ReadOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_touch_keeps_the_value() {
    let platform = Ephemeral::start().await.unwrap();
    let builder = Client::builder().address(&platform.grpc);
    let client = builder.connect().await.unwrap();
    let hour = Duration::from_secs(3_600);
    let absent = client.touch("k", hour).await.unwrap_err();
    assert_eq!(absent.code(), Code::NotFound);
    let written = client.put("k", "v").await.unwrap();
    let touched = client.touch("k", hour).await.unwrap();
    // A session reads its own touches too.
    let session = client.session();
    let cleared = TouchOptions {
        ttl: None,
        condition: Some(Condition::Version(touched)),
    };
    let found = client.get_with("k", latest()).await.unwrap();
    assert_eq!(
        (found.value.as_deref(), found.version),
        (Some(&b"v"[..]), touched)
    );
    assert!(found.expires_at.is_some() && touched > written);
    let version = session.touch_with("k", cleared).await.unwrap();
    let found = session.get("k").await.unwrap();
    assert_eq!((found.expires_at, found.version), (None, version));
    let again = session.touch_with("k", cleared).await.unwrap_err();
    assert_eq!(again.code(), Code::ConditionFailed);

    let both = Write::new().touch("k", hour).increment("n", 1);
    let written = client.write(both).await.unwrap();
    let found = client.get_with("k", latest()).await.unwrap();
    assert_eq!(found.version, written.version);
    assert!(found.expires_at.is_some());
    let none = Write::new().touch("absent", None).increment("n", 1);
    let refused = client.write(none).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let found = client.get_with("n", latest()).await.unwrap();
    assert_eq!(found.value.as_deref(), Some(&b"1"[..]));
}

async fn number(client: &Client) -> usize {
    let found = client.get_with("counter", latest()).await.unwrap();
    let text = found.value.unwrap_or_default();
    std::str::from_utf8(&text).unwrap().parse().unwrap_or(0)
}

/// The outcomes of one task's increments.
#[derive(Default)]
struct Outcomes {
    values: Vec<i64>,
    unknown: Vec<RequestId>,
    failures: Vec<tierkv::Error>,
}

async fn count(client: Client) -> Outcomes {
    let mut outcomes = Outcomes::default();
    for _ in 0..INCREMENTS_A_TASK {
        match client.increment("counter", 1).await {
            Ok(incremented) => outcomes.values.push(incremented.value),
            Err(error) => match error.request_id() {
                Some(id) => outcomes.unknown.push(id),
                None => outcomes.failures.push(error),
            },
        }
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread")]
async fn every_increment_is_applied_once_over_broken_connections() {
    let platform = Ephemeral::start().await.unwrap();
    let mut dice = choices::seeded();
    let mut line = async || {
        let dice = StdRng::from_rng(&mut dice);
        Cutter::start(&platform.grpc, dice).await.unwrap()
    };
    let lines = [line().await, line().await];
    let direct = Client::builder()
        .address(&platform.grpc)
        .connect()
        .await
        .unwrap();
    let mut counted = 0;
    // The second timeout is too short for some retries: those outcomes stay unknown.
    for limit in [Duration::from_secs(10), Duration::from_millis(30)] {
        let client = Client::builder()
            .address(lines[0].address.to_string())
            .address(lines[1].address.to_string())
            .timeout(Duration::from_secs(10))
            .connect()
            .await
            .unwrap()
            .with_timeout(limit);
        let before = lines.iter().map(Cutter::cuts).sum::<u64>();
        lines.iter().for_each(|line| line.cut_one_in(4));
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| tokio::spawn(count(client.clone())))
            .collect();
        let mut all = Outcomes::default();
        for task in tasks {
            let outcomes = task.await.unwrap();
            all.values.extend(outcomes.values);
            all.unknown.extend(outcomes.unknown);
            all.failures.extend(outcomes.failures);
        }
        lines.iter().for_each(|line| line.cut_one_in(0));
        let cuts = lines.iter().map(Cutter::cuts).sum::<u64>() - before;
        println!(
            "{limit:?}: {cuts} cuts, {} acknowledged, {} unknown, {} failed",
            all.values.len(),
            all.unknown.len(),
            all.failures.len()
        );
        assert!(cuts > 10, "too few connections were cut: {cuts}");
        let distinct: HashSet<_> = all.values.iter().collect();
        assert_eq!(distinct.len(), all.values.len(), "one was applied twice");

        // A failed increment was not applied; one of unknown outcome may have been.
        let least = counted + all.values.len();
        let now = number(&direct).await;
        assert!(
            (least..=least + all.unknown.len()).contains(&now),
            "{now} after {least} acknowledged and {} unknown ones",
            all.unknown.len()
        );
        // Sent again with their request ids, all are applied, and none twice.
        for id in &all.unknown {
            let again = direct.with_request_id(*id).increment("counter", 1).await;
            again.unwrap();
        }
        counted = least + all.unknown.len();
        assert_eq!(number(&direct).await, counted);
    }
}
