//! Reads of a cluster of three data nodes: who answers them, how old the answers are, and what a
//! member that stops costs.

#![allow(clippy::unwrap_used)] // A test may panic: that is how it fails.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use rustix::process::Signal;
use tierkv::{Client, Consistency, Found, ReadOptions, Source};
use tierkv_harness::{LocalCluster, poll_until};
use tierkv_tests::many_processes;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);
const NODES: [&str; 3] = ["n1", "n2", "n3"];
const READERS: usize = 8;

async fn start() -> (LocalCluster, Client) {
    let platform = LocalCluster::start_replicated(1, 3).await.unwrap();
    let client = many_processes::connect(&platform, Duration::from_secs(10));
    let client = client.await.unwrap();
    let in_sync = many_processes::all_in_sync(&client, "c1", PATIENCE).await;
    in_sync.unwrap();
    (platform, client)
}

async fn master(client: &Client) -> String {
    let cluster = many_processes::cluster(client, "c1").await.unwrap();
    cluster.master
}

/// The data node that answered, by the path of the read.
fn node(found: &Found) -> String {
    let hop = found.path.iter().find(|hop| hop.tier == "datanode");
    hop.map(|hop| hop.node.clone()).unwrap_or_default()
}

/// Reads keys that nobody has read before, by several readers at once. Returns how many each node
/// answered, and how long the reads took, sorted.
async fn read_new_keys(
    client: &Client,
    name: &str,
    each: usize,
) -> (BTreeMap<String, usize>, Vec<Duration>) {
    let explain = ReadOptions {
        explain: true,
        ..ReadOptions::default()
    };
    let reader = async |reader: usize| {
        let mut answers = Vec::new();
        for n in 0..each {
            let begun = Instant::now();
            let key = format!("{name}-{reader}-{n}");
            let found = client.get_with(key, explain).await.unwrap();
            answers.push((node(&found), begun.elapsed(), found.source));
        }
        answers
    };
    let answers = join_all((0..READERS).map(reader)).await.concat();
    let mut shares = BTreeMap::new();
    let mut took = Vec::new();
    for (node, time, source) in answers {
        assert_ne!(source, Source::Cache, "nobody has read the key before");
        *shares.entry(node).or_default() += 1;
        took.push(time);
    }
    took.sort_unstable();
    (shares, took)
}

