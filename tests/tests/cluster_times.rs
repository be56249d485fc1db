//! A platform of two clusters whose nodes' wall clocks are an hour apart (CLOCK-STEADY).

#![allow(clippy::unwrap_used)] // A test may panic: that is how it fails.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use tierkv::{Client, Consistency, PutOptions, ReadOptions, Write};
use tierkv_harness::{LocalCluster, Surroundings, WallClock, poll_until};
use tierkv_tests::{binary, http::Request, many_processes, metrics::Page};
use tokio::time::sleep;

const HOUR: i32 = 3_600;
/// Timeout for everything that must happen; long, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// How far the times of clusters that agree may be measured apart.
const NEAR_MS: i64 = 2_000;
const NEAR_SECONDS: f64 = 2.0;
/// The tolerance of an expiry.
const TOLERANCE: Duration = Duration::from_millis(1_500);
/// Where a node stores its platform time.
const TIME_FILE: &str = "platform-time";
/// The pause between two reads of a key.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

async fn connect(platform: &LocalCluster) -> Client {
    let address = &platform.addresses("client-coordinator", "grpc")[0];
    let builder = Client::builder().address(address);
    builder.timeout(PATIENCE).connect().await.unwrap()
}

fn rest(platform: &LocalCluster) -> String {
    platform.addresses("client-coordinator", "rest")[0].clone()
}

/// The clusters, as REST reports them.
async fn report(platform: &LocalCluster) -> Option<Value> {
    let rest = rest(platform);
    let answer = Request::new("GET", "/v1/cluster").send(&rest);
    Some(answer.await.ok()?.json())
}

/// How far the time of each cluster is ahead of the platform's, as REST reports it.
async fn ahead_ms(platform: &LocalCluster) -> Option<[i64; 2]> {
    let report = report(platform).await?;
    let ahead = |number: usize| report["clusters"][number]["time_ahead_ms"].as_i64();
    Some([ahead(0)?, ahead(1)?])
}

/// Waits until the second cluster is so many seconds ahead of the first, whose time is the
/// platform's.
async fn until_ahead(platform: &LocalCluster, seconds: i32) {
    let is_ahead = poll_until(PATIENCE, || async {
        let [first, second] = ahead_ms(platform).await?;
        let is_ahead = first == 0 && (second - i64::from(seconds) * 1_000).abs() < NEAR_MS;
        is_ahead.then_some(())
    });
    if is_ahead.await.is_none() {
        let last = ahead_ms(platform).await;
        panic!("the second cluster is not {seconds} s ahead: {last:?}");
    }
}

/// Waits until the running process of the second cluster's node is its master.
async fn until_served_by(platform: &LocalCluster, name: &str) {
    let pid = platform.pid(name).unwrap();
    let serving = poll_until(PATIENCE, || async {
        let report = report(platform).await?;
        let member = &report["clusters"][1]["members"][0];
        let is_it = member["pid"].as_u64() == Some(pid.into());
        (is_it && member["role"] == "master").then_some(())
    });
    assert!(serving.await.is_some(), "{name} does not serve");
}

/// Stops the second cluster's node, and starts it with a wall clock that is an hour ahead.
async fn restart_an_hour_ahead(platform: &mut LocalCluster, clock: &WallClock, upgraded: bool) {
    clock.set_ahead(HOUR.into()).unwrap();
    platform.kill9("n2").await.unwrap();
    if upgraded {
        // An earlier release left no time, so the node goes on from the wall clock.
        let stored = find(&data_folder(platform, "n2"), TIME_FILE).unwrap();
        fs::remove_file(stored).unwrap();
    }
    let surroundings = clock.in_surroundings(Surroundings::default());
    platform
        .start_like_in("n2", "n2", &[], surroundings)
        .unwrap();
}

/// The data folder of a node.
fn data_folder(platform: &LocalCluster, name: &str) -> PathBuf {
    let node = platform.member(name).unwrap();
    PathBuf::from(node.option("--data-dir").unwrap())
}

/// A file anywhere below a folder.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut entries = fs::read_dir(folder).ok()?.flatten();
    entries.find_map(|entry| {
        let path = entry.path();
        match path.is_dir() {
            true => find(&path, name),
            false => (entry.file_name() == name).then_some(path),
        }
    })
}

/// A gauge of the second cluster's node.
async fn gauge(platform: &LocalCluster, name: &str) -> Option<f64> {
    let metrics = platform.member("n2").ok()?.addresses["metrics"].clone();
    let page = Page::fetch(&metrics).await.ok()?;
    Some(page.sum(name, &[]))
}

