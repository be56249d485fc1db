//! `tierkv-ops`, run on the inventory of a trial.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tierkv_tests::binary;
use tokio::task::spawn_blocking;

/// Debian's programs only: what is in the folders of a user may not be readable.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The platform of an inventory.
pub(crate) struct Bootstrap {
    pub(crate) script: PathBuf,
    pub(crate) inventory: PathBuf,
}

impl Bootstrap {
    /// Runs `tierkv-ops`; returns its exit status and all that it printed.
    pub(crate) async fn run(&self, words: &[&str]) -> (i32, String) {
        let mut command = Command::new("python3");
        command.arg(&self.script);
        command.arg(words[0]).arg(&self.inventory).args(&words[1..]);
        ended(command, &format!("tierkv-ops {}", words.join(" "))).await
    }

    /// As [`Self::run`], for a command that succeeds.
    pub(crate) async fn done(&self, words: &[&str]) -> String {
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
    pub(crate) async fn states(&self) -> BTreeMap<String, Value> {
        let processes = self.report().await;
        processes.into_iter().map(|it| (name_of(&it), it)).collect()
    }

    /// By process: its id; all run, are ready and up to date.
    pub(crate) async fn pids(&self, names: &[&str]) -> BTreeMap<String, u64> {
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
    pub(crate) async fn outdated(&self) -> Vec<String> {
        let processes = self.report().await.into_iter();
        let outdated = processes.filter(|it| it["outdated"] == true);
        outdated.map(|it| name_of(&it)).collect()
    }

    /// Replaces a part of the inventory.
    pub(crate) fn change(&self, old: &str, new: &str) {
        let text = fs::read_to_string(&self.inventory).unwrap();
        assert!(text.contains(old), "no {old} in {text}");
        fs::write(&self.inventory, text.replacen(old, new, 1)).unwrap();
    }
}

fn name_of(process: &Value) -> String {
    process["name"].as_str().unwrap().to_owned()
}

/// Runs `tierkv admin` through a client coordinator at `address`; it must succeed.
pub(crate) async fn admin(address: &str, words: &[&str]) -> String {
    let mut command = Command::new(binary::tierkv().path);
    command.args(["admin", words[0], "--address", address]);
    command.args(&words[1..]);
    let (status, printed) = ended(command, &format!("tierkv admin {}", words.join(" "))).await;
    assert_eq!(status, 0, "{words:?}: {printed}");
    printed
}

/// Runs a command without this test's environment; returns its exit status and all that it printed.
async fn ended(mut command: Command, what: &str) -> (i32, String) {
    command.env_clear().env("PATH", PATH);
    let output = spawn_blocking(move || command.output().unwrap()).await;
    let Output {
        status,
        stdout,
        stderr,
    } = output.unwrap();
    let printed = String::from_utf8([stdout, stderr].concat()).unwrap();
    println!("$ {what}\n{printed}");
    (status.code().unwrap(), printed)
}

/// Runs the commands of the operations guide that make the namespaces.
pub(crate) fn make_namespaces(guide: &Path) {
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