fn percent(shares: &BTreeMap<String, usize>) -> BTreeMap<String, usize> {
    let all: usize = shares.values().sum();
    let percent = shares.iter();
    percent
        .map(|(node, count)| (node.clone(), count * 100 / all))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn in_quiet_all_members_answer_and_one_that_stops_delays_few() {
    let (platform, client) = start().await;
    read_new_keys(&client, "warm", 200).await;
    let (shares, took) = read_new_keys(&client, "quiet", 400).await;
    let shares = percent(&shares);
    println!(
        "quiet: shares {shares:?}, p50 {:?}, p99 {:?}",
        took[took.len() / 2],
        took[took.len() * 99 / 100]
    );
    for node in NODES {
        let share = shares.get(node).copied().unwrap_or_default();
        assert!((20..=47).contains(&share), "{shares:?}");
    }
    let master = master(&client).await;
    let replica = NODES.into_iter().find(|node| *node != master).unwrap();
    for (stopped, name) in [(replica, "replica"), (&*master, "master")] {
        platform.signal(stopped, Signal::STOP).unwrap();
        let (shares, took) = read_new_keys(&client, name, 400).await;
        let p99 = took[took.len() * 99 / 100];
        println!(
            "{name} stopped: shares {:?}, p50 {:?}, p99 {p99:?}, longest {:?}",
            percent(&shares),
            took[took.len() / 2],
            took[took.len() - 1]
        );
        platform.signal(stopped, Signal::CONT).unwrap();
        // The aim is 50 ms; this is no speed test.
        assert!(p99 < Duration::from_millis(500), "{p99:?}");
        many_processes::all_in_sync(&client, "c1", PATIENCE)
            .await
            .unwrap();
        let is_back = poll_until(PATIENCE, || async {
            let (shares, _) = read_new_keys(&client, "back", 20).await;
            shares.contains_key(stopped).then_some(())
        });
        assert!(is_back.await.is_some(), "{stopped} gets no reads any more");
    }
}

/// Stops a replica, then the master, for 3 s each.
async fn stop_nodes(platform: &LocalCluster, client: &Client) {
    let pause = Duration::from_secs(3);
    tokio::time::sleep(pause).await;
    let master = master(client).await;
    let replica = NODES.into_iter().find(|node| *node != master).unwrap();
    for stopped in [replica, &*master] {
        platform.signal(stopped, Signal::STOP).unwrap();
        tokio::time::sleep(pause).await;
        platform.signal(stopped, Signal::CONT).unwrap();
        tokio::time::sleep(pause).await;
    }
}

/// Ages are in whole milliseconds.
const SLACK: Duration = Duration::from_millis(1);

/// A writer writes again and again how far it is; what a reader finds was the newest at some moment
/// not longer ago than its age.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_never_older_than_it_says() {
    let (platform, client) = start().await;
    /// When the write of each number was acknowledged.
    type Acknowledged = Arc<Mutex<Vec<Instant>>>;
    let acknowledged = Acknowledged::default();
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = {
        let (client, acknowledged) = (client.clone(), Arc::clone(&acknowledged));
        let is_over = Arc::clone(&is_over);
        tokio::spawn(async move {
            while !is_over.load(Ordering::SeqCst) {
                let number = acknowledged.lock().unwrap().len();
                let put = client.put("clock", number.to_string()).await;
                // Through the failover, too: the same number again is the same truth.
                if put.is_ok() {
                    acknowledged.lock().unwrap().push(Instant::now());
                }
            }
        })
    };
    let reader = async |bound: Duration| {
        let options = ReadOptions {
            max_staleness: Some(bound),
            ..ReadOptions::default()
        };
        let (mut by_source, mut oldest) = (BTreeMap::<String, usize>::new(), Duration::ZERO);
        while !is_over.load(Ordering::SeqCst) {
            let begun = Instant::now();
            let Ok(found) = client.get_with("clock", options).await else {
                continue;
            };
            assert!(found.age <= bound, "{:?} of {bound:?}", found.age);
            oldest = oldest.max(found.age);
            *by_source.entry(format!("{:?}", found.source)).or_default() += 1;
            let Some(value) = found.value else { continue };
            let number: usize = String::from_utf8(value.to_vec()).unwrap().parse().unwrap();
            // The next number was acknowledged at that time, and what was found is older.
            let next = acknowledged.lock().unwrap().get(number + 1).copied();
            let truth = next.map_or(Duration::ZERO, |next| begun.saturating_duration_since(next));
            assert!(
                truth <= found.age + SLACK,
                "{truth:?} old, and it says {:?} ({:?})",
                found.age,
                found.source
            );
        }
        println!("bound {bound:?}: {by_source:?}, oldest {oldest:?}");
        by_source
    };
    let faults = async {
        stop_nodes(&platform, &client).await;
        is_over.store(true, Ordering::SeqCst);
    };
    let bounds = [30, 200, 1_000, 5_000].map(Duration::from_millis);
    let (by_source, ()) = tokio::join!(join_all(bounds.map(reader)), faults);
    writer.await.unwrap();
    let written = acknowledged.lock().unwrap().len();
    println!("{written} writes");
    assert!(written > 100, "{written}");
    let from_replicas = by_source
        .iter()
        .filter_map(|it| it.get("Replica"))
        .sum::<usize>();
    assert!(from_replicas > 0, "{by_source:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_see_their_own_writes_whoever_answers() {
    let (_platform, client) = start().await;
    let session = async |session: usize| {
        let mut sources = BTreeMap::<String, usize>::new();
        let mut took = Vec::new();
        for n in 0..150 {
            let key = format!("session-{session}-{}", n % 5);
            let version = client.put(&key, n.to_string()).await.unwrap();
            let options = ReadOptions {
                consistency: Consistency::Session(version),
                ..ReadOptions::default()
            };
            let begun = Instant::now();
            let found = client.get_with(&key, options).await.unwrap();
            took.push(begun.elapsed());
            assert!(found.version >= version, "{key}");
            assert_eq!(found.value.as_deref(), Some(n.to_string().as_bytes()));
            *sources.entry(format!("{:?}", found.source)).or_default() += 1;
        }
        (sources, took)
    };
    let (sources, took): (Vec<_>, Vec<_>) = join_all((0..READERS).map(session))
        .await
        .into_iter()
        .unzip();
    let mut took = took.concat();
    took.sort_unstable();
    println!(
        "sessions: {sources:?}, p50 {:?}, p99 {:?}",
        took[took.len() / 2],
        took[took.len() * 99 / 100]
    );
    let from_replicas = sources
        .iter()
        .filter_map(|it| it.get("Replica"))
        .sum::<usize>();
    assert!(from_replicas > 0, "{sources:?}");
}
