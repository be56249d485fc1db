//! A replica whose disk was emptied, in a cluster of three processes whose logs keep nothing that
//! their stores have: it gets its master's whole state while writers go on, and no acknowledged
//! write is lost.

// Test helpers panic as tests do, and the figures are for people.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Duration;

use tierkv::Consistency;
use tierkv_harness::{LocalCluster, Surroundings};
use tierkv_tests::{
    metrics::Page,
    trial::{NODES, PATIENCE, Trial},
};

const WRITERS: usize = 8;
const SEGMENT_BYTES: u64 = 64 << 10;
/// The shortest log that a configuration can ask for: records that the store has leave it after this
/// time, or over this size, which is less than [`MANY`] writes take.
const RETENTION_MS: u64 = 1_000;
const LOG_BYTES: u64 = 512 << 10;
/// Timeout of a write: longer than a failover takes.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_disk_was_emptied_is_in_sync_again_by_a_snapshot() {
    let mut platform = LocalCluster::start_replicated(1, 3).await.unwrap();
    for node in NODES {
        platform.kill9(node).await.unwrap();
        let started = platform.start_like_in(node, node, &[], short_log());
        started.unwrap();
    }
    let mut trial = Trial::of(platform, WRITE_LIMIT).await;
    trial.in_sync("with short logs").await;

    let flood = trial.writers(WRITERS);
    trial.more(&flood, MANY, PATIENCE, "at the start").await;
    let master = trial.master().await;
    let replica = trial.replicas().await.swap_remove(0);
    trial.platform.kill9(&replica).await.unwrap();
    trial.platform.wipe(&replica).unwrap();
    let without = "without the replica";
    trial.more(&flood, MANY, PATIENCE, without).await;
    let started = (trial.platform).start_like_in(&replica, &replica, &[], short_log());
    started.unwrap();
    let meanwhile = "while the replica rejoins";
    trial.more(&flood, MANY, PATIENCE, meanwhile).await;
    let written = flood.end().await;
    let unexplained = written.unexplained_failures();
    assert!(unexplained.is_empty(), "{unexplained:?}");
    trial.check(written, "the replica rejoins").await;
    trial.in_sync("the replica rejoined").await;
    let page = trial.platform.member(&replica).unwrap().addresses["metrics"].clone();
    let page = Page::fetch(&page).await.unwrap();
    let installed = page.sum("tierkv_installations_total", &[("result", "installed")]);
    assert!(
        installed >= 1.0,
        "no snapshot was installed: {}",
        trial.logs()
    );

    // Without the master, too: everything is at the other two.
    trial.platform.kill9(&master).await.unwrap();
    let kept = trial
        .written
        .check(&trial.client, Consistency::Latest)
        .await;
    kept.unwrap_or_else(|broken| panic!("{broken}\n{}", trial.logs()));
    trial.platform.stop().await.unwrap();
}
