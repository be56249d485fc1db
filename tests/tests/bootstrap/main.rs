//! The bootstrap of `ops/`: a platform on hosts of its own, a network namespace for each process,
//! is installed, started, used, restarted and stopped from its inventory. Its cluster c1 has three
//! data nodes: users notice no restart, and no loss of its master. The namespaces are those of the
//! operations guide, made by its own commands.
//!
//! The test runs in a user, network and process namespace, where `/run` is its own: whatever
//! happens, all processes and namespaces end with it, and no others are touched.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // Tests may panic, and say why they can't run.

mod script;
mod users;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    io::Write as _,
    path::PathBuf,
    time::Duration,
};

use tierkv::{Client, rpc::proto::v1::ClusterStatus};
use tierkv_harness::{
    DataFolder,
    network::again::{Place, copy_of, cover_run, enter_with},
    poll_until,
};
use tierkv_tests::{
    binary::{self, repository},
    metrics::Page,
};

use self::{
    script::{Bootstrap, admin, make_namespaces},
    users::{Users, Written, connect},
};

/// The namespaces and processes of `ops/trial.toml`.
const PROCESSES: [&str; 9] = [
    "etcd-a", "n1", "n2", "n3", "n4", "s-r1", "s-r2", "cc-u1", "cc-u2",
];
/// The data nodes of c1, among them.
const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Their metrics.
const METRICS: [&str; 3] = ["10.78.0.21:7680", "10.78.0.22:7680", "10.78.0.23:7680"];
const USERS: [&str; 2] = ["10.78.0.41:7400", "10.78.0.42:7400"];
/// Within this, a process that was killed is noticed, and a node that was away is in sync.
const PATIENCE: Duration = Duration::from_secs(30);
/// Writes of each writer that must be done while the platform restarts, and after a loss.
const LEAST_MEANWHILE: u64 = 20;

/// The report of c1.
async fn c1(client: &Client) -> ClusterStatus {
    let report = client.cluster().await.unwrap();
    let found = report.clusters.into_iter().find(|it| it.id == "c1");
    found.expect("the platform has c1")
}

/// Runs the whole life of a platform.
async fn live(bootstrap: &Bootstrap) {
    assert!(bootstrap.done(&["check"]).await.contains("9 processes"));
    bootstrap.done(&["install"]).await;
    let again = bootstrap.done(&["install"]).await;
    assert_eq!(again, "install: nothing to change\n");
    let (status, printed) = bootstrap.run(&["status"]).await;
    assert!(status == 1 && printed.contains("stopped"), "{printed}");

    let started = bootstrap.done(&["start"]).await;
    assert!(started.contains("founded trial with c1, c2"), "{started}");
    let again = bootstrap.done(&["start"]).await;
    assert!(again.starts_with("start: nothing to do"), "{again}");
    let before = bootstrap.pids(&PROCESSES).await;
    let namespaces = before.values().map(|pid| {
        let link = format!("/proc/{pid}/ns/net");
        fs::read_link(link).unwrap()
    });
    let namespaces: BTreeSet<PathBuf> = namespaces.collect();
    assert_eq!(namespaces.len(), PROCESSES.len(), "{namespaces:?}");

    let client = connect(&USERS).await;
    another_build_is_installed(bootstrap).await;
    let mut written = all_is_restarted(bootstrap, &client, &before).await;
    written.extend(the_master_is_lost(bootstrap, &client).await);
    what_is_missing_is_noticed_and_started(bootstrap).await;
    a_cluster_and_a_setting_are_added(bootstrap).await;
    a_node_is_added_and_removed(bootstrap).await;
    read_back(&client, &written).await;

    bootstrap.done(&["stop"]).await;
    let again = bootstrap.done(&["stop"]).await;
    assert_eq!(again, "stop: nothing to do: no process runs\n");
    let states = bootstrap.states().await;
    assert!(states.values().all(|state| state["state"] == "stopped"));
    bootstrap.done(&["start"]).await;
    read_back(&connect(&USERS).await, &written).await;
    bootstrap.done(&["stop"]).await;
}

