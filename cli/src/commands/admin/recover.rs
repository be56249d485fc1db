//! `tierkv admin recover`: on the data directory of a node that does not run, and on the record of
//! its cluster: in the data directory, too, or in the etcd of a running platform. A cluster of several
//! nodes is recovered by what its nodes report (`cluster`); the node of a cluster that has only one is
//! found by the record (`only_node`).

mod cluster;
mod only_node;
mod records;

use std::{
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use serde_json::{Value, json};
use tierkv_coordination::Location;
use tierkv_datanode::{Finding, Recovery, RecoveryDone};
use tierkv_storage::{RealDisk, StorageSettings, check_platform, platform_of};
use tierkv_types::{ClusterId, NodeId};

use self::{cluster::LostCluster, records::Records};
use crate::{
    configuration::Configuration,
    data_dir,
    outcome::Outcome,
    output::{self, Output},
    recovery_command::recovery_command,
    roles::arguments::MetadataArguments,
};

/// The exit status if a recovery is needed and was not done.
const DUE: u8 = 1;
/// The cluster and the node of `tierkv dev`.
const DEFAULT_CLUSTER: &str = "c1";
const DEFAULT_NODE: &str = "n1";

/// Options of `tierkv admin recover`.
#[derive(Args)]
pub(crate) struct RecoverArguments {
    #[command(flatten)]
    metadata: MetadataArguments,
    /// The data directory; no process may use it. Sets data_dir [default: tierkv-data]. Leave it
    /// out for a cluster of several nodes of which no log in sync is left; the node of a cluster
    /// that has only one is recovered with it, on its machine.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// The cluster; sets cluster [default: c1]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// The node; sets node [default: the cluster's only one, else n1]. For a cluster of several
    /// nodes, the one whose log is continued.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Recover. Without this nothing is changed, and the exit status is 1 if a recovery is
    /// needed.
    #[arg(long)]
    accept_loss: bool,
    /// How to print it.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Examines the directory, prints the findings, and recovers with `--accept-loss`.
pub(crate) async fn run(mut arguments: RecoverArguments) -> Outcome {
    let (accept_loss, output) = (arguments.accept_loss, arguments.output);
    match Subject::of(&arguments).await? {
        Subject::LostCluster(lost) => return lost.run(accept_loss, output).await,
        Subject::OnlyNode(node) => arguments.node = Some(node.to_string()),
        Subject::Named => {}
    }
    let target = Target::of(arguments)?;
    let places = &target.configuration.places;
    let records = Records::open(&target.configuration.coordination, &places.data_dir).await?;
    let mut recovery = target.examine(&records).await?;
    let mut findings = recovery.findings().to_vec();
    findings.extend(records.finding());
    let absence = records.absence();
    if let (true, Some(absence)) = (findings.is_empty(), &absence) {
        return Err(format!(
            "nothing is wrong in {}, but whether the cluster's record lists its log was not \
             examined: {absence}",
            target.dir.display()
        )
        .into());
    }
    let is_due = findings.iter().any(|finding| finding.remedy.is_some());
    if output != Output::Json {
        if let Some(absence) = absence {
            say(format_args!("note   {absence}\n"));
        }
        print_findings(&recovery, &findings, is_due);
        if is_due && !accept_loss {
            say(format_args!(
                "\nNothing was changed. To recover: {} --accept-loss",
                target.command()
            ));
        }
    }
    let done = match is_due && accept_loss {
        true => Some(records.carry_out(&mut recovery, &target.node).await?),
        false => None,
    };
    match output {
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

/// What is recovered.
enum Subject {
    /// A cluster of several nodes, by what these report.
    LostCluster(LostCluster),
    /// The only node of its cluster, by its directory.
    OnlyNode(NodeId),
    /// The node of the options, by its directory.
    Named,
}

impl Subject {
    /// What the options name. Without a data directory it depends on the cluster's record, in a store
    /// that runs.
    async fn of(arguments: &RecoverArguments) -> Result<Self, Box<dyn std::error::Error>> {
        if arguments.data_dir.is_some() {
            return Ok(Self::Named);
        }
        let configuration = arguments.metadata.load(vec![
            ("cluster", arguments.cluster.clone()),
            ("node", arguments.node.clone()),
        ])?;
        let (places, keys) = (&configuration.places, &configuration.coordination);
        if keys.url == Location::Memory {
            return Ok(Self::Named);
        }
        let cluster = places.cluster.clone();
        let cluster = cluster.map_or_else(|| ClusterId::new(DEFAULT_CLUSTER), Ok)?;
        let records = Records::open(keys, &places.data_dir).await?;
        let Records::Running { store, platform } = records else {
            return Ok(Self::Named);
        };
        if cluster::has_several_nodes(&*store, &cluster).await? {
            return Ok(Self::LostCluster(LostCluster {
                store,
                platform,
                cluster,
                node: places.node.clone(),
                options: format!(" --coordination-url {}", keys.url),
            }));
        }
        let command = |node: &NodeId| recovery_command(Path::new("DIR"), &cluster, node, &keys.url);
        let (folder, named) = (&places.data_dir, places.node.as_ref());
        let node = only_node::only_node(&*store, &cluster, folder, named, command);
        Ok(Self::OnlyNode(node.await?))
    }
}

/// The node to recover.
struct Target {
    configuration: Configuration,
    cluster: ClusterId,
    node: NodeId,
    dir: PathBuf,
}

impl Target {
    /// The node of the options, which must have a directory.
    fn of(arguments: RecoverArguments) -> Result<Self, Box<dyn std::error::Error>> {
        let configuration = arguments.metadata.load(vec![
            ("data_dir", arguments.data_dir),
            ("cluster", arguments.cluster),
            ("node", arguments.node),
        ])?;
        let places = &configuration.places;
        let cluster = places.cluster.clone();
        let cluster = cluster.map_or_else(|| ClusterId::new(DEFAULT_CLUSTER), Ok)?;
        let node = places.node.clone();
        let node = node.map_or_else(|| NodeId::new(DEFAULT_NODE), Ok)?;
        let dir = places.data_dir.join(cluster.as_str()).join(node.as_str());
        data_dir::check(&places.data_dir)?;
        data_dir::check(&dir)?;
        if !dir.is_dir() {
            return Err(format!(
                "there is no node {node} of cluster {cluster} in {}: {} does not exist; name it \
                 with --data-dir, --cluster and --node",
                places.data_dir.display(),
                dir.display()
            )
            .into());
        }
        Ok(Self {
            configuration,
            cluster,
            node,
            dir,
        })
    }

    /// The command that examines it.
    fn command(&self) -> String {
        let Configuration {
            places,
            coordination,
            ..
        } = &self.configuration;
        recovery_command(
            &places.data_dir,
            &self.cluster,
            &self.node,
            &coordination.url,
        )
    }

    /// Examines its directory, and its cluster's record.
    async fn examine(&self, records: &Records) -> Result<Recovery, Box<dyn std::error::Error>> {
        if let Some(expected) = records.platform() {
            // A node state that can't be read is a finding of its own.
            let found = platform_of(Arc::new(RealDisk), &self.dir);
            check_platform(&self.dir, found.unwrap_or_default(), expected)?;
        }
        records.check_stopped(&self.node).await?;
        let record = records.of_cluster(&self.cluster).await?;
        let settings = StorageSettings {
            platform: records.platform(),
            ..StorageSettings::new(&self.dir)
        };
        let (cluster, node) = (self.cluster.clone(), self.node.clone());
        let note = records.note_of(&cluster, &node).await?;
        let (record, note) = (record.as_ref(), note.as_ref());
        Ok(Recovery::examine(cluster, node, settings, record, note).await?)
    }
}

/// Prints a line. A recovery continues even if the output is closed.
fn say(words: fmt::Arguments<'_>) {
    drop(output::line(words.to_string()));
}

fn print_findings(recovery: &Recovery, findings: &[Finding], is_due: bool) {
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
