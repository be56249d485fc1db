//! A platform of many processes on this machine, as `make cluster` runs it, with faults of single
//! processes.

#![allow(clippy::unwrap_used)] // A test may panic: that is how it fails.

use std::{
    collections::BTreeMap,
    process::Output,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tierkv::{Client, Code, Consistency, ReadOptions, Selection};
use tierkv_harness::{LocalCluster, Process, SeparateTiers, TierSetup, poll_until};
use tierkv_tests::{binary, many_processes};

/// Timeout for a state that a platform reaches after a fault.
const PATIENCE: Duration = Duration::from_secs(60);
/// Timeout for the end of all processes.
const END_LIMIT: Duration = Duration::from_secs(15);
/// Enough keys for every cluster to own many.
const KEYS: usize = 200;

async fn connect(platform: &LocalCluster) -> Client {
    many_processes::connect(platform, PATIENCE).await.unwrap()
}

fn key(number: usize) -> String {
    format!("key/{number:04}")
}

/// Writes every key with a value of this `round`.
async fn write_all(client: &Client, round: u32) {
    for number in 0..KEYS {
        let value = format!("{number} in round {round}");
        client.put(key(number), value).await.unwrap();
    }
}

async fn check_all(client: &Client, round: u32) {
    for number in 0..KEYS {
        let latest = ReadOptions {
            consistency: Consistency::Latest,
            ..ReadOptions::default()
        };
        let found = client.get_with(key(number), latest).await.unwrap();
        let expected = format!("{number} in round {round}");
        assert_eq!(found.value.as_deref(), Some(expected.as_bytes()));
    }
    let count = client.count(Selection::prefix("key/")).await.unwrap();
    assert_eq!(count, KEYS as u64);
    let mut scan = client.scan(Selection::prefix("key/"));
    for number in 0..KEYS {
        let item = scan.next().await.unwrap().unwrap();
        assert_eq!(item.key, key(number));
    }
    assert!(scan.next().await.is_none());
}

/// The addresses of all processes, by name.
fn addresses(platform: &LocalCluster) -> BTreeMap<String, BTreeMap<String, String>> {
    (platform.members().iter())
        .map(|member| (member.name.clone(), member.addresses.clone()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_stops_with_all_its_processes_and_goes_on_with_its_data() {
    let mut platform = LocalCluster::start(2).await.unwrap();
    let client = connect(&platform).await;
    write_all(&client, 1).await;
    check_all(&client, 1).await;
    let before = addresses(&platform);
    let began = Instant::now();
    let status = platform.stop().await.unwrap();
    assert!(status.success(), "{}", platform.log_tail());
    assert!(began.elapsed() < END_LIMIT);

    platform.start_again().await.unwrap();
    assert_eq!(addresses(&platform), before, "the ports are kept");
    check_all(&client, 1).await;
    platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn any_process_may_be_killed_and_started_again() {
    let mut platform = LocalCluster::start(2).await.unwrap();
    let client = connect(&platform).await;
    write_all(&client, 0).await;
    for (round, name) in (1..).zip(["cc1", "s1", "s2", "s3", "etcd1", "n1"]) {
        platform.kill9(name).await.unwrap();
        // A single node has no replica: its keys wait for it.
        let is_needed = name == "n1";
        if !is_needed {
            write_all(&client, round).await;
        }
        platform.restart(name).unwrap();
        if is_needed {
            write_all(&client, round).await;
        }
        check_all(&client, round).await;
    }
    platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_all_of_etcd_stops_neither_reads_nor_writes() {
    let mut platform = LocalCluster::start(2).await.unwrap();
    let client = connect(&platform).await;
    write_all(&client, 0).await;
    let etcd = ["etcd1", "etcd2", "etcd3"];
    for name in etcd {
        platform.signal(name, Signal::STOP).unwrap();
    }
    // Longer than any lease.
    let until = Instant::now() + Duration::from_secs(8);
    let hasty = client.with_timeout(Duration::from_secs(2));
    let mut round = 0;
    while Instant::now() < until {
        round += 1;
        write_all(&hasty, round).await;
        check_all(&hasty, round).await;
    }
    for name in etcd {
        platform.signal(name, Signal::CONT).unwrap();
    }
    write_all(&client, round + 1).await;
    check_all(&client, round + 1).await;
    // All are listed again, although their leases ended meanwhile.
    let listed = poll_until(PATIENCE, || async {
        let seen = client.cluster().await.ok()?;
        let all = (
            seen.server_coordinators.len(),
            seen.client_coordinators.len(),
        );
        (all == (3, 2)).then_some(())
    });
    listed.await.expect("the coordinators are listed again");
    platform.stop().await.unwrap();
}

/// `tierkv put` with a timeout of 3 s, through these client coordinators.
async fn put(addresses: &[String], key: &str) -> Output {
    let mut command = tokio::process::Command::new(binary::tierkv().path);
    command.args(["put", key, "value", "--timeout", "3s"]);
    for address in addresses {
        command.args(["--address", address]);
    }
    command.output().await.unwrap()
}

/// With several client coordinators, the second one is tried after half of the time. What the first
/// one answers after that still counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_to_a_cluster_that_is_away_is_refused_for_certain() {
    let mut platform = LocalCluster::start(2).await.unwrap();
    let client = connect(&platform).await;
    write_all(&client, 1).await;
    platform.kill9("n1").await.unwrap();
    let hasty = client.with_timeout(Duration::from_secs(3));
    // A key of the cluster that is away. The first write may be lost with the node's connections.
    let mut lost = None;
    for number in 0..KEYS {
        if hasty.put(key(number), "in round 2").await.is_err() {
            lost = Some(key(number));
            break;
        }
    }
    let lost = lost.expect("the cluster owns some of the keys");
    let addresses = platform.addresses("client-coordinator", "grpc");
    assert_eq!(addresses.len(), 2);
    let noticed = poll_until(PATIENCE, || async {
        let error = hasty.put(&lost, "in round 2").await.unwrap_err();
        (error.code() == Code::Unavailable).then_some(())
    });
    noticed.await.expect("a refusal");
    for addresses in [&addresses[..1], &addresses, &addresses] {
        let refused = put(addresses, &lost).await;
        let words = String::from_utf8_lossy(&refused.stderr).to_string();
        assert_eq!(refused.status.code(), Some(2), "{words}");
        assert!(words.contains("Unavailable"), "{words}");
        assert!(words.to_lowercase().contains("nothing was done"), "{words}");
    }
    platform.restart("n1").unwrap();
    let found = client.get(&lost).await.unwrap();
    let value = found
        .value
        .map(|value| String::from_utf8(value.to_vec()).unwrap());
    assert!(value.is_some_and(|value| value.ends_with("in round 1")));
    platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_of_each_role_is_a_platform() {
    let tiers = SeparateTiers::start(None).await.unwrap();
    let builder = Client::builder().address(tiers.grpc()).timeout(PATIENCE);
    let client = builder.connect().await.unwrap();
    write_all(&client, 1).await;
    check_all(&client, 1).await;
    let report = client.cluster().await.unwrap();
    let mut pids: Vec<u32> = (report.client_coordinators.iter())
        .chain(&report.server_coordinators)
        .map(|coordinator| coordinator.pid)
        .collect();
    let members = report.clusters.iter().flat_map(|cluster| &cluster.members);
    pids.extend(members.map(|member| member.pid));
    assert_eq!(pids, tiers.pids());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_node_of_three_processes_is_killed_and_comes_back_in_sync() {
    let setup = TierSetup {
        data_nodes: 3,
        failover_ms: Some(300),
        ..TierSetup::default()
    };
    let mut tiers = SeparateTiers::start_as(setup).await.unwrap();
    assert_eq!(tiers.data_nodes(), ["n1", "n2", "n3"]);
    let before = tiers.all_in_sync(PATIENCE).await.unwrap();
    let builder = Client::builder().address(tiers.grpc()).timeout(PATIENCE);
    let client = builder.connect().await.unwrap();
    write_all(&client, 1).await;
    tiers.kill9(&before.master).unwrap();
    write_all(&client, 2).await;
    let during = tiers.cluster().await.unwrap();
    assert!(during.epoch > before.epoch && during.master != before.master);
    assert!(!during.in_sync.contains(&before.master), "{during:?}");
    tiers.restart(&before.master).await.unwrap();
    let after = tiers.all_in_sync(PATIENCE).await.unwrap();
    assert!(after.in_sync.contains(&before.master), "{after:?}");
    check_all(&client, 2).await;
}

/// How a process ended that must not start, with its log.
async fn refused(platform: &mut LocalCluster, name: &str) -> String {
    let process = platform.restarted(name).unwrap();
    let ended = process.wait_until("refuse to start", PATIENCE, Process::status);
    assert_eq!(ended.await.unwrap().code(), Some(2));
    process.log_tail()
}

/// Another platform's data node has taken over the address of one of ours.
#[tokio::test(flavor = "multi_thread")]
async fn another_platform_at_the_same_address_answers_nothing() {
    let mut ours = LocalCluster::start(1).await.unwrap();
    let mut theirs = LocalCluster::start(1).await.unwrap();
    let client = connect(&ours).await;
    write_all(&client, 1).await;
    let their_client = connect(&theirs).await;
    their_client.put(key(0), "theirs").await.unwrap();

    let address = ours.member("n1").unwrap().addresses["grpc"].clone();
    ours.kill9("n1").await.unwrap();
    theirs.kill9("n1").await.unwrap();
    theirs
        .restart_with("n1", &[("--listen", &address)])
        .unwrap();
    // It serves its own platform there.
    let found = match their_client.get(key(0)).await {
        Ok(found) => found,
        Err(error) => panic!("{error}: {}", theirs.restarted("n1").unwrap().log_tail()),
    };
    assert_eq!(found.value.as_deref(), Some(&b"theirs"[..]));
    let hasty = client.with_timeout(Duration::from_secs(1));
    for number in 0..3 {
        let latest = ReadOptions {
            consistency: Consistency::Latest,
            ..ReadOptions::default()
        };
        let read = hasty.get_with(key(number), latest).await.unwrap_err();
        assert!(
            matches!(read.code(), Code::Unavailable | Code::DeadlineExceeded),
            "{read}"
        );
        let write = hasty.put(key(number), "lost").await.unwrap_err();
        assert_eq!(write.code(), Code::Unavailable, "{write}");
    }

    // Nor does it start on our data, or with our coordination.
    theirs.kill9("n1").await.unwrap();
    let url = many_processes::coordination_url(&ours).unwrap();
    theirs
        .restart_with("n1", &[("--coordination-url", &url)])
        .unwrap();
    let log = refused(&mut theirs, "n1").await;
    assert!(log.contains("belongs to platform"), "{log}");
    ours.restart("n1").unwrap();
    check_all(&client, 1).await;
    theirs.restart("n1").unwrap();
    let found = their_client.get(key(0)).await.unwrap();
    assert_eq!(found.value.as_deref(), Some(&b"theirs"[..]));
    ours.stop().await.unwrap();
    theirs.stop().await.unwrap();
}