async fn read_back(client: &Client, written: &[Written]) {
    for it in written {
        it.check(client).await;
    }
}

/// A build with the same version replaces the installed one; processes run as before.
async fn another_build_is_installed(bootstrap: &Bootstrap) {
    let old = binary::tierkv().path.canonicalize().unwrap();
    let new = bootstrap.inventory.with_file_name("another-build");
    fs::copy(&old, &new).unwrap();
    // What follows the sections of a program is not read.
    let mut file = OpenOptions::new().append(true).open(&new).unwrap();
    file.write_all(b"another build").unwrap();
    drop(file);
    bootstrap.change(&old.display().to_string(), &new.display().to_string());
    let installed = bootstrap.done(&["install"]).await;
    let still = installed.matches("still runs as before").count();
    assert_eq!(still, PROCESSES.len() - 1, "{installed}");
    assert_eq!(bootstrap.outdated().await, PROCESSES[1..]);
}

/// Everything is restarted, one process after the other, while users write and read: none of their
/// operations fails. Returns what they wrote.
async fn all_is_restarted(
    bootstrap: &Bootstrap,
    client: &Client,
    before: &BTreeMap<String, u64>,
) -> Vec<Written> {
    let (master, epoch) = {
        let cluster = c1(client).await;
        (cluster.master, cluster.epoch)
    };
    let users = Users::start("restarted", &USERS).await;
    let restarted = bootstrap.done(&["restart"]).await;
    one_after_the_other(&restarted, &master);
    users.get_on(LEAST_MEANWHILE).await;
    let written = users.end("restarted").await;
    assert!(written.iter().all(|it| it.count >= 2 * LEAST_MEANWHILE));
    let after = bootstrap.pids(&PROCESSES).await;
    assert!(before.iter().all(|(name, pid)| after[name] != *pid));
    let programs = after.values().map(|pid| {
        let link = format!("/proc/{pid}/exe");
        fs::read_link(link).unwrap()
    });
    let programs: BTreeSet<PathBuf> = programs.collect();
    assert_eq!(programs.len(), 2, "etcd and one build: {programs:?}");
    // The master was the last one of its cluster, and handed over once.
    let cluster = c1(client).await;
    assert_ne!(cluster.master, master);
    assert_eq!(cluster.epoch, epoch + 1);
    assert_eq!(in_sync(&cluster), BTreeSet::from(NODES));
    read_back(client, &written).await;
    written
}

/// Each process is ready again before the next one stops, a data node in sync; a cluster's master
/// is its last one.
fn one_after_the_other(restarted: &str, master: &str) {
    let (lowest, upper) = (&PROCESSES[..1], &PROCESSES[4..]);
    let replicas = NODES.iter().filter(|node| **node != master);
    let order = lowest.iter().chain(replicas).chain([&master]).chain(upper);
    let expected = order.flat_map(|name| {
        let last = match name.starts_with('n') {
            true => "ready and in sync",
            false => "ready",
        };
        ["stopped", "started", last].map(|step| format!("{name}: {step}"))
    });
    let expected = Vec::from_iter(expected);
    let lines: Vec<&str> = restarted.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{restarted}");
    for (line, step) in lines.into_iter().zip(expected) {
        assert!(line.starts_with(&step), "{line}, not {step}");
    }
}

fn in_sync(cluster: &ClusterStatus) -> BTreeSet<&str> {
    cluster.in_sync.iter().map(String::as_str).collect()
}

