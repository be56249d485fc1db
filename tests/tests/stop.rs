//! An orderly stop keeps acknowledged writes, reports no other write as done, and leaves
//! nothing to replay for the next start.

// Test helpers panic as tests do, and the figures are for people.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    fs,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use tierkv::{Client, Code, Consistency};
use tierkv_harness::{Options, Surroundings, TierKv, poll_until};
use tierkv_storage::{RealDisk, Recovered, Storage, StorageSettings};
use tierkv_tests::flood::{Flood, Written};

/// Timeout for a stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Timeout for the acknowledgements that a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Timeout of a writer's operation, also while the platform is down.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(2);
const CONNECTIONS: usize = 8;
const WRITERS: usize = 256;

async fn start(surroundings: Surroundings) -> TierKv {
    let options = Options {
        surroundings,
        ..Options::default()
    };
    TierKv::start(options).await.unwrap()
}

async fn connect(platform: &TierKv, timeout: Duration) -> Client {
    let builder = Client::builder().address(platform.grpc());
    builder.timeout(timeout).connect().await.unwrap()
}

/// Floods the platform, and stops it after `wanted` acknowledged writes while the flood goes on.
async fn stop_under_load(platform: &mut TierKv, wanted: u64, value_bytes: u32) -> Written {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(connect(platform, GIVEN_UP_AFTER).await);
    }
    let numbers = Arc::new(AtomicU64::new(1));
    let flood = Flood::start(&clients, WRITERS, &numbers, value_bytes);
    let reached = poll_until(PATIENCE, || async {
        (flood.acknowledged() >= wanted).then_some(())
    });
    reached.await.expect("the platform acknowledges too slowly");
    let began = Instant::now();
    let status = platform.process().stop(STOP_LIMIT).await.unwrap();
    let took = began.elapsed();
    assert_eq!(status.code(), Some(0), "{}", platform.process().log_tail());
    let written = flood.end().await;
    println!(
        "stopped in {took:?} after {} acknowledged writes; the others: {:?}",
        written.acknowledged(),
        written.failures()
    );
    written
}

/// Checks that every failed write was reported as not applied or as of unknown outcome.
fn assert_honest(written: &Written) {
    let failures = written.failures();
    let is_honest = |code: &Code| matches!(code, Code::Unavailable | Code::OutcomeUnknown);
    assert!(failures.keys().all(is_honest), "{failures:?}");
    // Each writer ends with a failed write, so the platform was busy when it stopped.
    assert_eq!(failures.values().sum::<usize>(), WRITERS, "{failures:?}");
}

/// What a start recovers from a copy of a data folder.
async fn recovered(data: &Path) -> Recovered {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&data.join("c1").join("n1"), copy.path());
    let settings = StorageSettings::new(copy.path());
    let (storage, recovered) = Storage::open(settings, Arc::new(RealDisk)).await.unwrap();
    storage.close().await.unwrap();
    recovered
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

async fn check_after_restart(platform: &mut TierKv, written: &Written) {
    platform.restart().await.unwrap();
    let client = connect(platform, PATIENCE).await;
    let kept = written.check(&client, Consistency::Latest).await;
    kept.unwrap_or_else(|broken| panic!("{broken}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_loses_nothing_and_leaves_nothing_to_replay() {
    let mut platform = start(Surroundings::default()).await;
    let written = stop_under_load(&mut platform, 20_000, 200).await;
    assert_honest(&written);
    let found = recovered(platform.folder().data()).await;
    assert_eq!(found.applied, found.last.index);
    assert!(found.tail.is_empty());
    assert!(found.last.index.0 >= written.acknowledged() as u64);
    check_after_restart(&mut platform, &written).await;
}

/// Checkpoints are an hour apart, so that at the stop every write is still pinned in memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_with_much_unstored_data_is_quick_and_loses_nothing() {
    const HOUR_MS: u64 = 3_600_000;
    const MUCH: u64 = 1 << 30;
    let surroundings = Surroundings::default()
        .set("TIERKV_STORE_CHECKPOINT_INTERVAL_MS", HOUR_MS)
        .set("TIERKV_STORE_CHECKPOINT_BYTES", MUCH)
        .set("TIERKV_MEMORY_PINNED_MAX_BYTES", MUCH);
    let mut platform = start(surroundings).await;
    let written = stop_under_load(&mut platform, 20_000, 2_000).await;
    assert_honest(&written);
    check_after_restart(&mut platform, &written).await;
}
