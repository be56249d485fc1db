//! Every write error except a full disk stops the node with a helpful message. After such an
//! error the content of the disk is unknown, and a node that continued could do more damage.
//!
//! The errors come from the kernel: a file size limit on the running process makes writes beyond
//! it fail (`EFBIG`), even in preallocated files. The signal that comes with it (`SIGXFSZ`) does
//! not end the process.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tierkv::{Client, Code, Consistency};
use tierkv_harness::{Options, Surroundings, TierKv, poll_until};
use tierkv_tests::flood::{Flood, Written};

const KIB: u64 = 1 << 10;
const PATIENCE: Duration = Duration::from_secs(30);
const WRITERS: usize = 32;
const VALUE_BYTES: u32 = 1_000;
/// The exit status of a failed command.
const FAILED: i32 = 2;

/// Makes the writes of a platform beyond `limit` fail, and returns its log. Checks that after a
/// restart without the limit all acknowledged writes are there.
async fn fail_beyond(limit: u64, surroundings: Surroundings) -> String {
    let options = Options {
        surroundings,
        ..Options::default()
    };
    let mut platform = TierKv::start(options).await.unwrap();
    let builder = Client::builder().address(platform.grpc());
    let client = builder.timeout(Duration::from_secs(2)).connect().await;
    let client = client.unwrap();
    let numbers = Arc::new(AtomicU64::new(1));
    let flood = Flood::start(&[client], WRITERS, &numbers, VALUE_BYTES);
    let writing = poll_until(PATIENCE, || async {
        (flood.acknowledged() > 100).then_some(())
    });
    writing.await.unwrap();
    let process = platform.process();
    process.limit_file_size(limit).unwrap();
    let ended = process.wait_until("end", PATIENCE, |process| process.status());
    let status = ended.await.unwrap();
    let written = flood.end().await;
    assert_eq!(status.code(), Some(FAILED), "{}", process.log_tail());
    assert_honest(&written);
    let printed = fs::read_to_string(process.folder().path().join("stderr.log")).unwrap();

    platform.restart().await.unwrap();
    let builder = Client::builder().address(platform.grpc());
    let client = builder.timeout(PATIENCE).connect().await.unwrap();
    let kept = written.check(&client, Consistency::Latest).await;
    kept.unwrap_or_else(|broken| panic!("{broken}"));
    assert!(platform.stop().await.unwrap().success());
    printed
}

/// Checks the codes of failed writes: not applied, outcome unknown, or an internal error.
fn assert_honest(written: &Written) {
    let failures = written.failures();
    let is_honest = |code: &Code| {
        matches!(
            code,
            Code::Unavailable | Code::OutcomeUnknown | Code::Internal
        )
    };
    assert!(failures.keys().all(is_honest), "{failures:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_stops_the_node() {
    // Checkpoints are an hour apart, so that only the log is written.
    let surroundings = Surroundings::default()
        .set("TIERKV_STORE_CHECKPOINT_INTERVAL_MS", 3_600_000)
        .set("TIERKV_WAL_SEGMENT_BYTES", 1_024 * KIB);
    let printed = fail_beyond(4 * KIB, surroundings).await;
    let last = printed.lines().last().unwrap();
    assert!(last.starts_with("tierkv: could not write "), "{printed}");
    assert!(last.contains("c1/n1/log/0000"), "{printed}");
    assert!(last.contains("File too large"), "{printed}");
    assert!(
        last.ends_with("check the disk, then restart the node"),
        "{printed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_written_stops_the_node() {
    // Segments are smaller than the limit, and the store grows beyond it.
    let surroundings = Surroundings::default()
        .set("TIERKV_STORE_CHECKPOINT_INTERVAL_MS", 50)
        .set("TIERKV_WAL_SEGMENT_BYTES", 64 * KIB);
    let printed = fail_beyond(128 * KIB, surroundings).await;
    let last = printed.lines().last().unwrap();
    assert!(last.starts_with("tierkv: "), "{printed}");
    assert!(last.contains("store.sqlite"), "{printed}");
    assert!(
        last.ends_with("check the disk, then restart the node"),
        "{printed}"
    );
}
