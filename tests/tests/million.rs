//! A million keys over four data clusters: how they spread, that a scan, a count and a watch have
//! each of them exactly once, and that a takeover of the primary server coordinator in the middle
//! of the writes loses nothing.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // Tests may panic, and figures are for people.

use std::{
    collections::BTreeMap,
    process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tierkv::{Change, Client, Consistency, Event, ReadOptions, Selection, Watch, Write};
use tierkv_harness::{LocalCluster, poll_until};
use tierkv_protocol::placement::{Ring, WeightedCluster};
use tierkv_tests::{many_processes, resident::resident};
use tierkv_types::{ClusterId, ItemKey, limits::MAX_OPERATIONS};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::timeout,
};

const KEYS: usize = 1_000_000;
const CLUSTERS: u16 = 4;
/// The namespace of all keys: the default one.
const NAMESPACE: &str = "";
const PREFIX: &str = "million/";
/// Timeout of an operation, of the next item of a scan, and of the next event of a watch.
const PATIENCE: Duration = Duration::from_secs(60);
/// Batches in flight: enough for every cluster to have one while others are on their way.
const BATCHES: usize = 8;
/// The primary is killed once so many keys are written.
const KILL_AT: usize = KEYS / 3;
/// The keys from this one on are written once another one has taken over.
const AFTERWARDS: usize = KEYS * 9 / 10;
/// One in so many keys is read to see which node it is on.
const SAMPLE: usize = 101;
/// Keys of one batch read.
const KEYS_A_READ: usize = 500;
/// The test itself may take this much memory: it keeps one bit a key, and the batches in flight.
const MAX_MEMORY: u64 = 64 << 20;

/// Slots of a cluster, in per cent of a fair share, from and to.
///
/// A cluster has 160 virtual nodes. The share of the ring of one of `n` equal clusters with `v`
/// virtual nodes each is distributed as Beta(v, v (n - 1)), with a standard deviation of
/// sqrt((n - 1) / (n v + 1)) of the fair share; taking 4,096 slots from the ring adds
/// sqrt((n - 1) / 4096). For 4 clusters that is 6.8 % and 2.7 %, together 7.3 %; the bound is
/// 3.4 times that, and the one of the ring's own test.
const SLOTS_PER_CENT: (usize, usize) = (75, 125);

/// Most keys that a cluster may have more or less than its slots stand for.
///
/// A key's slot is a hash of the key, so with a share `p` of the slots the number of keys is
/// binomial, with a standard deviation of sqrt(KEYS p (1 - p)), at most sqrt(KEYS / 4) = 500. The
/// bound is five times that, 1 % of a fair share.
const MAX_DEVIATION: usize = 2_500;

fn key(number: usize) -> String {
    format!("{PREFIX}{number:07}")
}

fn value(number: usize) -> String {
    format!("value of {number}")
}

/// The number of a key, if its value is the right one.
fn number(key: &[u8], value: &[u8]) -> Option<usize> {
    let text = str::from_utf8(key).ok()?.strip_prefix(PREFIX)?;
    let number = text.parse().ok().filter(|number| *number < KEYS)?;
    (value == self::value(number).as_bytes()).then_some(number)
}

/// Numbers of keys that were seen.
struct Seen {
    bits: Vec<u64>,
    count: usize,
}

impl Seen {
    fn none() -> Self {
        Self {
            bits: vec![0; KEYS.div_ceil(64)],
            count: 0,
        }
    }

    /// Notes a key that must not have been seen before.
    fn once(&mut self, number: usize) {
        let (word, bit) = (&mut self.bits[number / 64], 1 << (number % 64));
        assert_eq!(*word & bit, 0, "key {number} was seen twice");
        *word |= bit;
        self.count += 1;
    }

    /// The first key that was not seen.
    fn missing(&self) -> Option<usize> {
        (0..KEYS).find(|number| self.bits[number / 64] & (1 << (number % 64)) == 0)
    }
}

async fn connect(platform: &LocalCluster) -> Client {
    many_processes::connect(platform, PATIENCE).await.unwrap()
}

/// The name and the epoch of the primary server coordinator.
async fn primary(client: &Client) -> Option<(String, u64)> {
    let report = client.cluster().await.ok()?;
    let mut coordinators = report.server_coordinators.into_iter();
    let primary = coordinators.find(|coordinator| coordinator.epoch > 0)?;
    Some((primary.node, primary.epoch))
}

