//! The roles of a platform of many processes: `tierkv datanode`, `tierkv server-coordinator` and
//! `tierkv client-coordinator`. Each process has one role, finds the others through coordination,
//! and serves its metrics and health to operators.
//!
//! Reading order: [`arguments`] (the options that the roles share), [`metadata`] (the connection to
//! coordination, and the platform in it), [`own_cluster`] (a data node's place in the platform),
//! [`operator_door`] (metrics and health), then this file.

pub(crate) mod arguments;
pub(crate) mod metadata;
mod operator_door;
mod own_cluster;

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    process::{self, ExitCode},
    sync::Arc,
};

use clap::Args;
use serde_json::{Map, Value, json};
use tierkv_cache::NoCache;
use tierkv_client_coordinator::{ClientCoordinator, MetricsPage};
use tierkv_coordination::Coordination;
use tierkv_datanode::{self as datanode, DataNode, DataNodeSettings};
use tierkv_server_coordinator::{
    self as server_coordinator, ServerCoordinator, ServerCoordinatorSettings,
};
use tierkv_types::{Clock, NodeId, PlatformId, SystemClock, limits::MAX_PEER_CONNECTIONS};

use self::{
    arguments::{RoleArguments, ServerArguments},
    operator_door::OperatorDoor,
};
use crate::{
    configuration::{self, CacheKind, Configuration},
    data_dir,
    descriptors::Descriptors,
    listening, metrics_page,
    outcome::{FAILED, Outcome},
    output,
    recovery_command::{recovery_command, with_command},
    runtime,
    signals::Signals,
};

type Failure = Box<dyn std::error::Error>;

/// The default port of a data node.
const DATA_NODE_PORT: u16 = 7600;
/// The default port of a server coordinator.
const SERVER_COORDINATOR_PORT: u16 = 7500;
/// The port of metrics and health is so much higher than that of the role.
const METRICS_PORT_OFFSET: u16 = 80;

/// The option of the address for other tiers.
const LISTEN: &str = "--listen";
/// The option of the address of metrics and health.
const METRICS_LISTEN: &str = "--metrics-listen";

/// Options of `tierkv datanode`.
#[derive(Args)]
pub(crate) struct DataNodeArguments {
    #[command(flatten)]
    server: ServerArguments,
    #[arg(long, value_name = "NAME", help = configuration::help("cluster"))]
    cluster: Option<String>,
    #[arg(long, value_name = "DIR", help = configuration::help("data_dir"))]
    data_dir: Option<String>,
}

/// Options of `tierkv server-coordinator`.
#[derive(Args)]
pub(crate) struct ServerCoordinatorArguments {
    #[command(flatten)]
    server: ServerArguments,
}

/// Options of `tierkv client-coordinator`.
#[derive(Args)]
pub(crate) struct ClientCoordinatorArguments {
    #[command(flatten)]
    role: RoleArguments,
    #[arg(long, value_name = "IP:PORT", help = configuration::help("grpc_listen"))]
    grpc_listen: Option<String>,
    #[arg(long, value_name = "IP:PORT", help = configuration::help("rest_listen"))]
    rest_listen: Option<String>,
}

/// Runs a data node until SIGTERM, Ctrl-C or SIGHUP.
pub(crate) fn run_data_node(arguments: DataNodeArguments) -> Outcome {
    let DataNodeArguments {
        server,
        cluster,
        data_dir: folder,
    } = arguments;
    let flags = [("cluster", cluster), ("data_dir", folder)];
    let configuration = server.load(&flags)?;
    run_role(configuration, |it| data_node(server.role, it))
}

