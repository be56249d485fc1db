//! Tests of one data node over a real disk, through the interface of server coordinators.

#![allow(clippy::unwrap_used)] // A test may panic: that is how it fails.

mod failures;
mod faulty_cache;
mod hanging_disk;
mod heartbeats;
mod hung_disks;
mod members;
mod replicas;
mod scans;
mod snapshots;
mod stage;
mod watches;
mod writes;

use std::{path::Path, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;
use tierkv_cache::Cache;
use tierkv_coordination::{
    ConfigStore, GroupMembership, MemoryCoordination,
    directory::{DATA_NODES, PLACEMENT, Presence},
};
use tierkv_protocol::placement::PlacementMap;
use tierkv_rpc::proto::internal::{Read, request};
use tierkv_storage::StorageSettings;
use tierkv_types::{ClusterId, Code, ItemKey, OperationKind};
use tokio::time::{Instant, sleep, timeout};

use stage::*;

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_read_back_and_outlive_the_node() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let first = stage.put(&key("a"), "one").await;
    let second = stage.put(&key("a"), "two").await;
    assert!(second > first, "I5");
    let epoch = stage.vouch("c1").await.unwrap().epoch;
    stage.stop().await;

    let stage = Stage::ready(dir.path()).await;
    let read = stage.read(&key("a")).await.unwrap();
    assert_eq!(
        (read.found, &read.value[..], read.version),
        (true, &b"two"[..], second)
    );
    assert!(
        stage.put(&key("a"), "three").await > second,
        "I5 over a restart"
    );
    assert!(
        stage.vouch("c1").await.unwrap().epoch > epoch,
        "REP-START: a new term"
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lapsed_presence_is_back_soon_and_the_master_stays_in_office() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let epoch = stage.vouch("c1").await.unwrap().epoch;
    let mut members = stage.coordination.observe(DATA_NODES).await.unwrap();
    let listed = members.current();
    assert!(listed.contains_key("n1"));
    for _ in 0..3 {
        assert!(stage.coordination.expire(DATA_NODES, "n1"));
        let version = stage.put(&key("a"), "value").await;
        assert_eq!(stage.read(&key("a")).await.unwrap().version, version);
        let again = members.wait_for(|members| *members == *listed);
        timeout(DEADLINE, again).await.unwrap().unwrap();
    }
    assert_eq!(stage.vouch("c1").await.unwrap().epoch, epoch);
    let coordination = stage.coordination.clone();
    stage.stop().await;
    assert!(coordination.list(DATA_NODES).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_serves_while_its_name_is_held_and_fails_if_it_stays_so() {
    let dir = TempDir::new().unwrap();
    let coordination = MemoryCoordination::open(&dir.path().join("coordination")).unwrap();
    let map = PlacementMap::initial(vec![cluster("c1")]).unwrap();
    let founded = coordination.put_if_absent(PLACEMENT, map.encode()).await;
    assert!(founded.unwrap().won().is_some());
    let other = Presence {
        pid: 7,
        ..Presence::of_this_process("127.0.0.1:1".to_owned())
    };
    let held = coordination.join(DATA_NODES, "n1", other.encode());
    let held = held.await.unwrap();
    let stage = Stage::on(coordination, StorageSettings::new(dir.path().join("n1"))).await;
    stage.until_master().await;
    stage.put(&key("a"), "value").await;
    let why = timeout(DEADLINE, stage.node.failed()).await.unwrap();
    assert!(why.contains("'n1'") && why.contains("pid 7"), "{why}");
    stage.stop().await;
    held.leave().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_keys_leave_the_cache_before_the_answer() {
    use tierkv_cache::{CacheKey, Fill, State};
    use tierkv_protocol::cache::{Entry, ValueEntry};
    use tierkv_types::Version;

    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let item = key("a");
    let cache_key = CacheKey {
        item: item.as_bytes(),
        slot_revision: 1,
    };
    let cluster = ClusterId::new("c1").unwrap();
    let mut found = Vec::new();
    stage.cache.lookup(&cluster, &[cache_key], &mut found).await;
    let State::Leased(lease) = found.pop().unwrap().state else {
        panic!("a lease was due")
    };
    let entry = Entry::Value(ValueEntry {
        version: Version::from_millis(1),
        expires: None,
        filled: Version::from_millis(u64::MAX >> 17),
        value: Bytes::from_static(b"old"),
    });
    assert_eq!(
        stage.cache.fill(cache_key, lease, entry).await,
        Fill::Stored
    );
    stage.put(&item, "new").await;
    stage.cache.lookup(&cluster, &[cache_key], &mut found).await;
    assert!(
        matches!(found.pop().unwrap().state, State::Leased(_)),
        "the entry is still there"
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_no_slot_of_another_cluster_and_nobody_who_knows_better() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::start(dir.path(), &["c1", "c2"]).await;
    stage.until_master().await;
    assert_eq!(stage.vouch("c2").await.unwrap_err().code, Code::NotMaster);
    let map = PlacementMap::initial(vec![cluster("c1"), cluster("c2")]).unwrap();
    let ours = |item: &ItemKey| map.owner(item.slot()).0.as_str() == "c1";
    let of = |mine| {
        (0..)
            .map(|n| key(&n.to_string()))
            .find(|item| ours(item) == mine)
            .unwrap()
    };
    let (own, foreign) = (of(true), of(false));
    assert!(stage.read(&own).await.is_ok());
    assert_eq!(
        stage.read(&foreign).await.unwrap_err().code,
        Code::WrongOwner
    );
    let refused = stage
        .change(&foreign, OperationKind::Delete)
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::WrongOwner);
    let newer = Read {
        item_key: own.into(),
        placement_version: 2,
        ..Read::default()
    };
    let refused = stage.call(request::Kind::Read(newer)).await.unwrap_err();
    assert_eq!(refused.code, Code::WrongOwner);
    stage.stop().await;
}

/// Starts a node that must halt, and returns its reason.
async fn gives_up(dir: &Path) -> String {
    let stage = Stage::start(dir, &["c1"]).await;
    timeout(DEADLINE, stage.node.failed())
        .await
        .expect("the node went on")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_log_is_not_the_one_listed_gives_up_in_words() {
    let dir = TempDir::new().unwrap();
    Stage::ready(dir.path()).await.stop().await;
    std::fs::remove_dir_all(dir.path().join("n1")).unwrap();
    let why = gives_up(dir.path()).await;
    assert!(
        why.contains("lists no log") && why.contains("bring the right one back"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_saw_more_than_coordination_knows_gives_up_in_words() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let Stage {
        node,
        coordination,
        cache,
        connection,
        ..
    } = stage;
    drop((cache, connection));
    node.stop().await.unwrap();
    drop(coordination);
    std::fs::remove_dir_all(dir.path().join("coordination")).unwrap();
    let why = gives_up(dir.path()).await;
    assert!(
        why.contains("wiped") && why.contains("bring it back"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_hidden_at_once_and_reclaimed_through_the_log() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let (short, long) = (key("short"), key("long"));
    let ttl = Duration::from_millis(400);
    let written = stage
        .write(&short, put("x", Some(ttl)), request_id(0))
        .await;
    let version = written.unwrap().version;
    let hour = Some(Duration::from_secs(3_600));
    stage
        .write(&long, put("y", hour), request_id(0))
        .await
        .unwrap();
    let read = stage.read(&short).await.unwrap();
    assert_eq!(read.expires >> 16, (version >> 16) + 400);
    let deadline = Instant::now() + DEADLINE;
    let mut before = read;
    loop {
        let read = stage.read(&short).await.unwrap();
        assert_eq!(
            read.found,
            read.clock < before.expires,
            "it expires by the cluster clock"
        );
        if !read.found {
            break;
        }
        assert!(Instant::now() < deadline, "it did not expire");
        before = read;
        sleep(Duration::from_millis(20)).await;
    }
    // A deletion finds no key, although it is still in the log and the store.
    let absent = stage.change(&short, OperationKind::Delete).await.unwrap();
    assert_eq!(existed(&absent), [false]);
    stage
        .write(&short, put("z", Some(ttl)), request_id(0))
        .await
        .unwrap();
    // The master's own record raises the version up to which absence is known.
    loop {
        let read = stage.read(&short).await.unwrap();
        if !read.found && read.version > before.expires && stage.log_index().await > 5 {
            break;
        }
        assert!(Instant::now() < deadline, "it was not reclaimed");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(stage.read(&long).await.unwrap().found);
    stage.stop().await;

    let stage = Stage::ready(dir.path()).await;
    assert!(!stage.read(&short).await.unwrap().found);
    let read = stage.read(&long).await.unwrap();
    assert!(read.found && read.expires > 0);
    stage.stop().await;
}