/// The process of c1's master is killed: the others go on, no operation of the users fails, and
/// `start` brings the lost one back in sync. Returns what the users wrote.
async fn the_master_is_lost(bootstrap: &Bootstrap, client: &Client) -> Vec<Written> {
    let users = Users::start("master-lost", &USERS).await;
    let lost = c1(client).await.master;
    let before = bootstrap.pids(&PROCESSES).await;
    kill(before[&lost]);
    let succeeded = poll_until(PATIENCE, || async {
        let cluster = c1(client).await;
        (cluster.master != lost && !cluster.in_sync.contains(&lost)).then_some(())
    });
    succeeded.await.expect("another node is master");
    users.get_on(LEAST_MEANWHILE).await;
    shown_by_all_but(&lost, 2.0).await;
    let other = NODES.into_iter().find(|node| *node != lost).unwrap();
    let (status, refused) = bootstrap.run(&["restart", "--process", other]).await;
    assert!(
        status == 2 && refused.contains(&format!("{lost} would have to stand in")),
        "{refused}"
    );
    let started = bootstrap.done(&["start"]).await;
    assert_eq!(started.matches("started").count(), 1, "{started}");
    let is_back = poll_until(PATIENCE, || async {
        (in_sync(&c1(client).await) == BTreeSet::from(NODES)).then_some(())
    });
    is_back.await.expect("the lost node is in sync again");
    shown_by_all_but("", 3.0).await;
    users.get_on(LEAST_MEANWHILE).await;
    let after = bootstrap.pids(&PROCESSES).await;
    for (name, pid) in before {
        assert_eq!(after[&name] != pid, name == lost, "{name}");
    }
    let written = users.end("master-lost").await;
    read_back(client, &written).await;
    written
}

/// The metrics of c1's nodes, but for a lost one, show so many in sync of three, and one master.
async fn shown_by_all_but(lost: &str, in_sync: f64) {
    let shown = poll_until(PATIENCE, || async {
        let mut masters = 0.0;
        for (node, address) in NODES.into_iter().zip(METRICS) {
            if node == lost {
                continue;
            }
            let page = Page::fetch(address).await.ok()?;
            let value = |name: &str| page.sum(name, &[]);
            let is_as_it_should = value("tierkv_cluster_members") == 3.0
                && value("tierkv_cluster_in_sync") == in_sync
                && value("tierkv_cluster_min_in_sync") == 2.0
                && value("tierkv_node_ready") == 1.0;
            is_as_it_should.then_some(())?;
            masters += value("tierkv_node_master");
        }
        (masters == 1.0).then_some(())
    });
    shown
        .await
        .expect("every node shows the state of its cluster");
}