/// Waits until the second cluster's node reports that its wall clock is so many seconds ahead of
/// platform time.
async fn until_wall_clock_ahead(platform: &LocalCluster, seconds: i32) {
    let reported = poll_until(PATIENCE, || async {
        let ahead = gauge(platform, "tierkv_wall_clock_ahead_seconds").await?;
        let gap = (ahead - f64::from(seconds)).abs();
        (gap < NEAR_SECONDS).then_some(())
    });
    let is_reported = reported.await.is_some();
    assert!(is_reported, "the wall clock is not {seconds} s ahead");
}

/// A key of each cluster, which its version shows: it is of its cluster's time.
async fn keys_of_both(client: &Client) -> [String; 2] {
    let mut versions = Vec::new();
    for number in 0..40 {
        let key = format!("key {number}");
        let version = client.put(&key, "value").await.unwrap();
        // A version has 16 bits of counter below the milliseconds.
        versions.push((version >> 16, key));
    }
    versions.sort();
    let first = versions.first().unwrap();
    let last = versions.last().unwrap();
    let apart = last.0 - first.0;
    let hour = u64::try_from(HOUR).unwrap() * 1_000;
    assert!(apart > hour * 9 / 10, "all versions are within {apart} ms");
    [first.1.clone(), last.1.clone()]
}

/// Changes a key over REST; returns the entity tag of its new version.
async fn put_over_rest(platform: &LocalCluster, key: &str, name: Option<&str>) -> String {
    let path = format!("/v1/kv/default/{}", key.replace(' ', "%20"));
    let name = name.map(|name| format!("{}-{name}", key.replace(' ', "-")));
    let mut request = Request::new("PUT", &path).body(b"over REST");
    if let Some(name) = &name {
        request = request.header("idempotency-key", name);
    }
    let answer = request.send(&rest(platform)).await.unwrap();
    assert!(answer.status < 300, "{key}, {name:?}: {}", answer.status);
    answer.header("etag").unwrap().to_owned()
}

/// Checks that a key lives as long as it should.
async fn check_life(client: &Client, key: &str, life: Duration) {
    let options = PutOptions {
        ttl: Some(life),
        ..PutOptions::default()
    };
    let sent = Instant::now();
    client.put_with(key, "value", options).await.unwrap();
    let acknowledged = Instant::now();
    for consistency in [Consistency::Cached, Consistency::Latest] {
        let options = ReadOptions {
            consistency,
            ..ReadOptions::default()
        };
        let found = client.get_with(key, options).await.unwrap();
        let is_young = sent.elapsed() + TOLERANCE < life;
        assert!(found.value.is_some() || !is_young, "{key} is gone");
    }
    loop {
        let asked = Instant::now();
        let found = client.get(key).await.unwrap();
        if found.value.is_none() {
            let most = sent.elapsed();
            assert!(most + TOLERANCE >= life, "{key} lived for at most {most:?}");
            return;
        }
        let lived = asked.saturating_duration_since(acknowledged);
        assert!(lived <= life + TOLERANCE, "{key} lives after {lived:?}");
        sleep(POLL_INTERVAL).await;
    }
}

