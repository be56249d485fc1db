//! A cluster of three of which all logs in sync are lost, or whose record in coordination went back: an
//! operator sees what is left, and continues with it, knowingly.

#![allow(clippy::unwrap_used)] // A test may panic: that is how it fails.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tierkv::{Client, Consistency, ReadOptions};
use tierkv_harness::{LocalCluster, poll_until};
use tierkv_tests::{
    many_processes::{all_in_sync, cluster, connect},
    operator::{Ended, admin, admin_of_store},
};

const CLUSTER: &str = "c1";
/// Timeout of an operation.
const LIMIT: Duration = Duration::from_secs(20);
/// Timeout for a state that the cluster reaches.
const PATIENCE: Duration = Duration::from_secs(90);
/// Keys of each kind.
const KEYS: usize = 50;

async fn put_all(client: &Client, prefix: &str) {
    for number in 0..KEYS {
        let key = format!("{prefix}-{number}");
        client.put(key, prefix.to_owned()).await.unwrap();
    }
}

/// How many of these keys are there, as the cluster's master sees it.
async fn found(client: &Client, prefix: &str) -> usize {
    let keys: Vec<String> = (0..KEYS)
        .map(|number| format!("{prefix}-{number}"))
        .collect();
    let latest = ReadOptions {
        consistency: Consistency::Latest,
        ..ReadOptions::default()
    };
    let found = client.batch_get_with(&keys, latest).await.unwrap();
    found.iter().filter(|found| found.value.is_some()).count()
}

async fn recover(platform: &LocalCluster, rest: &[&str]) -> Ended {
    let words = [&["recover", "--cluster", CLUSTER][..], rest].concat();
    admin_of_store(platform, &words).await.unwrap()
}

/// The master, and the replicas.
async fn roles(client: &Client) -> (String, Vec<String>) {
    let seen = cluster(client, CLUSTER).await.unwrap();
    let members = seen.members.into_iter().map(|member| member.node);
    let replicas = members.filter(|node| *node != seen.master).collect();
    (seen.master, replicas)
}

/// Takes one replica out of sync, then the disks of both others. Returns the one that is left, and
/// the others.
async fn lose_logs(platform: &mut LocalCluster, client: &Client) -> (String, [String; 2]) {
    let (master, replicas) = roles(client).await;
    let [left, other] = &replicas[..] else {
        panic!("two replicas");
    };
    platform.kill9(left).await.unwrap();
    put_all(client, "lost").await;
    let shed = poll_until(PATIENCE, || async {
        let seen = cluster(client, CLUSTER).await?;
        (!seen.in_sync.contains(left)).then_some(())
    });
    shed.await.unwrap();
    for lost in [&master, other] {
        platform.kill9(lost).await.unwrap();
        platform.wipe(lost).unwrap();
    }
    platform.restart(left).unwrap();
    (left.clone(), [master.clone(), other.clone()])
}

/// What is shown once the presences of the killed nodes have lapsed: until then they may still be
/// there.
async fn due(platform: &LocalCluster, left: &str) -> Ended {
    let due = poll_until(PATIENCE, || async {
        let shown = recover(platform, &[]).await;
        let advice = format!("--node {left} --accept-loss");
        (shown.code == Some(1) && shown.out.contains(&advice)).then_some(shown)
    });
    match due.await {
        Some(due) => due,
        None => {
            let shown = recover(platform, &[]).await;
            panic!("{shown:?}\n{}", platform.log_of(left));
        }
    }
}

