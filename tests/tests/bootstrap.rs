//! The bootstrap of `ops/`: a platform on hosts of its own, a network namespace for each process,
//! is installed, started, used, restarted and stopped from its inventory. The namespaces are those
//! of the operations guide, made by its own commands.
//!
//! The test runs in a user, network and process namespace, where `/run` is its own: whatever
//! happens, all processes and namespaces end with it, and no others are touched.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // Tests may panic, and say why they can't run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tierkv::Client;
use tierkv_harness::{
    DataFolder,
    network::again::{Place, copy_of, cover_run, enter_with},
    poll_until,
};
use tierkv_tests::binary::{self, repository};
use tokio::task::{JoinHandle, spawn_blocking};

/// The namespaces and processes of `ops/trial.toml`.
const PROCESSES: [&str; 7] = ["etcd-a", "n1", "n2", "s-r1", "s-r2", "cc-u1", "cc-u2"];
const USERS: [&str; 2] = ["10.78.0.41:7400", "10.78.0.42:7400"];
/// Debian's programs only: what is in the folders of a user may not be readable.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Timeout of an operation: longer than the restart of a process.
const PATIENCE: Duration = Duration::from_secs(30);
/// Keys before the restart.
const KEYS: usize = 200;
/// Writes that must be done while the platform restarts.
const LEAST_MEANWHILE: usize = 50;

/// The platform of an inventory.
struct Bootstrap {
    script: PathBuf,
    inventory: PathBuf,
}

impl Bootstrap {
    /// Runs `tierkv-ops`; returns its exit status and all that it printed.
    async fn run(&self, words: &[&str]) -> (i32, String) {
        let mut command = Command::new("python3");
        command.env_clear().env("PATH", PATH).arg(&self.script);
        command.arg(words[0]).arg(&self.inventory).args(&words[1..]);
        let output = spawn_blocking(move || command.output().unwrap()).await;
        let Output {
            status,
            stdout,
            stderr,
        } = output.unwrap();
        let printed = [stdout, stderr].concat();
        let printed = String::from_utf8(printed).unwrap();
        println!("$ tierkv-ops {}\n{printed}", words.join(" "));
        (status.code().unwrap(), printed)
    }

    /// As [`Self::run`], for a command that succeeds.
    async fn done(&self, words: &[&str]) -> String {
        let (status, printed) = self.run(words).await;
        assert_eq!(status, 0, "{words:?}: {printed}");
        printed
    }

    /// What `status` reports of each process, from the lowest tier up.
    async fn report(&self) -> Vec<Value> {
        let (_, printed) = self.run(&["status", "--output", "json"]).await;
        let mut report: Value = serde_json::from_str(&printed).unwrap();
        serde_json::from_value(report["processes"].take()).unwrap()
    }

    /// By process: what `status` reports.
    async fn states(&self) -> BTreeMap<String, Value> {
        let processes = self.report().await;
        processes.into_iter().map(|it| (name_of(&it), it)).collect()
    }

    /// By process: its id; all run, are ready and up to date.
    async fn pids(&self, names: &[&str]) -> BTreeMap<String, u64> {
        let states = self.states().await;
        let found: Vec<&str> = states.keys().map(String::as_str).collect();
        let expected: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(found, Vec::from_iter(expected));
        let pids = states.into_iter().map(|(name, state)| {
            assert_eq!(state["state"], "running", "{state}");
            assert_eq!(state["ready"], true, "{state}");
            assert_eq!(state["outdated"], false, "{state}");
            (name, state["pid"].as_u64().unwrap())
        });
        pids.collect()
    }

    /// The processes that run an earlier build or configuration.
    async fn outdated(&self) -> Vec<String> {
        let processes = self.report().await.into_iter();
        let outdated = processes.filter(|it| it["outdated"] == true);
        outdated.map(|it| name_of(&it)).collect()
    }

    /// Replaces a part of the inventory.
    fn change(&self, old: &str, new: &str) {
        let text = fs::read_to_string(&self.inventory).unwrap();
        assert!(text.contains(old), "no {old} in {text}");
        fs::write(&self.inventory, text.replacen(old, new, 1)).unwrap();
    }
}

fn name_of(process: &Value) -> String {
    process["name"].as_str().unwrap().to_owned()
}

/// Runs the commands of the operations guide that make the namespaces.
fn make_namespaces(guide: &Path) {
    let text = fs::read_to_string(guide).unwrap();
    let mut blocks = text.split("```sh\n").skip(1);
    let block = blocks.find_map(|rest| {
        let (block, _) = rest.split_once("```")?;
        block.contains("ip netns add").then_some(block)
    });
    let script = block.expect("the guide makes namespaces");
    let mut command = Command::new("sh");
    let output = command.args(["-ec", script]).env("PATH", PATH).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
}

async fn connect() -> Client {
    let builder = USERS.into_iter().fold(Client::builder(), |builder, it| {
        builder.address(it.to_owned())
    });
    builder.timeout(PATIENCE).connect().await.unwrap()
}