/// The cluster that should own each key.
struct Owners {
    clusters: Vec<WeightedCluster>,
    ring: Ring,
}

impl Owners {
    fn new() -> Self {
        let cluster = |number| WeightedCluster {
            id: ClusterId::new(&format!("c{number}")).unwrap(),
            weight: 1,
        };
        let clusters: Vec<WeightedCluster> = (1..=CLUSTERS).map(cluster).collect();
        Self {
            ring: Ring::new(&clusters),
            clusters,
        }
    }

    /// The place of the key's owner among the clusters.
    fn of(&self, key: &str) -> usize {
        let slot = ItemKey::new(NAMESPACE, key.as_bytes()).unwrap().slot();
        let owner = self.ring.owner(slot).unwrap();
        let mut clusters = self.clusters.iter();
        clusters.position(|cluster| cluster.id == *owner).unwrap()
    }
}

/// Writes all keys, in batches of one cluster's keys: a batch of several is refused, so each batch
/// that is applied shows that all its keys have one owner. The last ones wait for the takeover, so
/// that there are writes before, during and after it. Returns how many keys each owner got.
async fn write_all(
    client: &Client,
    owners: &Owners,
    written: &Arc<AtomicUsize>,
    takeover: oneshot::Receiver<()>,
) -> [usize; CLUSTERS as usize] {
    let mut counts = [0; CLUSTERS as usize];
    let mut batches: [Vec<usize>; CLUSTERS as usize] = Default::default();
    let places = Arc::new(Semaphore::new(BATCHES));
    let mut writing = JoinSet::new();
    let mut takeover = Some(takeover);
    for number in 0..KEYS {
        if number == AFTERWARDS
            && let Some(takeover) = takeover.take()
        {
            takeover.await.unwrap();
        }
        let owner = owners.of(&key(number));
        counts[owner] += 1;
        batches[owner].push(number);
        let is_last = number + 1 == KEYS;
        for batch in &mut batches {
            if batch.len() < MAX_OPERATIONS && !is_last || batch.is_empty() {
                continue;
            }
            let place = Arc::clone(&places).acquire_owned().await.unwrap();
            let (client, written, batch) =
                (client.clone(), Arc::clone(written), std::mem::take(batch));
            writing.spawn(async move {
                let writes = batch.iter();
                let write = writes.fold(Write::new(), |write, number| {
                    write.put(key(*number), value(*number))
                });
                client.write(write).await.unwrap();
                written.fetch_add(batch.len(), Ordering::Relaxed);
                drop(place);
            });
        }
        // A failure ends the test at once, and ended tasks take memory until they are joined.
        while let Some(ended) = writing.try_join_next() {
            ended.unwrap();
        }
    }
    while let Some(ended) = writing.join_next().await {
        ended.unwrap();
    }
    counts
}

/// Kills the primary once a third is written, and reports when another one has taken over.
async fn take_over(
    client: &Client,
    written: &AtomicUsize,
    platform: &mut LocalCluster,
    taken_over: oneshot::Sender<()>,
) {
    let due = poll_until(PATIENCE, || async {
        (written.load(Ordering::Relaxed) >= KILL_AT).then_some(())
    });
    due.await.expect("a third of the keys is written");
    let (first, epoch) = primary(client).await.expect("there is a primary");
    let before = written.load(Ordering::Relaxed);
    platform.kill9(&first).await.unwrap();
    let began = Instant::now();
    let taken = poll_until(PATIENCE, || async {
        let (name, now) = primary(client).await?;
        (now > epoch && name != first).then_some(name)
    });
    let next = taken.await.expect("another server coordinator takes over");
    println!(
        "{next} took over from {first} in {:?}, during which {} keys were written",
        began.elapsed(),
        written.load(Ordering::Relaxed) - before
    );
    platform.restart(&first).unwrap();
    taken_over.send(()).unwrap();
}

