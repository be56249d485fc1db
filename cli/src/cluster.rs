//! `tierkv cluster`: a whole platform of many processes on this machine, over a real etcd.
//!
//! ```text
//!   Shape ──► Plan (processes, addresses) ──► Running (children) ──► ready ──► Ctrl-C ──► ended
//!     │ ports.json: chosen once                  │ cluster.json
//! ```
//!
//! It restarts nothing that dies, so that faults can be tried: `cluster.json` lists every process
//! with the command that starts it again. Reading order: [`shape`] (what is chosen), [`plan`] (which
//! processes there are), [`ports`] (their ports), [`running`] (starting and ending them), [`probe`]
//! (whether they are ready), then this file.

mod plan;
mod ports;
mod probe;
mod running;
mod shape;

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use tierkv_protocol::replication::{DEFAULT_F_MS, MAX_MEMBERS};
use tierkv_server_coordinator::Founding;
use tierkv_types::PlatformId;
use tokio::time::{Instant, sleep, timeout_at};

use self::{
    plan::{Plan, Process},
    running::{END_LIMIT, Running},
    shape::Shape,
};
use crate::{configuration::CoordinationKeys, outcome::Outcome, output, roles, signals::Signals};

/// How long the platform may take to become ready.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Most data nodes of a cluster.
const MAX_NODES: i64 = MAX_MEMBERS as i64;
/// Pause between two looks whether a process is ready.
const READY_PAUSE: Duration = Duration::from_millis(50);

/// Options of `tierkv cluster`.
#[derive(Args)]
pub(crate) struct ClusterArguments {
    /// Folder of the platform's data, ports and logs; started on it again, the platform goes on.
    #[arg(long, value_name = "DIR", default_value = "tierkv-cluster")]
    dir: PathBuf,
    /// Number of data clusters; fixed at the first start.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=16))]
    clusters: u16,
    /// Data nodes a cluster: with three, each of them may fail; fixed at the first start.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=MAX_NODES))]
    nodes: u16,
    /// Port of the first client coordinator's gRPC server.
    #[arg(long, default_value_t = 7400)]
    grpc: u16,
    /// Port of the first client coordinator's REST server.
    #[arg(long, default_value_t = 7480)]
    rest: u16,
}

/// Runs the platform until SIGTERM, Ctrl-C or SIGHUP, then ends all its processes.
pub(crate) async fn run(arguments: ClusterArguments) -> Outcome {
    let mut signals = Signals::listen()?;
    let plan = Plan::make(&Shape {
        dir: arguments.dir,
        clusters: arguments.clusters,
        nodes: arguments.nodes,
        first_grpc: arguments.grpc,
        first_rest: arguments.rest,
    })?;
    running::check_that_none_lives(&plan)?;
    running::check_that_ports_are_free(&plan)?;
    let mut running = Running::default();
    let started = tokio::select! {
        started = start(&plan, &mut running) => Some(started),
        () = signals.stop() => None,
    };
    if let Some(Ok(())) = started {
        output::line(plan.table(&running.pids()))?;
        output::line(format!("ready {}", plan.description().display()))?;
        tokio::select! {
            () = signals.stop() => {}
            () = running.report_ends() => {}
        }
    }
    output::note(format_args!(
        "tierkv: ending all processes, within {} s",
        END_LIMIT.as_secs()
    ));
    running.end(&plan, &mut signals).await;
    match started {
        Some(Err(error)) => Err(error),
        Some(Ok(())) | None => Ok(ExitCode::SUCCESS),
    }
}

async fn start(plan: &Plan, running: &mut Running) -> Result<(), Box<dyn std::error::Error>> {
    let limit = Instant::now() + START_LIMIT;
    for process in plan.etcd() {
        running.start(process)?;
    }
    await_ready(plan.etcd(), running, limit).await?;
    found(plan, limit).await?;
    for process in plan.roles() {
        running.start(process)?;
    }
    plan.describe(&running.pids())?;
    await_ready(plan.roles(), running, limit).await
}

/// Founds the platform at the first start.
async fn found(plan: &Plan, limit: Instant) -> Result<(), Box<dyn std::error::Error>> {
    let keys = CoordinationKeys {
        url: plan.coordination_url().parse()?,
        user: None,
        password_file: None,
        ca_file: None,
        cert_file: None,
        key_file: None,
    };
    let coordination = roles::metadata::connect(&keys).await?;
    let founding = Founding {
        platform: PlatformId(rand::random()),
        clusters: plan.clusters()?,
        f_ms: DEFAULT_F_MS,
    };
    let founded = founding.ensure(&*coordination);
    timeout_at(limit, founded)
        .await
        .map_err(|_| "etcd did not answer in time; see the logs of etcd1 to etcd3")??;
    Ok(())
}

/// Waits until all `processes` are ready. A data node counts as ready when one of its cluster is:
/// the master serves, and the others may still follow.
async fn await_ready(
    processes: &[Process],
    running: &mut Running,
    limit: Instant,
) -> Result<(), Box<dyn std::error::Error>> {
    for process in processes {
        let alternatives = processes.iter().filter(|other| {
            let is_of_cluster = process.cluster.is_some() && other.cluster == process.cluster;
            is_of_cluster || other.name == process.name
        });
        while !is_any_ready(alternatives.clone()).await {
            check_that_it_lives(process, running)?;
            if Instant::now() >= limit {
                return Err(format!(
                    "{} was not ready within {} s; see {}",
                    process.name,
                    START_LIMIT.as_secs(),
                    process.log.display()
                )
                .into());
            }
            sleep(READY_PAUSE).await;
        }
        // Something else may have answered at its address.
        check_that_it_lives(process, running)?;
    }
    Ok(())
}

async fn is_any_ready(processes: impl Iterator<Item = &Process>) -> bool {
    for process in processes {
        if probe::is_ready(process).await {
            return true;
        }
    }
    false
}

fn check_that_it_lives(
    process: &Process,
    running: &mut Running,
) -> Result<(), Box<dyn std::error::Error>> {
    let Some(status) = running.ended(&process.name)? else {
        return Ok(());
    };
    let log = fs::read_to_string(&process.log).unwrap_or_default();
    let last = log
        .lines()
        .rfind(|line| !line.is_empty())
        .unwrap_or("nothing");
    let (name, path) = (&process.name, process.log.display());
    Err(
        format!("{name} ended ({status}) before it was ready; its last words in {path}: {last}")
            .into(),
    )
}
