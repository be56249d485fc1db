//! A master whose disk hangs, without an error, does not keep its cluster from working (REP-STUCK).

use std::collections::BTreeMap;

use tierkv_coordination::{GroupMembership, directory::DATA_NODES};
use tokio::time::{Duration, Instant, sleep};

use super::{
    hanging_disk::HangingDisk,
    members::Members,
    stage::{DEADLINE, key},
};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

#[tokio::test(flavor = "multi_thread")]
async fn another_node_takes_over_from_a_master_whose_disk_hangs() {
    let disks: BTreeMap<_, _> = NODES.map(|name| (name, HangingDisk::default())).into();
    let members = Members::start_on(&NODES, &disks).await;
    let mut written = BTreeMap::new();
    let mut write = async |members: &Members, name: &str| {
        let (key, value) = (key(name), format!("value of {name}"));
        let version = members.put(&key, &value).await;
        written.insert(key, (version, value));
    };
    write(&members, "before").await;
    members.until_in_sync(&NODES).await;
    let stuck = members.master().await;
    let others: Vec<&str> = NODES.into_iter().filter(|name| *name != stuck).collect();

    let hang = disks[stuck].hang();
    for number in 0..5 {
        write(&members, &format!("meanwhile-{number}")).await;
    }
    assert_ne!(members.master().await, stuck);
    members.until_in_sync(&others).await;

    // Its disk works again: it cuts off what nobody else has, and follows.
    drop(hang);
    members.until_in_sync(&NODES).await;
    write(&members, "afterwards").await;
    members.check(&NODES, &written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_a_successor_keeps_its_master() {
    let disks = BTreeMap::from([("n1", HangingDisk::default())]);
    let members = Members::start_on(&["n1"], &disks).await;
    members.until_in_sync(&["n1"]).await;
    let epoch = members.state().await.epoch;
    let hang = disks["n1"].hang();
    let item = key("waits");
    let written = async {
        let waits = sleep(Duration::from_secs(3));
        tokio::pin!(waits);
        let writing = members.put(&item, "value");
        tokio::pin!(writing);
        tokio::select! {
            _ = &mut writing => panic!("it was acknowledged without a disk"),
            () = &mut waits => {}
        }
        drop(hang);
        writing.await
    };
    written.await;
    assert_eq!(members.state().await.epoch, epoch);
    assert_eq!(members.master().await, "n1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_in_progress_is_answered_by_a_master_that_stops_without_a_successor() {
    const PAIR: [&str; 2] = ["n1", "n2"];
    let disks: BTreeMap<_, _> = PAIR.map(|name| (name, HangingDisk::default())).into();
    let mut members = Members::start_on(&PAIR, &disks).await;
    members.until_in_sync(&PAIR).await;
    let master = members.master().await;
    let other = PAIR.into_iter().find(|name| *name != master).unwrap();
    let before = members.inspect(master).await.unwrap().log_index;

    let hang = disks[other].hang();
    let writing = tokio::spawn(members.writing(master, &key("late"), "value"));
    let limit = Instant::now() + DEADLINE;
    while members.inspect(master).await.unwrap().log_index == before {
        assert!(Instant::now() < limit, "nothing is logged");
        sleep(Duration::from_millis(5)).await;
    }
    // It can't hand over to a node whose log lacks a record, gives that up, and leaves.
    let stopping = tokio::spawn(members.nodes.remove(master).unwrap().stop());
    loop {
        let present = members.coordination.list(DATA_NODES).await.unwrap();
        if !present.contains_key(master) {
            break;
        }
        assert!(Instant::now() < limit, "it does not stop");
        sleep(Duration::from_millis(5)).await;
    }
    drop(hang);
    writing.await.unwrap().expect("it waited for the other log");
    stopping.await.unwrap().unwrap();
}