/// Checks that status, metrics and log show an operator that the second cluster is ahead.
async fn check_reports(platform: &mut LocalCluster) {
    let status = Command::new(binary::tierkv().path)
        .args(["status", "--address"])
        .arg(&platform.addresses("client-coordinator", "grpc")[0])
        .output()
        .unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("s ahead of the platform's"), "{status}");
    let shown = poll_until(PATIENCE, || async {
        let ahead = gauge(platform, "tierkv_cluster_time_ahead_seconds").await?;
        (ahead > 3_500.0).then_some(())
    });
    assert!(shown.await.is_some(), "the metrics do not show it");
    let log = platform.restarted("n2").unwrap().log_tail();
    assert!(log.contains("is ahead of the platform's"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_an_hour_apart_serve_and_are_shown() {
    let clock = WallClock::new().unwrap();
    let mut platform = LocalCluster::start(2).await.unwrap();
    let client = connect(&platform).await;
    // So many keys that both clusters are written to, which ends the steps of their times.
    for number in 0..40 {
        client.put(format!("first {number}"), "").await.unwrap();
    }
    until_ahead(&platform, 0).await;
    // It stores the time soon after its first write. Otherwise nothing would be removed below.
    let data = data_folder(&platform, "n2");
    let stored = poll_until(PATIENCE, || async { find(&data, TIME_FILE) });
    assert!(stored.await.is_some(), "the node stores no time");
    restart_an_hour_ahead(&mut platform, &clock, true).await;
    until_served_by(&platform, "n2").await;
    until_ahead(&platform, HOUR).await;

    // Through the SDK: single writes that alternate, batches, and repeated ones by an old client.
    let keys = keys_of_both(&client).await;
    for number in 0..50 {
        for key in &keys {
            client.put(key, format!("{number}")).await.unwrap();
        }
    }
    for key in &keys {
        client.increment(format!("{key}:n"), 2).await.unwrap();
        client.write(Write::new().put(key, "2")).await.unwrap();
        assert_eq!(
            client.get(key).await.unwrap().value.as_deref(),
            Some(&b"2"[..])
        );
    }
    // Over REST, without an idempotency key, and twice with the same one.
    for key in &keys {
        let first = put_over_rest(&platform, key, None).await;
        let [named, repeated] = [
            put_over_rest(&platform, key, Some("once")).await,
            put_over_rest(&platform, key, Some("once")).await,
        ];
        assert!(named != first && named == repeated, "{named}, {repeated}");
    }
    let life = Duration::from_secs(4);
    tokio::join!(
        check_life(&client, &keys[0], life),
        check_life(&client, &keys[1], life),
    );

    check_reports(&mut platform).await;

    // It is drawn to the platform's time, by a hundredth.
    let [_, before] = ahead_ms(&platform).await.unwrap();
    let began = Instant::now();
    let closer = poll_until(PATIENCE, || async {
        let [_, now] = ahead_ms(&platform).await?;
        (before - now > 100).then_some(before - now)
    });
    let closer = closer.await.expect("the clusters do not come closer");
    let most = i64::try_from(began.elapsed().as_millis()).unwrap() / 100 + 200;
    assert!(closer <= most, "it came {closer} ms closer at once");
    platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_writes_takes_the_time_of_the_others() {
    let clock = WallClock::new().unwrap();
    let mut platform = LocalCluster::start(2).await.unwrap();
    restart_an_hour_ahead(&mut platform, &clock, false).await;
    until_served_by(&platform, "n2").await;
    // The new process has left its wall clock, and not before it heard of the first cluster.
    until_wall_clock_ahead(&platform, HOUR).await;
    until_ahead(&platform, 0).await;
    let client = connect(&platform).await;
    for number in 0..40 {
        client.put(format!("key {number}"), "").await.unwrap();
    }
    until_ahead(&platform, 0).await;
    // Its time does not follow its wall clock any more.
    clock.set_ahead((2 * HOUR).into()).unwrap();
    until_wall_clock_ahead(&platform, 2 * HOUR).await;
    until_ahead(&platform, 0).await;
    platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_added_later_begins_with_the_time_of_the_others() {
    let clock = WallClock::new().unwrap();
    clock.set_ahead(HOUR.into()).unwrap();
    let mut platform = LocalCluster::start(2).await.unwrap();
    let client = connect(&platform).await;
    for number in 0..40 {
        client.put(format!("key {number}"), "").await.unwrap();
    }
    let added = Command::new(binary::tierkv().path)
        .args(["admin", "add-cluster", "c3=n3", "--coordination-url"])
        .arg(many_processes::coordination_url(&platform).unwrap())
        .output()
        .unwrap();
    assert!(added.status.success(), "{added:?}");
    let options = [
        ("--node", "n3"),
        ("--cluster", "c3"),
        ("--listen", "127.0.0.1:0"),
        ("--metrics-listen", "127.0.0.1:0"),
    ];
    let surroundings = clock.in_surroundings(Surroundings::default());
    platform
        .start_like_in("n3", "n1", &options, surroundings)
        .unwrap();
    // Only answers of this node show its time.
    let agrees = poll_until(PATIENCE, || async {
        let report = report(&platform).await?;
        let ahead = report["clusters"][2]["time_ahead_ms"].as_i64()?;
        (ahead.abs() < NEAR_MS).then_some(())
    });
    if agrees.await.is_none() {
        let last = report(&platform).await;
        panic!("the added cluster has another time: {last:?}");
    }
    // The clusters that are written to kept theirs.
    until_ahead(&platform, 0).await;
    // The platform was not started with it, and does not stop it.
    platform.kill9("n3").await.unwrap();
    platform.stop().await.unwrap();
}
