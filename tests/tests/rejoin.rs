//! A replica whose disk was emptied, in a cluster of three processes whose logs keep nothing that
//! their stores have: it gets its master's whole state while writers go on, and no acknowledged
//! write is lost.

// Test helpers panic as tests do, and the figures are for people.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    slice::from_ref,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use tierkv::{Client, Code, Consistency};
use tierkv_harness::{LocalCluster, Surroundings, poll_until};
use tierkv_tests::{
    flood::Flood,
    many_processes::{all_in_sync, cluster, connect},
    metrics::Page,
};

const CLUSTER: &str = "c1";
const NODES: [&str; 3] = ["n1", "n2", "n3"];
const WRITERS: usize = 8;
const VALUE_BYTES: u32 = 200;
const SEGMENT_BYTES: u64 = 64 << 10;
/// The log keeps so much of what the store has: the least that a configuration may say, and less
/// than [`MANY`] writes.
const RETENTION_MS: u64 = 1_000;
const LOG_BYTES: u64 = 512 << 10;
/// Timeout of a write: longer than a failover takes.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Timeout for a state that the cluster reaches after a fault.
const PATIENCE: Duration = Duration::from_secs(90);
/// Acknowledged writes that take more than the log keeps.
const MANY: u64 = 4_000;

/// A log that keeps hardly anything that the store has.
fn short_log() -> Surroundings {
    Surroundings::default()
        .set("TIERKV_WAL_SEGMENT_BYTES", SEGMENT_BYTES)
        .set("TIERKV_WAL_RETENTION_MS", RETENTION_MS)
        .set("TIERKV_WAL_MAX_BYTES", LOG_BYTES)
        .set("TIERKV_STORE_CHECKPOINT_INTERVAL_MS", 50)
}

async fn in_sync(platform: &LocalCluster, client: &Client, when: &str) {
    let began = Instant::now();
    let seen = all_in_sync(client, CLUSTER, PATIENCE).await;
    if let Err(state) = seen {
        panic!("{when}: {state}\n{}", logs(platform));
    }
    println!("{when}: in sync after {:?}", began.elapsed());
}

fn logs(platform: &LocalCluster) -> String {
    let log = |node: &&str| format!("--- {node}\n{}", platform.log_of(node));
    NODES.iter().map(log).collect()
}

/// Waits for so many more acknowledged writes.
async fn more(platform: &LocalCluster, flood: &Flood, count: u64, when: &str) {
    let before = flood.acknowledged();
    let more = poll_until(PATIENCE, || async {
        (flood.acknowledged() >= before + count).then_some(())
    });
    if more.await.is_none() {
        panic!("writes do not go on {when}: {}", logs(platform));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_disk_was_emptied_is_in_sync_again_by_a_snapshot() {
    let mut platform = LocalCluster::start_replicated(1, 3).await.unwrap();
    for node in NODES {
        platform.kill9(node).await.unwrap();
        let started = platform.start_like_in(node, node, &[], short_log());
        started.unwrap();
    }
    let client = connect(&platform, WRITE_LIMIT).await.unwrap();
    in_sync(&platform, &client, "with short logs").await;

    let numbers = Arc::new(AtomicU64::new(1));
    let flood = Flood::start_persistent(from_ref(&client), WRITERS, &numbers, VALUE_BYTES);
    more(&platform, &flood, MANY, "at the start").await;
    let master = cluster(&client, CLUSTER).await.unwrap().master;
    let replica = NODES.into_iter().find(|node| *node != master).unwrap();
    platform.kill9(replica).await.unwrap();
    platform.wipe(replica).unwrap();
    more(&platform, &flood, MANY, "without the replica").await;
    let started = platform.start_like_in(replica, replica, &[], short_log());
    started.unwrap();
    more(&platform, &flood, MANY, "while the replica rejoins").await;
    let written = flood.end().await;
    let failures = written.failures();
    println!("{} writes, {failures:?}", written.acknowledged());
    let allowed = [
        Code::Unavailable,
        Code::OutcomeUnknown,
        Code::DeadlineExceeded,
    ];
    assert!(
        failures.keys().all(|code| allowed.contains(code)),
        "{failures:?}"
    );
    in_sync(&platform, &client, "the replica rejoined").await;
    let page = platform.member(replica).unwrap().addresses["metrics"].clone();
    let page = Page::fetch(&page).await.unwrap();
    let installed = page.sum("tierkv_installations_total", &[("result", "installed")]);
    assert!(
        installed >= 1.0,
        "no snapshot was installed: {}",
        logs(&platform)
    );

    // Without the master, too: everything is at the other two.
    platform.kill9(&master).await.unwrap();
    let kept = written.check(&client, Consistency::Latest).await;
    kept.unwrap_or_else(|broken| panic!("{broken}\n{}", logs(&platform)));
    platform.stop().await.unwrap();
}
