//! Nodes that get the whole state of their master, in one process.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use tierkv_rpc::proto::internal::{
    FetchSnapshotRequest, node_snapshots_client::NodeSnapshotsClient, snapshot_part::Kind,
};
use tierkv_types::{Code, ItemKey};
use tokio::time::{Instant, sleep};

use super::{
    members::Members,
    stage::{DEADLINE, key, unhurried_to},
};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// What was written and acknowledged.
type Written = BTreeMap<ItemKey, (u64, String)>;

/// Writes values of so many bytes.
async fn write(members: &Members, written: &mut Written, count: usize, bytes: usize) {
    for _ in 0..count {
        let number = written.len();
        let value = format!("{number}:{}", "x".repeat(bytes));
        let key = key(&format!("key-{number}"));
        let version = members.put(&key, &value).await;
        written.insert(key, (version, value));
    }
}

/// A node that is not the master.
async fn replica(members: &Members) -> &'static str {
    let master = members.master().await;
    NODES.into_iter().find(|name| *name != master).unwrap()
}

fn fetch(node: &str) -> FetchSnapshotRequest {
    FetchSnapshotRequest {
        cluster: "c1".to_owned(),
        node: node.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_was_emptied_is_in_sync_again_while_writes_go_on() {
    let mut members = Members::start(&NODES).await;
    let mut written = Written::new();
    write(&members, &mut written, 200, 1_000).await;
    members.until_in_sync(&NODES).await;
    let joiner = replica(&members).await;
    let old_id = members.inspect(joiner).await.unwrap().log_id;
    members.stop(joiner).await;
    fs::remove_dir_all(members.path(joiner)).unwrap();
    write(&members, &mut written, 100, 1_000).await;
    members.launch(joiner).await;
    write(&members, &mut written, 100, 1_000).await;
    members.until_in_sync(&NODES).await;
    assert_ne!(members.inspect(joiner).await.unwrap().log_id, old_id);
    // It counts for commits again.
    write(&members, &mut written, 20, 10).await;
    members.check(&[joiner], &written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_keeps_what_it_has_until_the_master_sends_a_snapshot() {
    let mut members = Members::start(&NODES).await;
    let mut written = Written::new();
    // More than a connection buffers.
    write(&members, &mut written, 120, 60_000).await;
    members.until_in_sync(&NODES).await;
    let (master, joiner) = (members.master().await, replica(&members).await);
    members.stop(joiner).await;
    fs::remove_dir_all(members.path(joiner)).unwrap();
    write(&members, &mut written, 8, 60_000).await;
    // The only place for a transfer is taken, by one that nobody reads.
    let mut client = NodeSnapshotsClient::new(unhurried_to(&members.nodes[master]));
    let mut stuck = client.fetch(fetch(joiner)).await.unwrap().into_inner();
    let first = stuck.message().await.unwrap().unwrap();
    assert!(matches!(first.kind, Some(Kind::Header(_))));
    members.launch(joiner).await;
    let own_id = members.inspect(joiner).await.unwrap().log_id;
    // It asks and is refused, and its engine runs on over the log that it has.
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        let seen = members.inspect(joiner).await.unwrap();
        assert_eq!(seen.log_id, own_id, "its engine has ended for nothing");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(!members.nodes[joiner].readiness().is_ready());
    // Others go on meanwhile.
    write(&members, &mut written, 4, 1_000).await;
    drop(stuck);
    members.until_in_sync(&NODES).await;
    assert_ne!(members.inspect(joiner).await.unwrap().log_id, own_id);
    members.check(&NODES, &written).await;
}

/// Flips a bit of the store of a node that does not run, in the row with this value.
fn damage(store: &Path, value: &str) {
    let mut bytes = fs::read(store).unwrap();
    let places = bytes.windows(value.len());
    let place = places.into_iter().position(|it| it == value.as_bytes());
    bytes[place.expect("the row is in the store")] ^= 1;
    fs::write(store, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_with_a_damaged_row_hands_over_and_the_node_joins_by_another_ones_snapshot() {
    let mut members = Members::start(&NODES).await;
    let mut written = Written::new();
    write(&members, &mut written, 200, 1_000).await;
    members.until_in_sync(&NODES).await;
    let damaged = replica(&members).await;
    members.stop(damaged).await;
    let store = members.path(damaged).join("store.sqlite");
    damage(&store, "77:xxxxxxxx");
    members.launch(damaged).await;
    members.until_in_sync(&NODES).await;
    let joiner = (NODES.into_iter()).find(|name| *name != damaged).unwrap();
    members.hand_over(damaged).await;
    members.stop(joiner).await;
    fs::remove_dir_all(members.path(joiner)).unwrap();
    assert_eq!(members.master().await, damaged);

    members.launch(joiner).await;
    members.until_in_sync(&NODES).await;
    assert_ne!(members.master().await, damaged);
    members.check(&[joiner], &written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_master_sends_snapshots_and_only_to_its_cluster() {
    let members = Members::start(&NODES).await;
    members.until_in_sync(&NODES).await;
    let (master, other) = (members.master().await, replica(&members).await);
    let ask = async |name: &str, request: FetchSnapshotRequest| {
        let mut client = NodeSnapshotsClient::new(unhurried_to(&members.nodes[name]));
        let refused = client.fetch(request).await.map(|_| ()).unwrap_err();
        tierkv_rpc::proto::status::detail(&refused).unwrap()
    };
    assert_eq!(ask(other, fetch(other)).await.code, Code::NotMaster);
    for unknown in ["n9", master] {
        let refused = ask(master, fetch(unknown)).await;
        assert_eq!(refused.code, Code::InvalidArgument);
        assert!(refused.message.contains("add the node first"), "{refused}");
    }
    let elsewhere = FetchSnapshotRequest {
        cluster: "c2".to_owned(),
        ..fetch(other)
    };
    assert_eq!(ask(master, elsewhere).await.code, Code::NotMaster);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_data_is_set_aside_once_another_log_in_sync_is_there() {
    let mut members = Members::start(&NODES).await;
    let mut written = Written::new();
    write(&members, &mut written, 100, 1_000).await;
    members.until_in_sync(&NODES).await;
    let joiner = replica(&members).await;
    members.stop(joiner).await;
    let store = members.path(joiner).join("store.sqlite");
    fs::write(&store, b"this is no store").unwrap();
    write(&members, &mut written, 50, 1_000).await;
    members.launch(joiner).await;
    write(&members, &mut written, 50, 1_000).await;
    members.until_in_sync(&NODES).await;
    let aside = members.path(joiner).join("store.sqlite.before-rejoin");
    assert_eq!(fs::read(aside).unwrap(), b"this is no store");
    members.check(&[joiner], &written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_data_is_kept_while_no_other_log_in_sync_is_there() {
    let mut members = Members::start(&NODES).await;
    let mut written = Written::new();
    write(&members, &mut written, 50, 1_000).await;
    members.until_in_sync(&NODES).await;
    for name in NODES {
        members.stop(name).await;
    }
    let store = members.path("n1").join("store.sqlite");
    fs::write(&store, b"this is no store").unwrap();
    let starting = members.starting("n1");
    tokio::pin!(starting);
    // It asks for another log at once, and every second from then on.
    let soon = tokio::time::timeout(Duration::from_secs(3), &mut starting).await;
    assert!(soon.is_err(), "it started without another log");
    assert_eq!(fs::read(&store).unwrap(), b"this is no store");
    for name in ["n2", "n3"] {
        members.launch(name).await;
    }
    let started = tokio::time::timeout(DEADLINE, &mut starting).await;
    let started = started.expect("it waits for ever").unwrap();
    members.nodes.insert("n1", started);
    members.until_in_sync(&NODES).await;
    write(&members, &mut written, 20, 1_000).await;
    members.check(&NODES, &written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_the_data_gets_a_new_log_id() {
    let mut members = Members::start(&NODES).await;
    let mut written = Written::new();
    write(&members, &mut written, 30, 1_000).await;
    members.until_in_sync(&NODES).await;
    let joiner = replica(&members).await;
    let old_id = members.inspect(joiner).await.unwrap().log_id;
    members.stop(joiner).await;
    let (data, copy) = (members.path(joiner), members.path("copy"));
    copy_folder(&data, &copy);
    members.launch(joiner).await;
    write(&members, &mut written, 60, 1_000).await;
    members.until_in_sync(&NODES).await;
    members.until_noted(joiner, old_id).await;
    members.stop(joiner).await;
    fs::remove_dir_all(&data).unwrap();
    copy_folder(&copy, &data);
    members.launch(joiner).await;
    members.until_in_sync(&NODES).await;
    assert_ne!(members.inspect(joiner).await.unwrap().log_id, old_id);
    write(&members, &mut written, 20, 1_000).await;
    members.check(&[joiner], &written).await;
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copy = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &copy);
        } else {
            fs::copy(&path, &copy).unwrap();
        }
    }
}
