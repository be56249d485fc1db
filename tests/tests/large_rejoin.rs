//! A replica whose disk was emptied comes back by a snapshot of a million records while 64 writers
//! go on, with little memory: it is in sync at the end, has everything, and its resident memory
//! stays bounded, as does its master's.

// Test helpers panic as tests do, and the figures are for people.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    slice::from_ref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tierkv::{Client, Consistency, ReadOptions, Selection, Write, rpc::proto::v1::MemberStatus};
use tierkv_harness::{LocalCluster, Surroundings, poll_until};
use tierkv_tests::{
    flood::{Flood, Record, Written},
    many_processes::{all_in_sync, cluster, connect},
    metrics::Page,
    operator::admin,
    resident::resident,
};
use tierkv_types::limits::MAX_OPERATIONS;
use tokio::task::JoinSet;

const CLUSTER: &str = "c1";
const NODES: [&str; 3] = ["n1", "n2", "n3"];
const RECORDS: u64 = 1_000_000;
const VALUE_BYTES: u32 = 224;
/// Tasks that write all records first, in batches.
const LOADERS: u64 = 8;
const WRITERS: usize = 64;
/// The bound of stored records in memory, and of those that the store lacks.
const MEMORY_BYTES: u64 = 64 << 20;
/// Less than the records take.
const LOG_BYTES: u64 = 256 << 20;
/// The bound of the resident memory of a node that sends or installs a snapshot.
const MAX_RESIDENT: u64 = 512 << 20;
/// Timeout of a write, of a count, and of the replica's return.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
const COUNT_LIMIT: Duration = Duration::from_secs(120);
const REJOIN_LIMIT: Duration = Duration::from_secs(300);
/// Writes that are acknowledged without the replica.
const WRITES_WITHOUT: u64 = 5_000;
/// One in so many loaded records is read at the end.
const SAMPLE: usize = 97;

fn bounded() -> Surroundings {
    Surroundings::default()
        .set("TIERKV_MEMORY_MAX_BYTES", MEMORY_BYTES)
        .set("TIERKV_MEMORY_PINNED_MAX_BYTES", MEMORY_BYTES)
        .set("TIERKV_WAL_MAX_BYTES", LOG_BYTES)
}

fn record(number: u64) -> Record {
    Record {
        number,
        value_bytes: VALUE_BYTES,
    }
}

/// Writes the records from 0 on.
async fn load(client: &Client) {
    let numbers = Arc::new(AtomicU64::new(0));
    let mut loading = JoinSet::new();
    for _ in 0..LOADERS {
        let (client, numbers) = (client.clone(), Arc::clone(&numbers));
        loading.spawn(async move {
            loop {
                let batch = MAX_OPERATIONS as u64;
                let from = numbers.fetch_add(batch, Ordering::Relaxed);
                if from >= RECORDS {
                    return;
                }
                let records = (from..RECORDS.min(from + batch)).map(record);
                let write = records.fold(Write::new(), |write, record| {
                    write.put(record.key(), record.value())
                });
                client.write(write).await.unwrap();
            }
        });
    }
    while let Some(ended) = loading.join_next().await {
        ended.unwrap();
    }
}

fn logs(platform: &LocalCluster) -> String {
    let log = |node: &&str| format!("--- {node}\n{}", platform.log_of(node));
    NODES.iter().map(log).collect()
}

fn peak(platform: &LocalCluster, node: &str) -> u64 {
    let peak = resident(platform.pid(node).unwrap()).unwrap().peak;
    println!("{node}: at most {} MiB resident", peak >> 20);
    peak
}

/// Checks that the node has everything: all loaded records, and what the writers were told.
async fn check_all(platform: &LocalCluster, replica: &str, written: &Written) {
    // As the master, it answers from what it got.
    let words = ["handover", "--cluster", CLUSTER, "--to", replica];
    let handed_over = admin(platform, &words).await.unwrap();
    assert_eq!(handed_over.code, Some(0), "{handed_over:?}");
    let options = ReadOptions {
        consistency: Consistency::Latest,
        ..ReadOptions::default()
    };
    let patient = connect(platform, COUNT_LIMIT).await.unwrap();
    let all = Selection::prefix("record-");
    let count = patient.count_with(all, options).await.unwrap();
    assert_eq!(count, RECORDS + written.acknowledged() as u64);
    written.check(&patient, Consistency::Latest).await.unwrap();
    for number in (0..RECORDS).step_by(SAMPLE) {
        let record = record(number);
        let found = patient.get_with(record.key(), options).await.unwrap();
        assert_eq!(found.value, Some(record.value()), "{record:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_records_reach_an_emptied_replica_under_64_writers_in_bounded_memory() {
    let mut platform = LocalCluster::start_replicated(1, 3).await.unwrap();
    for node in NODES {
        platform.kill9(node).await.unwrap();
        let started = platform.start_like_in(node, node, &[], bounded());
        started.unwrap();
    }
    let client = connect(&platform, WRITE_LIMIT).await.unwrap();
    all_in_sync(&client, CLUSTER, REJOIN_LIMIT).await.unwrap();
    let began = Instant::now();
    load(&client).await;
    println!("{RECORDS} records written in {:?}", began.elapsed());

    let numbers = Arc::new(AtomicU64::new(RECORDS));
    let flood = Flood::start_persistent(from_ref(&client), WRITERS, &numbers, VALUE_BYTES);
    let master = cluster(&client, CLUSTER).await.unwrap().master;
    let replica = NODES.into_iter().find(|node| *node != master).unwrap();
    platform.kill9(replica).await.unwrap();
    platform.wipe(replica).unwrap();
    let without = poll_until(REJOIN_LIMIT, || async {
        (flood.acknowledged() >= WRITES_WITHOUT).then_some(())
    });
    assert!(without.await.is_some(), "no writes: {}", logs(&platform));
    let before = flood.acknowledged();
    let began = Instant::now();
    let started = platform.start_like_in(replica, replica, &[], bounded());
    started.unwrap();
    let in_sync = poll_until(REJOIN_LIMIT, || async {
        let cluster = cluster(&client, CLUSTER).await?;
        let is_whole = cluster.in_sync.iter().any(|node| *node == replica);
        let answers = |it: &MemberStatus| it.node == replica && it.reachable;
        (is_whole && cluster.members.iter().any(answers)).then_some(())
    });
    assert!(in_sync.await.is_some(), "not back: {}", logs(&platform));
    let during = flood.acknowledged() - before;
    println!(
        "in sync after {:?}, {during} writes meanwhile",
        began.elapsed()
    );
    let written = flood.end().await;
    assert!(during > 0, "no write while the replica rejoined");
    assert!(written.failures().is_empty(), "{:?}", written.failures());
    all_in_sync(&client, CLUSTER, REJOIN_LIMIT).await.unwrap();

    let page = platform.member(replica).unwrap().addresses["metrics"].clone();
    let page = Page::fetch(&page).await.unwrap();
    let installed = page.sum("tierkv_installations_total", &[("result", "installed")]);
    assert!(installed >= 1.0, "no snapshot: {}", logs(&platform));
    for node in [replica, &master] {
        let peak = peak(&platform, node);
        assert!(peak <= MAX_RESIDENT, "{node}: {peak} bytes resident");
    }

    check_all(&platform, replica, &written).await;
    platform.stop().await.unwrap();
}
