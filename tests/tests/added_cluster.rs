//! A cluster that is added to a running platform: nothing waits for it while it owns no slots.

#![allow(clippy::unwrap_used)] // A test may panic: that is how it fails.

use std::{
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tierkv::{Client, Consistency, ReadOptions, Selection, Watch};
use tierkv_harness::{LocalCluster, poll_until};
use tierkv_tests::{binary, history::Workload, many_processes};
use tokio::time::timeout;

/// Timeout for a state that a platform reaches.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than a cluster may be silent (`reads.max_staleness_ms`) and than a server coordinator
/// waits for the master of a watch.
const SILENCE: Duration = Duration::from_secs(12);
/// Enough keys for every cluster to own many.
const KEYS: usize = 50;
/// Additions that are killed, each at another moment.
const INTERRUPTIONS: u32 = 8;
/// How much later each of them is killed than the one before.
const LATER: Duration = Duration::from_millis(7);

async fn connect(platform: &LocalCluster) -> Client {
    let timeout = Duration::from_secs(10);
    many_processes::connect(platform, timeout).await.unwrap()
}

fn coordination_url(platform: &LocalCluster) -> String {
    many_processes::coordination_url(platform).unwrap()
}

fn add_cluster(url: &str, cluster: &str) -> Command {
    let mut command = Command::new(binary::tierkv().path);
    command.args(["admin", "add-cluster", cluster, "--coordination-url", url]);
    command
}

/// The words of a refusal.
fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

async fn status(platform: &LocalCluster, arguments: &[&str]) -> String {
    let address = platform.member("cc1").unwrap().addresses["grpc"].clone();
    let output = tokio::process::Command::new(binary::tierkv().path)
        .arg("status")
        .args(arguments)
        .env("TIERKV_ADDRESS", address)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The cluster in the JSON of `tierkv status`.
async fn cluster(platform: &LocalCluster, id: &str) -> Option<Value> {
    let report: Value = serde_json::from_str(&status(platform, &["-o", "json"]).await).unwrap();
    let clusters = report["clusters"].as_array().unwrap();
    clusters.iter().find(|cluster| cluster["id"] == id).cloned()
}

/// Waits until the coordinators see the cluster, and checks how it is shown.
async fn is_shown_without_slots(platform: &LocalCluster, id: &str) {
    let shown = poll_until(PATIENCE, || cluster(platform, id)).await;
    let shown = shown.expect("the cluster is shown");
    assert_eq!(shown["slots"], 0, "{shown}");
    assert!(shown["note"].as_str().unwrap().contains("owns no slots"));
    let table = status(platform, &[]).await;
    let row = table
        .lines()
        .find(|line| line.contains(&format!("cluster {id}")));
    assert!(row.unwrap().contains("owns no slots"), "{table}");
    for other in ["c1", "c2"] {
        let other = cluster(platform, other).await.unwrap();
        assert!(other["slots"].as_u64() > Some(1_000) && other.get("note").is_none());
    }
}

/// Writes, reads, scans and counts all keys, and finds the changes in the watch.
async fn use_all(client: &Client, watch: &mut Watch, round: usize) {
    let key = |number: usize| format!("key/{number:04}");
    let value = format!("round {round}");
    for number in 0..KEYS {
        client.put(key(number), value.clone()).await.unwrap();
    }
    let latest = ReadOptions {
        consistency: Consistency::Latest,
        ..ReadOptions::default()
    };
    for number in 0..KEYS {
        let found = client.get_with(key(number), latest).await.unwrap();
        assert_eq!(found.value.as_deref(), Some(value.as_bytes()));
        assert!(client.get(key(number)).await.unwrap().value.is_some());
    }
    let count = client.count(Selection::prefix("key/")).await.unwrap();
    assert_eq!(count, KEYS as u64);
    let mut scan = client.scan(Selection::prefix("key/"));
    for number in 0..KEYS {
        assert_eq!(scan.next().await.unwrap().unwrap().key, key(number));
    }
    assert!(scan.next().await.is_none());
    let mut changed: Vec<_> = Vec::new();
    for _ in 0..KEYS {
        let event = timeout(PATIENCE, watch.next())
            .await
            .expect("the watch goes on");
        changed.push(event.unwrap().unwrap().key);
    }
    changed.sort_unstable();
    let all: Vec<_> = (0..KEYS).map(key).collect();
    assert_eq!(changed, all, "each change once");
}

/// A new watch.
async fn watch(client: &Client) -> Watch {
    let opened = timeout(PATIENCE, client.watch("key/")).await;
    opened.expect("a watch waits for no other cluster").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_on_while_a_cluster_without_slots_is_added_silent_or_dead() {
    let mut platform = LocalCluster::start(2).await.unwrap();
    let client = connect(&platform).await;
    let url = coordination_url(&platform);
    let mut early = watch(&client).await;
    let workload = Workload::start(std::slice::from_ref(&client), 4, 1);
    use_all(&client, &mut early, 0).await;

    // Added, and its node does not run yet.
    let added = add_cluster(&url, "c3=n3").args(["-o", "json"]).output();
    let added = added.unwrap();
    assert!(added.status.success(), "{added:?}");
    let printed: Value = serde_json::from_slice(&added.stdout).unwrap();
    assert_eq!(
        (&printed["cluster"], &printed["slots"]),
        (&"c3".into(), &0.into())
    );
    is_shown_without_slots(&platform, "c3").await;
    use_all(&client, &mut early, 1).await;
    // Silent for longer than any wait for it.
    tokio::time::sleep(SILENCE).await;
    use_all(&client, &mut early, 2).await;
    let mut later = watch(&client).await;
    use_all(&client, &mut later, 3).await;

    // Its node runs, and dies.
    let doors = [
        ("--listen", "127.0.0.1:0"),
        ("--metrics-listen", "127.0.0.1:0"),
    ];
    let names = [("--node", "n3"), ("--cluster", "c3")];
    platform
        .start_like("n3", "n1", &[&names[..], &doors].concat())
        .unwrap();
    let founded = poll_until(PATIENCE, || async {
        let shown = cluster(&platform, "c3").await?;
        let member = &shown["members"][0];
        let serves = shown["master"] == "n3" && member["role"] == "master";
        serves.then_some(())
    });
    founded.await.expect("its node is master");
    is_shown_without_slots(&platform, "c3").await;
    use_all(&client, &mut later, 4).await;
    platform.kill9("n3").await.unwrap();
    use_all(&client, &mut later, 5).await;
    let mut last = watch(&client).await;
    use_all(&client, &mut last, 6).await;

    let history = workload.end(&client).await.unwrap();
    history.check().unwrap();
    assert!(history.failures().is_empty(), "{:?}", history.failures());
    // The watch from before all of this missed nothing: rounds 3 to 6 are still to come.
    for _ in 3 * KEYS..7 * KEYS {
        let event = timeout(PATIENCE, early.next()).await;
        event.expect("the first watch goes on").unwrap().unwrap();
    }
    platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_t_be_added_is_refused_and_what_was_interrupted_is_completed() {
    let mut platform = LocalCluster::start(2).await.unwrap();
    let url = coordination_url(&platform);
    let add = |cluster: &str| add_cluster(&url, cluster).output().unwrap();
    assert!(add("c3=n3").status.success());
    for (cluster, words) in [
        ("c3=n3", "the platform has a cluster c3 already"),
        ("c1=n9", "the platform has a cluster c1 already"),
        ("c4=n1", "the node n1 belongs to cluster c1"),
        ("c4=n3", "the node n3 belongs to cluster c3"),
        ("c4=n4,n1", "the node n1 belongs to cluster c1"),
        ("c4=n4,n4", "the node n4 is named twice"),
        ("c4=a,b,c,d,e,f,g,h,i,j", "the limit max_members is 9"),
        ("c4", "write it as CLUSTER=NODE"),
    ] {
        let refusal = refused(&add(cluster));
        assert!(refusal.contains(words), "{cluster}: {refusal}");
    }
    let (store, _) = url.rsplit_once('/').unwrap();
    let nowhere = add_cluster(&format!("{store}/nowhere"), "c4=n4").output();
    let refusal = refused(&nowhere.unwrap());
    assert!(refusal.contains("tierkv admin init"), "{refusal}");

    for number in 0..INTERRUPTIONS {
        let cluster = format!("d{number}=m{number}");
        let mut command = add_cluster(&url, &cluster);
        let mut interrupted = command.stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(LATER * number);
        interrupted.kill().unwrap();
        interrupted.wait().unwrap();
        let again = add(&cluster);
        if !again.status.success() {
            let refusal = refused(&again);
            assert!(refusal.contains("already"), "it was complete: {refusal}");
        }
        is_shown_without_slots(&platform, &format!("d{number}")).await;
    }
    platform.stop().await.unwrap();
}
