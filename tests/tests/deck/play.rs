//! Injects a fault, and heals it.

use std::{fs, path::Path, rc::Rc, slice, time::Duration};

use rand::rngs::StdRng;
use tierkv::Client;
use tierkv_harness::{Loss, fleet::data::DataCopy, poll_until};
use tierkv_tests::history::{Totals, Workload};

use crate::{
    damage,
    fault::{AWAY, CUT, Cut, Disk, Fault, LONG_CUT, OUTAGE, PAUSE, Side},
    members,
    stage::{PATIENCE, Stage, until_done},
};

/// Done between a recent copy of a disk and its return.
const NEWER: Totals = Totals {
    writes: 500,
    ..Totals::NOTHING
};
/// The size of a disk that will be full.
const SMALL_DISK: u64 = 256 << 20;
/// What is left of it when it is filled: less than a segment of the log.
const LEFT: u64 = 128 << 10;
/// The message of a node whose log has no space: it takes no more writes then.
const FULL: &str = "the log can't grow";
/// The size of the values that fill a disk.
const FILLING_BYTES: usize = 64 << 10;
/// How many of them are written at once.
const FILLERS: usize = 4;
/// Timeout of each: it must not keep the round.
const FILLING_TIME: Duration = Duration::from_secs(3);
/// How long a disk stays full.
const FULL_FOR: Duration = Duration::from_secs(3);

/// Injects the fault and heals it.
pub(crate) async fn play(
    fault: Fault,
    stage: &mut Stage,
    workload: &Workload,
    random: &mut StdRng,
) {
    match fault {
        Fault::Kill(side) => {
            let names = stage.names(side).await;
            kill(stage, &names);
            tokio::time::sleep(AWAY).await;
            restart(stage, &names);
        }
        Fault::Pause(side) => {
            let names = stage.names(side).await;
            for name in &names {
                stage.platform.process(name).unwrap().pause().unwrap();
            }
            tokio::time::sleep(if side == Side::Etcd { OUTAGE } else { PAUSE }).await;
            for name in &names {
                stage.platform.process(name).unwrap().resume().unwrap();
            }
        }
        Fault::KillAll => {
            let names = stage.names(Side::All).await;
            kill(stage, &names);
            restart(stage, &names);
        }
        Fault::Cut(asks, answers, lost) => {
            cut(asks, answers, lost, stage).await;
            let is_long = answers == Side::Etcd;
            tokio::time::sleep(if is_long { LONG_CUT } else { CUT }).await;
            stage.platform.heal().unwrap();
        }
        Fault::HandOver => members::hand_over(stage).await,
        Fault::Replace(side) => {
            for name in stage.names(side).await {
                members::replace(&name, stage).await;
            }
        }
        Fault::Disk(side, Disk::Full) => fill(side, stage).await,
        Fault::Disk(side, disk) => {
            let names = stage.names(side).await;
            for name in &names {
                play_disk(disk, name, stage, workload, random).await;
            }
        }
    }
}

fn kill(stage: &mut Stage, names: &[String]) {
    for name in names {
        stage.platform.process(name).unwrap().kill9().unwrap();
    }
}

fn restart(stage: &mut Stage, names: &[String]) {
    for name in names {
        stage.platform.restart(name).unwrap();
    }
}

/// Cuts the lines between two sides.
async fn cut(asks: Side, answers: Side, cut: Cut, stage: &mut Stage) {
    let asking = stage.names(asks).await;
    let answering = stage.names(answers).await;
    let platform = &mut stage.platform;
    let loss = match cut {
        Cut::Both(loss) => loss,
        Cut::Answers => Loss::Blackhole,
    };
    for one in &asking {
        for other in &answering {
            assert!(platform.connects(one, other).unwrap(), "{one} to {other}");
        }
    }
    for one in &asking {
        for other in &answering {
            platform.cut(other, one, loss).unwrap();
            if cut != Cut::Answers {
                platform.cut(one, other, loss).unwrap();
            }
        }
    }
    // After all of them, as each of these checks takes time.
    for one in &asking {
        for other in &answering {
            assert!(!platform.connects(one, other).unwrap(), "{one} to {other}");
        }
    }
}