/// The others come back with new disks.
async fn bring_back(platform: &mut LocalCluster, others: &[String]) {
    for lost in others {
        let words = [
            "add-node",
            "--cluster",
            CLUSTER,
            "--node",
            lost,
            "--no-wait",
        ];
        let added = admin(platform, &words).await.unwrap();
        assert_eq!(added.code, Some(0), "{added:?}");
        platform.restart(lost).unwrap();
        let added = admin(platform, &words[..5]).await.unwrap();
        assert_eq!(added.code, Some(0), "{added:?}\n{}", platform.log_of(lost));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_goes_on_with_the_log_that_is_left_once_its_operator_accepts_the_loss() {
    let mut platform = LocalCluster::start_replicated(1, 3).await.unwrap();
    let client = connect(&platform, LIMIT).await.unwrap();
    all_in_sync(&client, CLUSTER, PATIENCE).await.unwrap();
    put_all(&client, "kept").await;
    all_in_sync(&client, CLUSTER, PATIENCE).await.unwrap();

    let healthy = recover(&platform, &["--node", "n1", "--accept-loss"]).await;
    healthy
        .is_refused(2, "there is nothing to recover")
        .unwrap();
    let nowhere = admin_of_store(&platform, &["recover", "--cluster", "c9"]).await;
    let has_it = "the platform has no cluster c9; it has the clusters c1: set --cluster";
    nowhere.unwrap().is_refused(2, has_it).unwrap();

    let (left, others) = lose_logs(&mut platform, &client).await;
    let left = left.as_str();
    let due = due(&platform, left).await;
    let advice = format!("--cluster {CLUSTER} --node {left} --accept-loss");
    assert!(due.out.contains(&advice), "{due:?}");
    assert!(due.out.contains("Nothing was changed"), "{due:?}");
    assert!(
        due.out.contains("are known to have been committed")
            || due.out.contains("only the lost logs had"),
        "{due:?}"
    );
    let silent = recover(&platform, &["--node", &others[0], "--accept-loss"]).await;
    silent.is_refused(2, "start its process first").unwrap();
    let nameless = recover(&platform, &["--accept-loss"]).await;
    nameless
        .is_refused(2, &format!("as in --node {left}"))
        .unwrap();

    let done = recover(&platform, &["--node", left, "--accept-loss"]).await;
    assert_eq!(done.code, Some(0), "{done:?}\n{}", platform.log_of(left));
    assert!(
        done.out.contains(&format!("{left} is the master")),
        "{done:?}"
    );
    assert_eq!(found(&client, "kept").await, KEYS);
    assert_eq!(found(&client, "lost").await, 0);
    put_all(&client, "new").await;

    bring_back(&mut platform, &others).await;
    all_in_sync(&client, CLUSTER, PATIENCE).await.unwrap();
    assert_eq!(found(&client, "new").await, KEYS);
    let again = recover(&platform, &["--node", left, "--accept-loss"]).await;
    again.is_refused(2, "there is nothing to recover").unwrap();
    platform.stop().await.unwrap();
}

const ETCD: [&str; 3] = ["etcd1", "etcd2", "etcd3"];

fn names(platform: &LocalCluster) -> Vec<String> {
    let members = platform.members().iter();
    members.map(|member| member.name.clone()).collect()
}

/// The data directory of a member of etcd.
fn etcd_dir(platform: &LocalCluster, name: &str) -> PathBuf {
    let member = platform.member(name).unwrap();
    PathBuf::from(member.option("--data-dir").unwrap())
}

/// Copies a folder with the owners and rights of its files: etcd runs as another user.
fn copy_folder(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(
        copied.unwrap().success(),
        "{} is not copied",
        from.display()
    );
}

/// Copies the data of etcd, which stands still meanwhile.
async fn back_up(platform: &mut LocalCluster, backup: &Path) {
    for name in ETCD {
        platform.kill9(name).await.unwrap();
    }
    for name in ETCD {
        copy_folder(&etcd_dir(platform, name), &backup.join(name));
        platform.restart(name).unwrap();
    }
}

/// Ends everything, puts the copy of etcd's data back, and starts everything again.
async fn set_back(platform: &mut LocalCluster, backup: &Path) {
    let names = names(platform);
    for name in &names {
        platform.kill9(name).await.unwrap();
    }
    for name in ETCD {
        let dir = etcd_dir(platform, name);
        fs::remove_dir_all(&dir).unwrap();
        copy_folder(&backup.join(name), &dir);
    }
    for name in &names {
        platform.restart(name).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_record_went_back_goes_on_with_every_write_once_its_operator_says_so() {
    let mut platform = LocalCluster::start_replicated(1, 3).await.unwrap();
    let client = connect(&platform, LIMIT).await.unwrap();
    put_all(&client, "kept").await;
    all_in_sync(&client, CLUSTER, PATIENCE).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    back_up(&mut platform, folder.path()).await;

    // The record goes on to later epochs, which the backup does not have.
    let (_, replicas) = roles(&client).await;
    for node in &replicas {
        let handed = poll_until(PATIENCE, || async {
            let words = ["handover", "--cluster", CLUSTER, "--to", node];
            let handed = admin(&platform, &words).await.unwrap();
            (handed.code == Some(0)).then_some(())
        });
        handed.await.unwrap();
    }
    put_all(&client, "later").await;
    all_in_sync(&client, CLUSTER, PATIENCE).await.unwrap();
    set_back(&mut platform, folder.path()).await;

    let due = poll_until(PATIENCE, || async {
        let shown = recover(&platform, &[]).await;
        let is_due = shown.code == Some(1) && shown.out.matches("starting").count() == 3;
        is_due.then_some(shown)
    });
    let Some(due) = due.await else {
        let shown = recover(&platform, &[]).await;
        panic!("{shown:?}\n{}", platform.log_of("n1"));
    };
    assert!(due.out.contains("an old backup"), "{due:?}");
    assert!(due.out.contains("nothing; other changes"), "{due:?}");
    let node = replicas.last().unwrap();
    let done = recover(&platform, &["--node", node, "--accept-loss"]).await;
    assert_eq!(done.code, Some(0), "{done:?}\n{}", platform.log_of(node));
    assert!(
        done.out.contains(&format!("{node} is the master")),
        "{done:?}"
    );

    let client = connect(&platform, LIMIT).await.unwrap();
    assert_eq!(found(&client, "kept").await, KEYS);
    assert_eq!(found(&client, "later").await, KEYS);
    put_all(&client, "new").await;
    all_in_sync(&client, CLUSTER, PATIENCE).await.unwrap();
    platform.stop().await.unwrap();
}
