//! A real platform with one process of each role, and coordination in a real etcd. Its one cluster,
//! `c1`, may have several data nodes, which can be killed and started again.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    error::{Error, io_error},
    etcd::Etcd,
    folder::DataFolder,
    founding, health,
    poll::poll_until,
    port::free_port,
    process::{Process, Program},
    surroundings::Surroundings,
    tierkv::program,
};

/// Timeout for the start of a process.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Timeout for a command of an operator.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Where a server listens whose address nobody needs to know before: a free port of loopback.
const ANY_PORT: &str = "127.0.0.1:0";
/// The name of the cluster.
const CLUSTER: &str = "c1";

/// How the tiers are started.
#[derive(Clone, Debug)]
pub struct TierSetup {
    /// The binary of every process; `None`: the one of this build.
    pub binary: Option<PathBuf>,
    /// Data nodes of the cluster `c1`: `n1`, `n2` and so on.
    pub data_nodes: u16,
    /// Members of the etcd that the platform coordinates by.
    pub etcd_members: usize,
    /// The silence after which the cluster suspects its master, in milliseconds; `None`: the default.
    pub failover_ms: Option<u32>,
}

impl Default for TierSetup {
    fn default() -> Self {
        Self {
            binary: None,
            data_nodes: 1,
            etcd_members: 1,
            failover_ms: None,
        }
    }
}

/// Data nodes, a server coordinator and a client coordinator, each in a process of its own. Dropping
/// it kills them and etcd.
#[derive(Debug)]
pub struct SeparateTiers {
    grpc: String,
    rest: String,
    client_coordinator: Process,
    server_coordinator: Process,
    data_nodes: Vec<DataNode>,
    program: Program,
    /// Ends last: the others would report its end.
    _etcd: Etcd,
}

/// A data node, of its last start.
#[derive(Debug)]
struct DataNode {
    name: String,
    arguments: Vec<String>,
    process: Process,
}

/// The cluster, as `GET /v1/cluster` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ClusterView {
    /// The master's term.
    pub epoch: u64,
    /// The master's name; empty if there is none.
    pub master: String,
    /// The nodes whose logs hold everything committed.
    pub in_sync: Vec<String>,
}

/// The part of that report that is needed here.
#[derive(Deserialize)]
struct Report {
    clusters: Vec<ClusterView>,
}

impl SeparateTiers {
    /// Starts one process of each role with this binary (`None`: the one of this build), and waits
    /// until they serve. The client coordinator has no cache.
    ///
    /// # Errors
    /// If etcd or the binary is missing, or a process does not start.
    pub async fn start(binary: Option<PathBuf>) -> Result<Self, Error> {
        Self::start_as(TierSetup {
            binary,
            ..TierSetup::default()
        })
        .await
    }

    /// As [`start`](Self::start), with `setup`. The nodes of a cluster of several may not be in sync
    /// yet ([`all_in_sync`](Self::all_in_sync)).
    ///
    /// # Errors
    /// The same.
    pub async fn start_as(setup: TierSetup) -> Result<Self, Error> {
        let etcd = Etcd::start(setup.etcd_members).await?;
        let url = format!("etcd://{}/bench", etcd.addresses().join(","));
        let program = program(setup.binary);
        let names: Vec<String> = (1..=setup.data_nodes.max(1))
            .map(|number| format!("n{number}"))
            .collect();
        let cluster = format!("{CLUSTER}={}", names.join(","));
        founding::found_clusters(&program, [cluster], setup.failover_ms, &url).await?;
        let mut data_nodes = Vec::new();
        for name in names {
            data_nodes.push(DataNode::spawn(&program, name, &url)?);
        }
        for node in &mut data_nodes {
            announced(&mut node.process).await?;
        }
        let coordinator = |role, node, doors: &[&str], folder| {
            let words = words_of(role, node, &url, doors);
            Process::spawn_in(&program, words, folder, &Surroundings::default())
        };
        let doors = ["--listen", ANY_PORT, "--metrics-listen", ANY_PORT];
        let folder = DataFolder::new("server-coordinator")?;
        let mut server_coordinator = coordinator("server-coordinator", "s1", &doors, &folder)?;
        announced(&mut server_coordinator).await?;
        let doors = ["--grpc-listen", ANY_PORT, "--rest-listen", ANY_PORT];
        let folder = DataFolder::new("client-coordinator")?;
        let mut client_coordinator = coordinator("client-coordinator", "cc1", &doors, &folder)?;
        let doors = announced(&mut client_coordinator).await?;
        let address = |door: &str| {
            let address = doors[door].as_str().map(str::to_owned);
            address.ok_or_else(|| {
                client_coordinator.unexpected(format!("announced no {door} address: {doors}"))
            })
        };
        Ok(Self {
            grpc: address("grpc")?,
            rest: address("rest")?,
            client_coordinator,
            server_coordinator,
            data_nodes,
            program,
            _etcd: etcd,
        })
    }

    /// The gRPC address of the client coordinator, as `host:port`.
    #[must_use]
    pub fn grpc(&self) -> &str {
        &self.grpc
    }

    /// The process of the first data node, `n1`.
    #[must_use]
    pub fn datanode(&self) -> &Process {
        // There is at least one.
        &self.data_nodes[0].process
    }