/// Injects a fault of a data node's disk.
async fn play_disk(
    disk: Disk,
    node: &str,
    stage: &mut Stage,
    workload: &Workload,
    random: &mut StdRng,
) {
    let dir = stage.platform.data_dir(node).unwrap();
    let damage: fn(&Path, &mut StdRng) -> String = match disk {
        Disk::FlippedLog => damage::flip_log,
        Disk::FlippedStore => damage::flip_store,
        Disk::TruncatedLog => damage::truncate_log,
        Disk::Wiped => |dir: &Path, _: &mut StdRng| {
            fs::remove_dir_all(dir).unwrap();
            format!("{} is removed", dir.display())
        },
        Disk::OldCopy => return put_back(stage.old_copy(node), node, stage).await,
        Disk::RecentCopy => {
            let copy = Rc::new(stage.copy(node));
            until_done(workload, workload.totals(), NEWER).await;
            return put_back(copy, node, stage).await;
        }
        Disk::Full => unreachable!("a node is moved to a small disk first"),
    };
    stage.platform.process(node).unwrap().kill9().unwrap();
    println!("{disk:?}: {}", damage(&dir, random));
    tokio::time::sleep(AWAY).await;
    stage.platform.restart(node).unwrap();
}

/// Replaces a node's disk by an older copy.
async fn put_back(copy: Rc<DataCopy>, node: &str, stage: &mut Stage) {
    stage.platform.process(node).unwrap().kill9().unwrap();
    stage.platform.put_back(node, &copy).unwrap();
    tokio::time::sleep(AWAY).await;
    stage.platform.restart(node).unwrap();
}

/// Moves a node to a small disk, fills that until its log can't grow, makes room, and moves the
/// node back.
async fn fill(side: Side, stage: &mut Stage) {
    // A master that is moved is master no longer. So both of the others are moved, one of which then
    // becomes master.
    let moved = match side {
        Side::Master => stage.names(Side::Replicas).await,
        side => stage.names(side).await,
    };
    for node in &moved {
        kill(stage, slice::from_ref(node));
        stage.platform.move_to_small_disk(node, SMALL_DISK).unwrap();
        restart(stage, slice::from_ref(node));
        stage.in_sync_under_load().await;
    }
    let node = match side {
        Side::Master => another_master(&moved, stage).await,
        _ => moved[0].clone(),
    };
    let earlier = complaints(stage, &node);
    stage.platform.fill_disk(&node, LEFT).unwrap();
    let client = stage.client.clone();
    let is_full = write_much(&client, || complaints(stage, &node) > earlier).await;
    assert!(is_full, "the disk of {node} does not get full");
    tokio::time::sleep(FULL_FOR).await;
    stage.platform.make_room(&node).unwrap();
    stage.platform.process(&node).unwrap().check().unwrap();
    for node in &moved {
        stage.in_sync_under_load().await;
        kill(stage, slice::from_ref(node));
        stage.platform.move_from_small_disk(node).unwrap();
        restart(stage, slice::from_ref(node));
    }
}

/// Kills the master, and starts it again once one of these nodes is master; returns that.
async fn another_master(nodes: &[String], stage: &mut Stage) -> String {
    let before = stage.names(Side::Master).await;
    kill(stage, &before);
    let master = poll_until(PATIENCE, || async {
        let master = stage.names(Side::Master).await.remove(0);
        nodes.contains(&master).then_some(master)
    });
    let master = master.await.expect("another node becomes master");
    restart(stage, &before);
    stage.in_sync_under_load().await;
    master
}

/// How often a node complained of a full disk.
fn complaints(stage: &mut Stage, node: &str) -> usize {
    let log = stage.platform.process(node).unwrap().whole_log().unwrap();
    log.matches(FULL).count()
}

/// Writes large values until `is_enough`; false if it never is.
async fn write_much(client: &Client, mut is_enough: impl FnMut() -> bool) -> bool {
    let client = client
        .in_namespace("filling")
        .unwrap()
        .with_timeout(FILLING_TIME);
    let client = &client;
    let mut number = 0_usize;
    let enough = poll_until(PATIENCE, || {
        let is_enough = is_enough();
        let some = number..number + FILLERS;
        number = some.end;
        async move {
            if is_enough {
                return Some(());
            }
            let value = vec![b'x'; FILLING_BYTES];
            let writes = some.map(|number| client.put(format!("large/{number}"), value.clone()));
            // Those that are refused are what this is about.
            drop(futures::future::join_all(writes).await);
            None
        }
    });
    enough.await.is_some()
}