/// Reads a watch until it reported every key, each once and with its value.
async fn follow(mut watch: Watch, what: &'static str) {
    let began = Instant::now();
    let mut seen = Seen::none();
    while seen.count < KEYS {
        let next = timeout(PATIENCE, watch.next()).await;
        let event = next.unwrap_or_else(|_| {
            let (count, missing) = (seen.count, seen.missing());
            panic!("{what}: after {count} events none came; the first missing is {missing:?}")
        });
        let Event { key, change, .. } = event.expect("a watch does not end").unwrap();
        let Change::Written { value, .. } = change else {
            panic!("{what}: {key:?} was removed");
        };
        let number = number(&key, &value);
        let number = number.unwrap_or_else(|| panic!("{what}: {key:?} holds {value:?}"));
        seen.once(number);
    }
    println!("{what}: {KEYS} events in {:?}", began.elapsed());
}

/// The scan returns every key in order, so once each, and the count agrees.
async fn scan_all(client: &Client) {
    let began = Instant::now();
    let mut scan = client.scan(Selection::prefix(PREFIX));
    for expected in 0..KEYS {
        let item = scan.next().await.expect("the scan has all keys").unwrap();
        assert_eq!(number(&item.key, &item.value), Some(expected));
    }
    assert!(scan.next().await.is_none(), "the scan has more keys");
    println!("scan: {:?}", began.elapsed());
    let began = Instant::now();
    let count = client.count(Selection::prefix(PREFIX)).await.unwrap();
    assert_eq!(count, KEYS as u64);
    println!("count: {:?}", began.elapsed());
}

/// The spread is within what the ring promises, and keys are where it says.
async fn check_spread(client: &Client, owners: &Owners, counts: &[usize]) {
    let report = client.cluster().await.unwrap();
    let mut slots = BTreeMap::new();
    for cluster in &report.clusters {
        slots.insert(cluster.id.as_str(), cluster.slots as usize);
    }
    let all: usize = slots.values().sum();
    let fair = all / usize::from(CLUSTERS);
    for (cluster, count) in owners.clusters.iter().zip(counts) {
        let slots = slots[cluster.id.as_str()];
        let expected = KEYS * slots / all;
        println!("{}: {slots} slots, {count} keys of {expected}", cluster.id);
        let (least, most) = SLOTS_PER_CENT;
        assert!((fair * least..=fair * most).contains(&(slots * 100)));
        assert!(count.abs_diff(expected) <= MAX_DEVIATION);
    }
    let options = ReadOptions {
        consistency: Consistency::Latest,
        explain: true,
        ..ReadOptions::default()
    };
    let sample: Vec<String> = (0..KEYS).step_by(SAMPLE).map(key).collect();
    for keys in sample.chunks(KEYS_A_READ) {
        let found = client.batch_get_with(keys, options).await.unwrap();
        for (key, found) in keys.iter().zip(found) {
            let value = found.value.expect("every key has a value");
            assert!(number(key.as_bytes(), &value).is_some());
            // Each cluster has one node: c1 has n1.
            let node = format!("n{}", owners.of(key) + 1);
            let is_there = found.path.iter().any(|hop| hop.node == node);
            assert!(is_there, "{key} is not on {node}: {:?}", found.path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_keys_are_each_there_once_also_after_a_takeover() {
    let mut platform = LocalCluster::start(CLUSTERS).await.unwrap();
    let client = connect(&platform).await;
    let owners = Owners::new();
    let watch = client.watch(PREFIX).await.unwrap();
    let token = watch.resume_token().clone();
    let following = tokio::spawn(follow(watch, "the watch"));

    let began = Instant::now();
    let written = Arc::new(AtomicUsize::new(0));
    let (taken_over, takeover) = oneshot::channel();
    let (counts, ()) = tokio::join!(
        write_all(&client, &owners, &written, takeover),
        take_over(&client, &written, &mut platform, taken_over)
    );
    println!("{KEYS} keys written in {:?}", began.elapsed());
    assert_eq!(counts.iter().sum::<usize>(), KEYS);
    following.await.unwrap();
    // From before the first write, so from the logs.
    let again = client.watch_from(PREFIX, token).await.unwrap();
    follow(again, "the watch from a token").await;

    scan_all(&client).await;
    check_spread(&client, &owners, &counts).await;
    let peak = resident(process::id()).unwrap().peak;
    println!("peak memory of the test: {} MiB", peak >> 20);
    assert!(peak < MAX_MEMORY);
    platform.stop().await.unwrap();
}