    /// The names of the data nodes.
    #[must_use]
    pub fn data_nodes(&self) -> Vec<String> {
        let names = self.data_nodes.iter().map(|node| node.name.clone());
        names.collect()
    }

    /// The process ids of the three roles, without etcd.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let coordinators = [&self.client_coordinator, &self.server_coordinator];
        let data_nodes = self.data_nodes.iter().map(|node| &node.process);
        let processes = coordinators.into_iter().chain(data_nodes);
        processes.map(Process::pid).collect()
    }

    /// Kills a data node at once (`SIGKILL`), and waits for its end.
    ///
    /// # Errors
    /// If there is none of this name, or the system refuses.
    pub fn kill9(&mut self, name: &str) -> Result<(), Error> {
        self.data_node(name)?.process.kill9()
    }

    /// Starts an ended data node again, on its data and at its addresses, and waits until it serves.
    ///
    /// # Errors
    /// If there is none of this name, or it does not start.
    pub async fn restart(&mut self, name: &str) -> Result<(), Error> {
        let program = self.program.clone();
        let node = self.data_node(name)?;
        let folder = node.process.folder().clone();
        let surroundings = Surroundings::default();
        node.process = Process::spawn_in(&program, &node.arguments, &folder, &surroundings)?;
        announced(&mut node.process).await.map(drop)
    }

    /// The cluster as the client coordinator shows it now; `None` if it does not answer.
    pub async fn cluster(&self) -> Option<ClusterView> {
        let rest = self.rest.clone();
        let asking = move || health::page(&rest, "/v1/cluster");
        // It may wait for a node that does not answer.
        let page = tokio::task::spawn_blocking(asking).await.ok()??;
        let (_, body) = page.split_once("\r\n\r\n")?;
        let report: Report = serde_json::from_str(body).ok()?;
        report.clusters.into_iter().next()
    }

    /// Waits until every data node is in sync under a master; returns the cluster then.
    ///
    /// # Errors
    /// If they are not within `limit`, or one has ended.
    pub async fn all_in_sync(&mut self, limit: Duration) -> Result<ClusterView, Error> {
        for node in &mut self.data_nodes {
            node.process.check()?;
        }
        let wanted = self.data_nodes.len();
        let this = &*self;
        let found = poll_until(limit, || async {
            let cluster = this.cluster().await?;
            let whole = cluster.in_sync.len() == wanted && !cluster.master.is_empty();
            whole.then_some(cluster)
        });
        if let Some(cluster) = found.await {
            return Ok(cluster);
        }
        for node in &mut self.data_nodes {
            node.process.check()?;
        }
        let cluster = self.cluster().await;
        Err(self.server_coordinator.unexpected(format!(
            "has no {wanted} data nodes in sync after {limit:?}: {cluster:?}"
        )))
    }

    /// Hands the mastership over to a data node, as an operator does.
    ///
    /// # Errors
    /// If the platform refuses, with what it printed.
    pub async fn hand_over(&self, to: &str) -> Result<(), Error> {
        let words = ["admin", "handover", "--address", &self.grpc];
        let words = [&words[..], &["--cluster", CLUSTER, "--to", to]].concat();
        let folder = DataFolder::new("handover")?;
        let mut command = Process::spawn(&self.program, words, &folder)?;
        let ended = command.wait_until("hand over", COMMAND_LIMIT, Process::status);
        match ended.await?.success() {
            true => Ok(()),
            false => Err(command.unexpected(format!("did not hand over to {to}"))),
        }
    }

    fn data_node(&mut self, name: &str) -> Result<&mut DataNode, Error> {
        let missing = || std::io::Error::other("there is none of this name");
        let found = self.data_nodes.iter_mut().find(|node| node.name == name);
        found.ok_or_else(|| io_error(format!("looking for the data node {name}"))(missing()))
    }
}

impl DataNode {
    /// Starts a new one.
    fn spawn(program: &Program, name: String, url: &str) -> Result<Self, Error> {
        let folder = DataFolder::new(&name)?;
        let data = folder.data().display().to_string();
        // Its addresses stay the same when it is started again.
        let [listen, metrics] =
            [free_port()?, free_port()?].map(|port| format!("127.0.0.1:{port}"));
        let doors = ["--listen", &listen, "--metrics-listen", &metrics];
        let doors = [&doors[..], &["--cluster", CLUSTER, "--data-dir", &data]].concat();
        let arguments = words_of("datanode", &name, url, &doors);
        let surroundings = Surroundings::default();
        let process = Process::spawn_in(program, &arguments, &folder, &surroundings)?;
        Ok(Self {
            name,
            arguments,
            process,
        })
    }
}

/// The arguments of a role.
fn words_of(role: &str, node: &str, url: &str, more: &[&str]) -> Vec<String> {
    let words = [role, "--node", node, "--output", "json"];
    let words = words.into_iter().chain(["--coordination-url", url]);
    words
        .chain(more.iter().copied())
        .map(str::to_owned)
        .collect()
}

/// Waits until a process prints its addresses; returns them.
async fn announced(process: &mut Process) -> Result<Value, Error> {
    let line = process.wait_until("print its addresses", START_LIMIT, |process| match process
        .first_line()
    {
        Some(line) => Ok(Some(line)),
        None => process.check().map(|()| None),
    });
    let line = line.await?;
    serde_json::from_str(&line).map_err(|error| {
        process.unexpected(format!("did not announce itself as JSON ({error}): {line}"))
    })
}
