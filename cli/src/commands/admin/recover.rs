//! `tierkv admin recover`: offline, on the data directory of a node that does not run.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use serde_json::{Value, json};
use tierkv_coordination::{MemoryCoordination, Offline, OfflineImage, directory};
use tierkv_datanode::{Finding, Recovery, RecoveryDone};
use tierkv_storage::StorageSettings;
use tierkv_types::{ClusterId, NodeId};

use crate::{
    data_dir,
    outcome::Outcome,
    output::{self, Output},
};

/// The exit status if a recovery is needed and was not done.
const DUE: u8 = 1;

/// Options of `tierkv admin recover`.
#[derive(Args)]
pub(crate) struct RecoverArguments {
    /// The data directory; no process may use it.
    #[arg(long, env = "TIERKV_DATA_DIR", default_value = "tierkv-data")]
    data_dir: PathBuf,
    /// The cluster.
    #[arg(long, default_value = "c1")]
    cluster: String,
    /// The node.
    #[arg(long, default_value = "n1")]
    node: String,
    /// Recover. Without this nothing is changed, and the exit status is 1 if a recovery is
    /// needed.
    #[arg(long)]
    accept_loss: bool,
    /// How to print it.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Examines the directory, prints the findings, and recovers with `--accept-loss`.
pub(crate) async fn run(arguments: RecoverArguments) -> Outcome {
    let cluster = ClusterId::new(&arguments.cluster)?;
    let node = NodeId::new(&arguments.node)?;
    let dir = arguments
        .data_dir
        .join(cluster.as_str())
        .join(node.as_str());
    data_dir::check(&arguments.data_dir)?;
    data_dir::check(&dir)?;
    if !dir.is_dir() {
        return Err(format!(
            "there is no node {node} of cluster {cluster} in {}: {} does not exist; name it \
             with --data-dir, --cluster and --node",
            arguments.data_dir.display(),
            dir.display()
        )
        .into());
    }
    let coordination_dir = arguments.data_dir.join("coordination");
    let (offline, records) = Offline::open(&coordination_dir)?;
    let key = directory::cluster_state(&cluster);
    let record = records.iter().find(|(name, _)| *name == key);
    let record = record.map(|(_, record)| record);
    let settings = StorageSettings::new(&dir);
    let mut recovery = Recovery::examine(cluster, node, settings, record).await?;
    let mut findings = recovery.findings().to_vec();
    findings.extend(coordination_finding(&offline));
    let is_due = findings.iter().any(|finding| finding.remedy.is_some());
    if arguments.output != Output::Json {
        print_findings(&arguments, &recovery, &findings, is_due);
    }
    let done = match is_due && arguments.accept_loss {
        true => Some(carry_out(&mut recovery, offline, &coordination_dir).await?),
        false => None,
    };
    match arguments.output {
        Output::Json => {
            let report = report(&recovery, &findings, is_due, done.as_ref());
            output::pretty_json(&report)?;
        }
        Output::Table | Output::Raw => {
            if let Some(done) = &done {
                print_done(done);
            }
        }
    }
    let hopeless = findings.iter().find(|finding| finding.remedy.is_none());
    match (is_due && done.is_none(), hopeless) {
        (true, _) => Ok(ExitCode::from(DUE)),
        (false, Some(finding)) => Err(format!("{}; {}", finding.what, finding.loss).into()),
        (false, None) => Ok(ExitCode::SUCCESS),
    }
}

fn coordination_finding(offline: &Offline) -> Option<Finding> {
    let OfflineImage::Damaged(what) = offline.image() else {
        return None;
    };
    Some(Finding {
        problem: "coordination-damaged",
        what: what.clone(),
        remedy: Some("set it aside, and start an empty one with this cluster".to_owned()),
        loss: "no data; settings made with `tierkv admin` must be made again".to_owned(),
    })
}

async fn carry_out(
    recovery: &mut Recovery,
    offline: Offline,
    coordination_dir: &Path,
) -> Result<RecoveryDone, Box<dyn std::error::Error>> {
    let aside = offline.set_damaged_aside()?;
    // This unlocks the coordination directory. The node's own directory is still locked, so no
    // node can start on it.
    drop(offline);
    let coordination = MemoryCoordination::open(coordination_dir)?;
    let mut done = recovery.carry_out(&*coordination).await?;
    done.set_aside.extend(aside);
    Ok(done)
}

/// Prints a line. A recovery continues even if the output is closed.
fn say(words: fmt::Arguments<'_>) {
    drop(output::line(words.to_string()));
}

fn print_findings(
    arguments: &RecoverArguments,
    recovery: &Recovery,
    findings: &[Finding],
    is_due: bool,
) {
    if findings.is_empty() {
        say(format_args!("nothing to recover: the node can start"));
    }
    for finding in findings {
        say(format_args!("found  {}", finding.what));
        match &finding.remedy {
            Some(remedy) => say(format_args!("to do  {remedy}")),
            None => say(format_args!("to do  this command can't repair it")),
        }
        say(format_args!("lost   {}\n", finding.loss));
    }
    if is_due {
        say(format_args!(
            "kept   everything up to record {}",
            recovery.kept()
        ));
    }
    if is_due && !arguments.accept_loss {
        say(format_args!(
            "\nNothing was changed. To recover: tierkv admin recover --data-dir {} --cluster {} \
             --node {} --accept-loss",
            arguments.data_dir.display(),
            arguments.cluster,
            arguments.node
        ));
    }
}

fn print_done(done: &RecoveryDone) {
    for file in &done.set_aside {
        say(format_args!("aside  {}", file.display()));
    }
    say(format_args!(
        "done   the node can start; its log is {} and starts after record {}, epoch {}",
        done.log_id, done.last, done.epoch
    ));
}

fn report(
    recovery: &Recovery,
    findings: &[Finding],
    is_due: bool,
    done: Option<&RecoveryDone>,
) -> Value {
    let findings: Vec<Value> = (findings.iter())
        .map(|finding| {
            json!({
                "problem": finding.problem,
                "what": finding.what,
                "remedy": finding.remedy,
                "loss": finding.loss,
            })
        })
        .collect();
    let given_up: Vec<Value> = (recovery.given_up().iter())
        .map(|lost| {
            json!({
                "file": lost.file.display().to_string(),
                "offset": lost.offset,
                "records": lost.records,
            })
        })
        .collect();
    let done = done.map(|done| {
        let set_aside: Vec<String> = (done.set_aside.iter())
            .map(|file| file.display().to_string())
            .collect();
        json!({
            "log_id": done.log_id.to_string(),
            "last": done.last.index.0,
            "epoch": done.epoch.0,
            "set_aside": set_aside,
        })
    });
    json!({
        "due": is_due,
        "findings": findings,
        "kept": recovery.kept().index.0,
        "given_up": given_up,
        "done": done,
    })
}
