//! Any error of a write but a full disk stops the node, with words that help: what is on
//! the disk is not known any more, and a node that limps on would make it worse.
//!
//! The errors are the machine's own: a file size limit that is put on the running process
//! makes writes beyond it fail (`EFBIG`), in files that had their space set aside. The signal
//! that comes with it (`SIGXFSZ`) ends nothing.

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
/// The exit status of whatever could not be done.
const FAILED: i32 = 2;

/// Lets a platform fail at files beyond `limit`, and answers what it said. After a restart
/// without the limit everything acknowledged is there.
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
    let said = fs::read_to_string(process.folder().path().join("stderr.log")).unwrap();

    platform.restart().await.unwrap();
    let builder = Client::builder().address(platform.grpc());
    let client = builder.timeout(PATIENCE).connect().await.unwrap();
    let kept = written.check(&client, Consistency::Latest).await;
    kept.unwrap_or_else(|broken| panic!("{broken}"));
    assert!(platform.stop().await.unwrap().success());
    said
}

/// What the node's storage could not do is no refusal that says it was not done.
fn assert_honest(written: &Written) {
    let failures = written.failures();
    let told = |code: &Code| {
        matches!(
            code,
            Code::Unavailable | Code::OutcomeUnknown | Code::Internal
        )
    };
    assert!(failures.keys().all(told), "{failures:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_stops_the_node() {
    // Only the log is written: checkpoints are an hour apart.
    let surroundings = Surroundings::default()
        .set("TIERKV_STORE_CHECKPOINT_INTERVAL_MS", 3_600_000)
        .set("TIERKV_WAL_SEGMENT_BYTES", 1_024 * KIB);
    let said = fail_beyond(4 * KIB, surroundings).await;
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("tierkv: could not write "), "{said}");
    assert!(last.contains("c1/n1/log/0000"), "{said}");
    assert!(last.contains("File too large"), "{said}");
    assert!(
        last.ends_with("check the disk, then restart the node"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_written_stops_the_node() {
    // Segments end below the limit, and the store grows beyond it.
    let surroundings = Surroundings::default()
        .set("TIERKV_STORE_CHECKPOINT_INTERVAL_MS", 50)
        .set("TIERKV_WAL_SEGMENT_BYTES", 64 * KIB);
    let said = fail_beyond(128 * KIB, surroundings).await;
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("tierkv: "), "{said}");
    assert!(last.contains("store.sqlite"), "{said}");
    assert!(
        last.ends_with("check the disk, then restart the node"),
        "{said}"
    );
}