fn key(number: usize) -> String {
    format!("key-{number}")
}

/// Checks the values of so many keys.
async fn read_back(client: &Client, keys: usize) {
    for number in 0..keys {
        let found = client.get(key(number)).await.unwrap();
        let value = found.value.expect("every key that was put is there");
        assert_eq!(value, key(number).as_bytes());
    }
}

/// Puts keys from `first` on until `is_over`; returns the number of the next one. Every operation
/// must succeed.
fn keep_putting(client: Client, first: usize, is_over: Arc<AtomicBool>) -> JoinHandle<usize> {
    tokio::spawn(async move {
        let mut next = first;
        while !is_over.load(Ordering::Relaxed) {
            client.put(key(next), key(next)).await.unwrap();
            let found = client.get(key(next)).await.unwrap();
            assert_eq!(found.value.unwrap(), key(next).as_bytes());
            next += 1;
        }
        next
    })
}

/// Runs the whole life of a platform.
async fn live(bootstrap: &Bootstrap) {
    assert!(bootstrap.done(&["check"]).await.contains("7 processes"));
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

    let client = connect().await;
    for number in 0..KEYS {
        client.put(key(number), key(number)).await.unwrap();
    }
    another_build_is_installed(bootstrap).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let putting = keep_putting(client.clone(), KEYS, Arc::clone(&is_over));
    let restarted = bootstrap.done(&["restart"]).await;
    one_after_the_other(&restarted);
    is_over.store(true, Ordering::Relaxed);
    let keys = putting.await.unwrap();
    assert!(keys - KEYS >= LEAST_MEANWHILE, "{keys}");
    let after = bootstrap.pids(&PROCESSES).await;
    assert!(before.iter().all(|(name, pid)| after[name] != *pid));
    let programs = after.values().map(|pid| {
        let link = format!("/proc/{pid}/exe");
        fs::read_link(link).unwrap()
    });
    let programs: BTreeSet<PathBuf> = programs.collect();
    assert_eq!(programs.len(), 2, "etcd and one build: {programs:?}");
    read_back(&client, keys).await;

    what_is_missing_is_noticed_and_started(bootstrap, after).await;
    a_cluster_and_a_setting_are_added(bootstrap).await;
    read_back(&client, keys).await;

    bootstrap.done(&["stop"]).await;
    let again = bootstrap.done(&["stop"]).await;
    assert_eq!(again, "stop: nothing to do: no process runs\n");
    let states = bootstrap.states().await;
    assert!(states.values().all(|state| state["state"] == "stopped"));
    bootstrap.done(&["start"]).await;
    read_back(&connect().await, keys).await;
    bootstrap.done(&["stop"]).await;
}

/// Each process is ready again before the next one stops.
fn one_after_the_other(restarted: &str) {
    let steps = ["stopped", "started", "ready"];
    let expected = PROCESSES
        .iter()
        .flat_map(|name| steps.map(|step| format!("{name}: {step}")));
    let lines: Vec<&str> = restarted.lines().collect();
    assert_eq!(lines.len(), PROCESSES.len() * steps.len(), "{restarted}");
    for (line, step) in lines.into_iter().zip(expected) {
        assert!(line.starts_with(&step), "{line}, not {step}");
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

/// A killed process is started again, alone; without it, the one that it stands in for is not
/// restarted.
async fn what_is_missing_is_noticed_and_started(
    bootstrap: &Bootstrap,
    before: BTreeMap<String, u64>,
) {
    let pid = i32::try_from(before["s-r2"]).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
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
    let started = bootstrap.done(&["start"]).await;
    assert_eq!(started.matches("started").count(), 1, "{started}");
    let after = bootstrap.pids(&PROCESSES).await;
    for (name, pid) in before {
        assert_eq!(after[&name] != pid, name == "s-r2", "{name}");
    }
}

/// The inventory grows by a cluster, and a setting changes.
async fn a_cluster_and_a_setting_are_added(bootstrap: &Bootstrap) {
    bootstrap.change(
        "c2 = [\"n2\"]",
        "c2 = [\"n2\"]\nc3 = [\"n3\"]\n[settings.server-coordinator.limits]\nconnections = 900",
    );
    bootstrap.change(
        "data_nodes = [\"n1\"]",
        "data_nodes = [\"n1\", { name = \"n3\", port = 7601, metrics_port = 7681 }]",
    );
    let installed = bootstrap.done(&["install"]).await;
    assert!(installed.contains("/s-r1.toml"), "{installed}");
    assert!(!installed.contains("/n1.toml"), "{installed}");
    assert_eq!(bootstrap.outdated().await, ["s-r1", "s-r2"]);
    let started = bootstrap.done(&["start"]).await;
    assert!(started.contains("added the cluster c3"), "{started}");
    let restarted = bootstrap
        .done(&["restart", "--role", "server-coordinator"])
        .await;
    assert_eq!(restarted.matches("started").count(), 2, "{restarted}");
    bootstrap.pids(&[&PROCESSES[..], &["n3"]].concat()).await;
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
