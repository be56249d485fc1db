//! A million records in little memory.
//!
//! The memory tier holds at most a tenth of the records, so most reads go to the store. The
//! process must stay small, and every value must be right, read by key or in a scan.

// Test helpers panic as tests do, and the figures are for people.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tierkv::{
    Client,
    rpc::{
        channel,
        proto::v1::{CountRequest, ScanRequest, count_request, kv_client::KvClient, scan_request},
    },
};
use tierkv_harness::{Options, Surroundings, TierKv};
use tierkv_tests::{
    flood::Record,
    resident::{Resident, resident},
};
use tokio::task::{JoinHandle, JoinSet};
use tonic::transport::Channel;

const RECORDS: u64 = 1_000_000;
const VALUE_BYTES: u32 = 224;
const RESIDENT_RECORDS: u64 = RECORDS / 10;
const CACHE_MIB: &str = "16";
/// The limit of the process's resident memory.
const RESIDENT_LIMIT_BYTES: u64 = 512 << 20;
const CONNECTIONS: usize = 4;
/// Concurrent tasks that write or read, over all connections.
const TASKS: usize = 1_024;
const KEYS_A_READ: u64 = 100;
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread")]
async fn a_million_records_are_all_readable_from_little_memory() {
    let surroundings = Surroundings::default()
        .set("TIERKV_MEMORY_MAX_RECORDS", RESIDENT_RECORDS)
        .set("TIERKV_LOG", "warn");
    let options = Options {
        arguments: vec!["--cache-mib".to_owned(), CACHE_MIB.to_owned()],
        surroundings,
        ..Options::default()
    };
    let mut platform = TierKv::start(options).await.unwrap();
    let clients = connect(&platform).await;
    let sampler = Sampler::start(platform.pid());
    let began = Instant::now();
    let numbers = Arc::new(AtomicU64::new(0));
    let mut writers = JoinSet::new();
    for client in clients.iter().cycle().take(TASKS) {
        writers.spawn(write(client.clone(), Arc::clone(&numbers)));
    }
    writers.join_all().await;
    sampler.report("loaded", began);
    let began = Instant::now();
    read_all(&clients).await;
    sampler.report("read once", began);
    let mut scans = KvClient::new(channel(platform.grpc()).unwrap());
    let began = Instant::now();
    scan_all(&mut scans).await;
    sampler.report("scanned", began);
    let began = Instant::now();
    let all = CountRequest {
        selection: Some(count_request::Selection::Prefix(Bytes::new())),
        ..CountRequest::default()
    };
    let counted = scans.count(all).await.unwrap().into_inner();
    assert_eq!(counted.count, RECORDS);
    sampler.report("counted", began);
    let samples = sampler.end().await;
    let peak = resident(platform.pid()).unwrap().peak;
    println!("{samples} samples, peak {} MiB", peak >> 20);
    assert!(peak < RESIDENT_LIMIT_BYTES, "{} MiB", peak >> 20);
    platform.process().check().unwrap();
    assert!(platform.stop().await.unwrap().success());
}

async fn connect(platform: &TierKv) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let builder = Client::builder().address(platform.grpc());
        let builder = builder.timeout(Duration::from_secs(30));
        clients.push(builder.connect().await.unwrap());
    }
    clients
}

const fn record(number: u64) -> Record {
    Record {
        number,
        value_bytes: VALUE_BYTES,
    }
}

async fn write(client: Client, numbers: Arc<AtomicU64>) {
    loop {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        if number >= RECORDS {
            return;
        }
        let record = record(number);
        client.put(record.key(), record.value()).await.unwrap();
    }
}

/// Reads each record once, in another order than they were written.
async fn read_all(clients: &[Client]) {
    let batches = RECORDS / KEYS_A_READ;
    let next = Arc::new(AtomicU64::new(0));
    let mut readers = JoinSet::new();
    for client in clients.iter().cycle().take(TASKS / 16) {
        let (client, next) = (client.clone(), Arc::clone(&next));
        readers.spawn(async move {
            loop {
                let batch = next.fetch_add(1, Ordering::Relaxed);
                if batch >= batches {
                    return;
                }
                // Each batch takes every `batches`th record.
                let records: Vec<Record> = (0..KEYS_A_READ)
                    .map(|nth| record(nth * batches + batch))
                    .collect();
                let keys: Vec<String> = records.iter().map(|record| record.key()).collect();
                let found = client.batch_get(&keys).await.unwrap();
                for (record, found) in records.iter().zip(found) {
                    assert_eq!(found.value, Some(record.value()), "{record:?}");
                }
            }
        });
    }
    readers.join_all().await;
}

/// Reads all records in one stream, in the order of their keys.
async fn scan_all(scans: &mut KvClient<Channel>) {
    let all = ScanRequest {
        selection: Some(scan_request::Selection::Prefix(Bytes::new())),
        ..ScanRequest::default()
    };
    let mut responses = scans.scan(all).await.unwrap().into_inner();
    let mut numbers = 0..RECORDS;
    while let Some(response) = responses.message().await.unwrap() {
        for item in response.items {
            let record = record(numbers.next().unwrap());
            assert_eq!(
                (item.key, item.value),
                (record.key().into(), record.value())
            );
        }
    }
    assert_eq!(numbers.next(), None);
}

/// Samples the memory of a process, and fails the test if it is too large.
struct Sampler {
    pid: u32,
    sampling: JoinHandle<()>,
    samples: Arc<AtomicU64>,
}

impl Sampler {
    fn start(pid: u32) -> Self {
        let samples = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&samples);
        let sampling = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
            loop {
                ticks.tick().await;
                let Some(Resident { now, .. }) = resident(pid) else {
                    return;
                };
                count.fetch_add(1, Ordering::Relaxed);
                assert!(now < RESIDENT_LIMIT_BYTES, "{} MiB", now >> 20);
            }
        });
        Self {
            pid,
            sampling,
            samples,
        }
    }

    fn report(&self, what: &str, began: Instant) {
        let Resident { now, peak } = resident(self.pid).unwrap();
        let took = began.elapsed();
        let (now, peak) = (now >> 20, peak >> 20);
        println!("{what} in {took:?}: {now} MiB resident, {peak} MiB at most");
    }

    /// The number of samples.
    async fn end(self) -> u64 {
        if self.sampling.is_finished() {
            self.sampling.await.unwrap();
            panic!("the process went away");
        }
        self.sampling.abort();
        self.samples.load(Ordering::Relaxed)
    }
}