fn kill(pid: u64) {
    let pid = i32::try_from(pid).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Without a coordinator that was killed, the one that it stands in for is not restarted; a restart
/// of both begins with the killed one.
async fn what_is_missing_is_noticed_and_started(bootstrap: &Bootstrap) {
    let before = bootstrap.pids(&PROCESSES).await;
    kill(before["s-r2"]);
    let gone = poll_until(PATIENCE, || async {
        let states = bootstrap.states().await;
        (states["s-r2"]["state"] == "stopped").then_some(())
    });
    gone.await.unwrap();
    let (status, refused) = bootstrap.run(&["restart", "--process", "s-r1"]).await;
    assert!(
        status == 2 && refused.contains("s-r2 would have to stand in"),
        "{refused}"
    );
    let restarted = bootstrap
        .done(&["restart", "--role", "server-coordinator"])
        .await;
    let names = (restarted.lines()).filter_map(|line| Some(line.split_once(": started")?.0));
    assert_eq!(Vec::from_iter(names), ["s-r2", "s-r1"], "{restarted}");
    let after = bootstrap.pids(&PROCESSES).await;
    for (name, pid) in before {
        assert_eq!(after[&name] != pid, name.starts_with("s-"), "{name}");
    }
}

/// The inventory grows by a cluster, and a setting changes.
async fn a_cluster_and_a_setting_are_added(bootstrap: &Bootstrap) {
    bootstrap.change(
        "c2 = [\"n4\"]",
        "c2 = [\"n4\"]\nc3 = [\"n5\"]\n[settings.server-coordinator.limits]\nconnections = 900",
    );
    bootstrap.change(
        "data_nodes = [\"n4\"]",
        "data_nodes = [\"n4\", { name = \"n5\", port = 7601, metrics_port = 7681 }]",
    );
    let installed = bootstrap.done(&["install"]).await;
    assert!(installed.contains("/s-r1.toml"), "{installed}");
    assert!(!installed.contains("/n4.toml"), "{installed}");
    assert_eq!(bootstrap.outdated().await, ["s-r1", "s-r2"]);
    let started = bootstrap.done(&["start"]).await;
    assert!(started.contains("added the cluster c3"), "{started}");
    let restarted = bootstrap
        .done(&["restart", "--role", "server-coordinator"])
        .await;
    assert_eq!(restarted.matches("started").count(), 2, "{restarted}");
    bootstrap.pids(&[&PROCESSES[..], &["n5"]].concat()).await;
}

/// c1 gets a fourth node, and loses it again: the inventory alone changes no members, and `start`
/// names the command that does.
async fn a_node_is_added_and_removed(bootstrap: &Bootstrap) {
    let (old, new) = (
        r#"c1 = ["n1", "n2", "n3"]"#,
        r#"c1 = ["n1", "n2", "n3", "n6"]"#,
    );
    let (old_nodes, new_nodes) = (
        r#"data_nodes = ["n4", "#,
        r#"data_nodes = ["n4", { name = "n6", port = 7602, metrics_port = 7682 }, "#,
    );
    bootstrap.change(old, new);
    bootstrap.change(old_nodes, new_nodes);
    bootstrap.done(&["install"]).await;
    let (status, refused) = bootstrap.run(&["start"]).await;
    let command = "add-node --address HOST:PORT --cluster c1 --node n6 --no-wait";
    assert!(status == 2 && refused.contains(command), "{refused}");
    let n6 = ["--cluster", "c1", "--node", "n6"];
    let add = [&["add-node"][..], &n6, &["--no-wait"]].concat();
    admin(USERS[0], &add).await;
    let started = bootstrap.done(&["start"]).await;
    assert!(started.contains("n6: ready"), "{started}");
    let client = connect(&USERS).await;
    assert!(in_sync(&c1(&client).await).contains("n6"));

    let remove = [&["remove-node"][..], &n6].concat();
    let removed = admin(USERS[0], &remove).await;
    assert!(removed.contains("Left: n1, n2, n3"), "{removed}");
    let gone = poll_until(PATIENCE, || async {
        let states = bootstrap.states().await;
        (states["n6"]["state"] == "stopped").then_some(())
    });
    gone.await.expect("the process of a removed node ends");
    let (status, refused) = bootstrap.run(&["start"]).await;
    assert!(status == 2 && refused.contains(command), "{refused}");
    bootstrap.change(new, old);
    bootstrap.change(new_nodes, old_nodes);
    let nothing = bootstrap.done(&["start"]).await;
    assert!(nothing.starts_with("start: nothing to do"), "{nothing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_is_run_from_its_inventory() {
    let (ops, docs) = (repository().join("ops"), repository().join("docs"));
    let entered = enter_with("a_platform_is_run_from_its_inventory", &[&ops, &docs]).unwrap();
    let _network = match entered {
        Place::Inside(network) => network,
        Place::Done => return,
        Place::Refused(why) => return println!("not checked: {why}"),
    };
    cover_run().unwrap();
    make_namespaces(&copy_of(&docs).unwrap().join("operations.md"));
    let hosts = DataFolder::new("hosts").unwrap();
    let (ops, inventory) = (copy_of(&ops).unwrap(), hosts.path().join("trial.toml"));
    fs::copy(ops.join("trial.toml"), &inventory).unwrap();
    let bootstrap = Bootstrap {
        script: ops.join("tierkv-ops"),
        inventory,
    };
    let binary = binary::tierkv().path.canonicalize().unwrap();
    bootstrap.change(
        "binary = \"../target/release/tierkv\"",
        &format!("binary = \"{}\"\nuser = \"root\"", binary.display()),
    );
    bootstrap.change("/srv/tierkv-trial", hosts.data().to_str().unwrap());
    live(&bootstrap).await;
}
