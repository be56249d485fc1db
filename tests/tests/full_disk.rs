//! On a full disk only writes are refused (LOG-SPACE).
//!
//! A platform fills a small disk, part of which is ballast, until its log or its store cannot
//! grow. Then writes are refused and reads continue. When the ballast is removed, writes
//! continue. Finally the platform is killed, and all acknowledged writes must be there.

// Test helpers panic as tests do, and the figures are for people.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use tierkv::{Client, Code, Consistency};
use tierkv_harness::{DataFolder, Options, SmallDisk, Surroundings, TierKv, poll_until};
use tierkv_tests::flood::{Flood, Written};

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;
const DISK_BYTES: u64 = 64 * MIB;
const BALLAST: &str = "ballast";
const WRITERS: usize = 64;
const VALUE_BYTES: u32 = 1_500;
/// Refused writes that show that the platform keeps refusing.
const REFUSED: u64 = 2_000;
/// Acknowledged writes that show that the platform has recovered.
const ACKNOWLEDGED_AGAIN: u64 = 500;
/// Timeout for filling the disk.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long writes may stay refused after space is free again.
const RECOVERY_LIMIT: Duration = Duration::from_secs(5);

/// Parts of the log messages for a commit log without space and for a store without space.
const LOG_IS_FULL: &str = "the log can't grow";
const STORE_IS_FULL: &str = "a checkpoint failed and will be tried again";

/// Settings under which the commit log fills the disk: it keeps everything, and nothing is
/// stored before the stop.
fn log_grows() -> Surroundings {
    Surroundings::default()
        .set("TIERKV_WAL_SEGMENT_BYTES", 4 * MIB)
        .set("TIERKV_MEMORY_PINNED_MAX_BYTES", DISK_BYTES)
        .set("TIERKV_STORE_CHECKPOINT_BYTES", DISK_BYTES)
        .set("TIERKV_STORE_CHECKPOINT_INTERVAL_MS", 3_600_000)
}

/// Settings under which the store fills the disk. The log keeps very little, in segments smaller
/// than a checkpoint's writes. The limit of pinned entries is so low that writers are refused
/// before the log needs space. Half a segment holds all writes under way, so that no write is
/// accepted without a segment for it. Memory keeps so little that reads go to the store.
fn store_grows() -> Surroundings {
    Surroundings::default()
        .set("TIERKV_MEMORY_MAX_BYTES", MIB)
        .set("TIERKV_WAL_SEGMENT_BYTES", 512 * KIB)
        .set("TIERKV_WAL_MAX_BYTES", MIB)
        .set("TIERKV_MEMORY_PINNED_MAX_BYTES", MIB)
        .set("TIERKV_STORE_CHECKPOINT_BYTES", MIB)
        .set("TIERKV_STORE_CHECKPOINT_INTERVAL_MS", 200)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_grow_refuses_writes_until_it_can() {
    for ballast in [48 * MIB, 54 * MIB] {
        fill_and_make_room(log_grows(), ballast, LOG_IS_FULL).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_grow_refuses_writes_until_it_can() {
    for ballast in [32 * MIB, 48 * MIB] {
        fill_and_make_room(store_grows(), ballast, STORE_IS_FULL).await;
    }
}

async fn fill_and_make_room(surroundings: Surroundings, ballast: u64, full: &str) {
    let folder = DataFolder::new("full-disk").unwrap();
    let disk = SmallDisk::mount(&folder, DISK_BYTES).await.unwrap();
    disk.occupy(BALLAST, ballast).unwrap();
    let options = Options {
        folder: Some(folder),
        arguments: vec!["--cache-mib".to_owned(), "1".to_owned()],
        surroundings: surroundings.wrap(disk.entrance()),
        ..Options::default()
    };
    let mut platform = TierKv::start(options).await.unwrap();
    let numbers = Arc::new(AtomicU64::new(1));
    let mut written = fill(&mut platform, &numbers).await;
    println!(
        "{} MiB of ballast: full after {} writes, {} KiB free",
        ballast / MIB,
        written.acknowledged(),
        disk.free_bytes().unwrap() / KIB
    );
    let printed = fs::read_to_string(platform.folder().path().join("stderr.log")).unwrap();
    let warned = printed.lines().find(|line| line.contains("WARN"));
    assert!(warned.is_some_and(|line| line.contains(full)), "{printed}");
    let client = connect(&platform).await;
    for consistency in [Consistency::Latest, Consistency::Cached] {
        kept(&written, &client, consistency).await;
    }

    disk.vacate(BALLAST).unwrap();
    written.extend(go_on(&mut platform, &numbers).await);
    kept(&written, &client, Consistency::Latest).await;
    platform.kill9().unwrap();
    platform.restart().await.unwrap();
    let client = connect(&platform).await;
    kept(&written, &client, Consistency::Latest).await;
    let stopped = platform.stop().await.unwrap();
    assert!(stopped.success(), "{}", platform.process().log_tail());
}

/// Writes until the disk is full, and continues until enough writes were refused.
async fn fill(platform: &mut TierKv, numbers: &Arc<AtomicU64>) -> Written {
    let clients = [connect(platform).await, connect(platform).await];
    let flood = Flood::start(&clients, WRITERS, numbers, VALUE_BYTES);
    let full = poll_until(PATIENCE, || async {
        (flood.exhausted() >= REFUSED).then_some(())
    });
    let full = full.await;
    let written = flood.end().await;
    platform.process().check().unwrap();
    full.unwrap_or_else(|| {
        let log = platform.process().log_tail();
        panic!("the disk is not full: {:?}\n{log}", written.failures())
    });
    assert!(written.acknowledged() > 1_000);
    assert_only_exhausted(&written);
    written
}

/// Checks that soon all writes succeed again.
async fn go_on(platform: &mut TierKv, numbers: &Arc<AtomicU64>) -> Written {
    let clients = [connect(platform).await];
    let began = Instant::now();
    let flood = Flood::start(&clients, WRITERS, numbers, VALUE_BYTES);
    let first = poll_until(RECOVERY_LIMIT, || async {
        (flood.acknowledged() > 0).then(|| began.elapsed())
    });
    let first = first.await.expect("space is free, but no write succeeds");
    let exhausted = flood.exhausted();
    let again = poll_until(PATIENCE, || async {
        (flood.acknowledged() >= ACKNOWLEDGED_AGAIN).then_some(())
    });
    again.await.expect("writes still fail");
    let written = flood.end().await;
    platform.process().check().unwrap();
    assert_only_exhausted(&written);
    println!("the first write after {first:?}, {exhausted} were refused till then");
    written
}

fn assert_only_exhausted(written: &Written) {
    let mut failures = written.failures();
    failures.remove(&Code::ResourceExhausted);
    assert_eq!(failures, HashMap::new());
}

async fn kept(written: &Written, client: &Client, consistency: Consistency) {
    let kept = written.check(client, consistency).await;
    kept.unwrap_or_else(|broken| panic!("{consistency:?}: {broken}"));
}

async fn connect(platform: &TierKv) -> Client {
    let builder = Client::builder().address(platform.grpc());
    builder.timeout(PATIENCE).connect().await.unwrap()
}