async fn data_node(arguments: RoleArguments, configuration: Configuration) -> Outcome {
    let cluster = configuration.places.cluster.clone();
    let cluster = cluster.ok_or("a data node belongs to a cluster; set --cluster, as in c1")?;
    let role = Role::begin("datanode", &arguments, configuration)?;
    let door = role.operator_door(DATA_NODE_PORT).await?;
    let (coordination, platform) = match role.platform().await? {
        Some(found) => found,
        None => return Ok(ExitCode::SUCCESS),
    };
    let places = &role.configuration.places;
    let dir = places
        .data_dir
        .join(cluster.as_str())
        .join(role.node.as_str());
    data_dir::check_neighbours(&places.data_dir, &dir, platform)?;
    let waiting = own_cluster::await_listing(&*coordination, &cluster, &role.node, &dir);
    let Some(()) = role.unless_stopped(waiting).await.transpose()? else {
        return Ok(ExitCode::SUCCESS);
    };
    let url = &role.configuration.coordination.url;
    let recovery = recovery_command(&places.data_dir, &cluster, &role.node, url);
    let mut storage = role.configuration.storage(dir);
    storage.platform = Some(platform);
    let settings = DataNodeSettings {
        listen: places.listen.unwrap_or_else(|| loopback(DATA_NODE_PORT)),
        advertise: role.advertise(),
        connections: role.descriptors.for_peers(MAX_PEER_CONNECTIONS),
        stream_bytes: role.configuration.limits.stream_bytes(),
        ..DataNodeSettings::new(platform, role.node.clone(), cluster, storage)
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let starting = DataNode::start(settings, coordination, Arc::new(NoCache), clock);
    let started = role.unless_stopped(starting).await.transpose();
    let started = started.map_err(|error| match error {
        datanode::StartError::Listen(error) => listening::refused(&error, "datanode", LISTEN),
        other => with_command(&other.to_string(), &recovery),
    });
    let Some(datanode) = started? else {
        return Ok(ExitCode::SUCCESS);
    };
    role.warn_of(datanode.address(), "the data node");
    let readiness = datanode.readiness();
    door.ready_when(move || readiness.is_ready());
    role.announce(&[("address", datanode.address()), ("metrics", door.address())]);
    let failure = role.until_end(datanode.failed()).await;
    let failure = failure.map(|why| with_command(&why, &recovery));
    let stopped = role.unless_stopped(datanode.stop()).await;
    role.end(failure, stopped.map(|it| it.map_err(Into::into)))
}

/// Runs a server coordinator until SIGTERM, Ctrl-C or SIGHUP.
pub(crate) fn run_server_coordinator(arguments: ServerCoordinatorArguments) -> Outcome {
    let server = arguments.server;
    let configuration = server.load(&[])?;
    run_role(configuration, |it| server_coordinator(server.role, it))
}

async fn server_coordinator(arguments: RoleArguments, configuration: Configuration) -> Outcome {
    let role = Role::begin("server-coordinator", &arguments, configuration)?;
    let door = role.operator_door(SERVER_COORDINATOR_PORT).await?;
    let (coordination, platform) = match role.platform().await? {
        Some(found) => found,
        None => return Ok(ExitCode::SUCCESS),
    };
    let places = &role.configuration.places;
    let settings = ServerCoordinatorSettings {
        listen: (places.listen).unwrap_or_else(|| loopback(SERVER_COORDINATOR_PORT)),
        advertise: role.advertise(),
        connections: role.descriptors.for_peers(MAX_PEER_CONNECTIONS),
        stream_bytes: role.configuration.limits.stream_bytes(),
        ..ServerCoordinatorSettings::new(platform, role.node.clone())
    };
    let starting = ServerCoordinator::start(settings, coordination);
    let started = role.unless_stopped(starting).await.transpose();
    let started = started.map_err(|error| match error {
        server_coordinator::StartError::Listen(error) => {
            listening::refused(&error, "server-coordinator", LISTEN)
        }
        other @ server_coordinator::StartError::Coordination(_) => other.to_string(),
    });
    let Some(coordinator) = started? else {
        return Ok(ExitCode::SUCCESS);
    };
    role.warn_of(coordinator.address(), "the server coordinator");
    let readiness = coordinator.readiness();
    door.ready_when(move || readiness.is_ready());
    role.announce(&[
        ("address", coordinator.address()),
        ("metrics", door.address()),
    ]);
    let failure = role.until_end(coordinator.failed()).await;
    let stopped = role.unless_stopped(coordinator.stop()).await;
    role.end(failure, stopped.map(Ok))
}

/// Runs a client coordinator until SIGTERM, Ctrl-C or SIGHUP.
pub(crate) fn run_client_coordinator(arguments: ClientCoordinatorArguments) -> Outcome {
    let ClientCoordinatorArguments {
        role: shared,
        grpc_listen,
        rest_listen,
    } = arguments;
    let flags = [("grpc_listen", grpc_listen), ("rest_listen", rest_listen)];
    let configuration = shared.load(&flags)?;
    run_role(configuration, |it| client_coordinator(shared, it))
}

async fn client_coordinator(arguments: RoleArguments, configuration: Configuration) -> Outcome {
    let role = Role::begin("client-coordinator", &arguments, configuration)?;
    let places = &role.configuration.places;
    let listeners = listening::bind(places.grpc_listen, places.rest_listen).await?;
    let (coordination, platform) = match role.platform().await? {
        Some(found) => found,
        None => return Ok(ExitCode::SUCCESS),
    };
    let max_staleness_ms = role.configuration.reads.max_staleness_ms;
    let checking = metadata::check_staleness(&*coordination, max_staleness_ms);
    let Some(()) = role.unless_stopped(checking).await.transpose()? else {
        return Ok(ExitCode::SUCCESS);
    };
    let (node, metrics) = (role.node.clone(), role.metrics.clone());
    let mut settings =
        (role.configuration).client_coordinator(platform, node, role.descriptors, metrics);
    settings.coordination = metadata::described(&role.configuration.coordination.url);
    let (cache, clock) = (Arc::new(NoCache), Arc::new(SystemClock));
    let starting = ClientCoordinator::start_on(listeners, settings, coordination, cache, clock);
    let Some(coordinator) = role.unless_stopped(starting).await.transpose()? else {
        return Ok(ExitCode::SUCCESS);
    };
    role.announce(&[
        ("grpc", coordinator.grpc_address()),
        ("rest", coordinator.rest_address()),
    ]);
    let failure = role.until_end(coordinator.failed()).await;
    let stopped = role.unless_stopped(coordinator.stop()).await;
    role.end(failure, stopped.map(Ok))
}

/// Runs a role on the threads that the configuration gives it.
fn run_role<F: Future<Output = Outcome>>(
    configuration: Configuration,
    role: impl FnOnce(Configuration) -> F,
) -> Outcome {
    let workers = configuration.threads.workers();
    let workers = workers.unwrap_or_else(runtime::half_of_the_cores);
    runtime::run(Some(workers), role(configuration))
}

/// What every role has.
struct Role {
    name: &'static str,
    node: NodeId,
    configuration: Configuration,
    descriptors: Descriptors,
    metrics: MetricsPage,
    is_json: bool,
    signals: tokio::sync::Mutex<Signals>,
}

impl Role {
    /// Checks what every role needs.
    fn begin(
        name: &'static str,
        arguments: &RoleArguments,
        configuration: Configuration,
    ) -> Result<Self, Failure> {
        let signals = Signals::listen()?;
        let node = configuration.places.node.clone();
        let node = node.ok_or_else(|| {
            format!("a {name} has a name, the same at every start; set --node, as in n1")
        })?;
        if configuration.cache.kind == Some(CacheKind::Embedded) {
            return Err(format!(
                "cache.kind is \"embedded\", which only `tierkv dev` can use: the deletes of other \
                 processes do not reach an embedded cache; leave it out for a {name}"
            )
            .into());
        }
        let descriptors = Descriptors::raise()?;
        let metrics = metrics_page::gather()?;
        descriptors.show();
        Ok(Self {
            name,
            node,
            configuration,
            descriptors,
            metrics,
            is_json: arguments.is_json(),
            signals: tokio::sync::Mutex::new(signals),
        })
    }

    /// Serves metrics and health.
    async fn operator_door(&self, port: u16) -> Result<OperatorDoor, Failure> {
        let address = self.configuration.places.metrics_listen;
        let address = address.unwrap_or_else(|| loopback(port + METRICS_PORT_OFFSET));
        let door = OperatorDoor::open(address, self.metrics.clone()).await;
        let door =
            door.map_err(|error| listening::refused(&error, "metrics and health", METRICS_LISTEN))?;
        self.warn_of(door.address(), "the metrics page");
        Ok(door)
    }

    /// Connects to coordination and waits for a platform in it; `None` if a signal came first.
    async fn platform(&self) -> Result<Option<(Arc<dyn Coordination>, PlatformId)>, Failure> {
        let coordination = metadata::connect(&self.configuration.coordination).await?;
        let waiting = metadata::await_platform(&*coordination);
        let platform = self.unless_stopped(waiting).await.transpose()?;
        Ok(platform.map(|platform| (coordination, platform)))
    }

    fn advertise(&self) -> Option<String> {
        let advertise = self.configuration.places.advertise.as_ref();
        advertise.map(|address| address.0.clone())
    }

    /// Waits for `work`; `None` if a signal to stop came first.
    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut signals = self.signals.lock().await;
        tokio::select! {
            biased;
            done = work => Some(done),
            () = signals.stop() => None,
        }
    }

    /// Waits for a signal to stop, or for a failure; returns the failure.
    async fn until_end(&self, failed: impl Future<Output = String>) -> Option<String> {
        let failure = self.unless_stopped(failed).await;
        if failure.is_none() && !self.is_json {
            say("stopping");
        }
        failure
    }

    /// The outcome after the role was stopped; `stopped` is `None` if another signal ended that.
    fn end(&self, failure: Option<String>, stopped: Option<Result<(), Failure>>) -> Outcome {
        if let Some(why) = failure {
            return Err(why.into());
        }
        let Some(stopped) = stopped else {
            output::note(format_args!("tierkv: the {} stopped at once", self.name));
            // Returning would wait for blocking work, which a second signal is meant to end.
            process::exit(FAILED.into());
        };
        stopped?;
        Ok(ExitCode::SUCCESS)
    }

    fn warn_of(&self, address: SocketAddr, what: &str) {
        if !address.ip().is_loopback() {
            output::note(format_args!(
                "WARNING: {what} is served on {address}, which other machines may reach. There is \
                 no authentication: anyone who can connect can read and change all data"
            ));
        }
    }

    /// Prints the addresses.
    fn announce(&self, addresses: &[(&str, SocketAddr)]) {
        if self.is_json {
            let addresses = addresses
                .iter()
                .map(|(name, address)| ((*name).to_owned(), Value::from(address.to_string())));
            let mut line: Map<String, Value> = addresses.collect();
            line.insert("role".to_owned(), json!(self.name));
            line.insert("node".to_owned(), json!(self.node.as_str()));
            line.insert("pid".to_owned(), json!(process::id()));
            say(Value::Object(line).to_string());
            return;
        }
        let addresses: Vec<String> = addresses
            .iter()
            .map(|(name, address)| format!("\n  {name:<8} {address}"))
            .collect();
        say(format!(
            "{} {} is running.\n{}",
            self.name,
            self.node,
            addresses.concat()
        ));
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Prints a line on standard output. The process continues if that fails: the output may be a
/// closed pipe or on a full disk.
fn say(words: impl AsRef<str>) {
    if let Err(error) = output::line(words.as_ref()) {
        tracing::warn!(%error, "standard output can't be written to");
    }
}
