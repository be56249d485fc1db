//! `tierkv dev`: every tier in one process, with real gRPC over loopback between them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{self, ExitCode},
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueEnum};
use serde_json::json;
use tempfile::TempDir;
use tierkv_cache::{Cache, EmbeddedCache, NoCache};
use tierkv_client_coordinator::{ClientCoordinator, Listeners, MetricsPage};
use tierkv_coordination::{Location, MemoryCoordination, directory::FoundingCluster};
use tierkv_datanode::{DataNode, DataNodeSettings};
use tierkv_protocol::replication::DEFAULT_F_MS;
use tierkv_server_coordinator::{Founding, ServerCoordinator, ServerCoordinatorSettings};
use tierkv_storage::{RealDisk, StorageError, StorageSettings, WalSync, platform_of};
use tierkv_types::{
    Clock, ClusterId, NodeId, PlatformId, SystemClock, limits::MAX_PEER_CONNECTIONS,
};
use tokio::time::sleep;

use crate::{
    configuration::{self, CacheKind, Configuration, ConfigurationArguments},
    data_dir,
    descriptors::Descriptors,
    listening::{self, reachable, remark},
    metrics_page, number,
    outcome::{FAILED, Outcome},
    output, runtime,
    signals::Signals,
};

/// How often to check whether the platform is ready.
const READY_PAUSE: Duration = Duration::from_millis(10);

/// The folder of the coordination store, in the data directory.
const COORDINATION: &str = "coordination";
/// Most MiB of `--cache-mib`: more than any machine has.
const MAX_CACHE_MIB: u64 = 1 << 30;

/// Options of `tierkv dev`.
#[derive(Args)]
pub(crate) struct DevArguments {
    #[command(flatten)]
    configuration: ConfigurationArguments,
    #[arg(long, value_name = "DIR", help = configuration::help("data_dir"))]
    data_dir: Option<String>,
    /// Keep no data: use a temporary directory instead of data_dir, without syncs to disk, and
    /// remove it at the end.
    #[arg(long, conflicts_with = "data_dir")]
    ephemeral: bool,
    #[arg(long, value_name = "IP:PORT", help = configuration::help("grpc_listen"))]
    grpc_listen: Option<String>,
    #[arg(long, value_name = "IP:PORT", help = configuration::help("rest_listen"))]
    rest_listen: Option<String>,
    /// Size limit of the embedded cache in MiB; sets cache.max_bytes.
    #[arg(long, value_name = "MIB", value_parser = |text: &str| number::between(text, 1, MAX_CACHE_MIB))]
    cache_mib: Option<u64>,
    /// How to print the addresses.
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people, with what to try next.
    Text,
    /// One line of JSON.
    Json,
}

impl DevArguments {
    /// The keys with options of their own.
    fn flags(&self) -> Vec<(&'static str, String)> {
        let cache_bytes = self.cache_mib.map(|mib| format!("{mib} MiB"));
        [
            ("data_dir", &self.data_dir),
            ("grpc_listen", &self.grpc_listen),
            ("rest_listen", &self.rest_listen),
            ("cache.max_bytes", &cache_bytes),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.clone()?)))
        .collect()
    }
}

/// The running tiers.
struct Platform {
    datanode: DataNode,
    server_coordinator: ServerCoordinator,
    client_coordinator: ClientCoordinator,
}

impl Platform {
    /// The addresses of gRPC and REST.
    fn addresses(&self) -> [SocketAddr; 2] {
        let coordinator = &self.client_coordinator;
        [coordinator.grpc_address(), coordinator.rest_address()]
    }

    /// Waits until a tier fails; returns the reason.
    async fn failed(&self) -> String {
        tokio::select! {
            why = self.datanode.failed() => why,
            why = self.server_coordinator.failed() => why,
            why = self.client_coordinator.failed() => why,
        }
    }
}

/// Runs until SIGTERM, Ctrl-C or SIGHUP, then stops in order and exits 0.
pub(crate) fn run(arguments: DevArguments) -> Outcome {
    let loaded = arguments.configuration.load(&arguments.flags());
    let file = loaded.file.clone();
    let configuration = loaded.accept()?;
    let workers = configuration.threads.workers();
    runtime::run(workers, run_platform(arguments, file, configuration))
}

async fn run_platform(
    arguments: DevArguments,
    file: Option<PathBuf>,
    configuration: Configuration,
) -> Outcome {
    let mut signals = Signals::listen()?;
    // Dropped last, so that the directory is removed after all its files are closed.
    let throw_away = arguments.ephemeral.then(TempDir::new).transpose()?;
    let data_dir = throw_away
        .as_ref()
        .map_or(configuration.places.data_dir.as_path(), TempDir::path);
    for folder in [
        data_dir.to_owned(),
        data_dir.join(COORDINATION),
        data_dir.join(node_folder()),
    ] {
        data_dir::check(&folder)?;
    }
    let descriptors = Descriptors::raise()?;
    // A start may wait for a clock, or read a long log; nothing is served before it has ended.
    let platform = tokio::select! {
        started = start(&configuration, descriptors, arguments.ephemeral, data_dir) => started?,
        () = signals.stop() => return Ok(ExitCode::SUCCESS),
    };
    let failure = tokio::select! {
        () = ready(&platform.client_coordinator) => {
            say(announcement(&arguments, file.as_deref(), data_dir, platform.addresses()));
            tokio::select! {
                () = signals.stop() => None,
                why = platform.failed() => Some(why),
            }
        }
        () = signals.stop() => None,
        why = platform.failed() => Some(why),
    };
    if let Some(why) = failure {
        return Err(why.into());
    }
    if arguments.output == Output::Text {
        say("stopping");
    }
    let stopped = tokio::select! {
        stopped = stop(platform) => Some(stopped),
        () = signals.stop() => None,
    };
    let Some(stopped) = stopped else {
        output::note(format_args!(
            "tierkv: stopped at once; all acknowledged writes are in the log"
        ));
        drop(throw_away);
        // Returning would wait for blocking work, which a second signal is meant to end.
        process::exit(FAILED.into());
    };
    stopped?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a line on standard output. The platform continues if that fails: the output may be a
/// closed pipe or on a full disk.
fn say(words: impl AsRef<str>) {
    if let Err(error) = output::line(words.as_ref()) {
        tracing::warn!(%error, "standard output can't be written to");
    }
}

/// Stops from the top down, so that no running tier sends requests to a stopped one.
async fn stop(platform: Platform) -> Result<(), StorageError> {
    platform.client_coordinator.stop().await;
    platform.server_coordinator.stop().await;
    platform.datanode.stop().await
}

async fn start(
    configuration: &Configuration,
    descriptors: Descriptors,
    is_ephemeral: bool,
    data_dir: &Path,
) -> Result<Platform, Box<dyn std::error::Error>> {
    if configuration.coordination.url != Location::Memory {
        return Err(format!(
            "coordination.url is \"{}\", but `tierkv dev` keeps its metadata in its own process; \
             leave it out, or run the roles: `tierkv datanode --help`",
            configuration.coordination.url
        )
        .into());
    }
    let metrics = metrics_page::gather()?;
    descriptors.show();
    let places = &configuration.places;
    let listeners = listening::bind(places.grpc_listen, places.rest_listen).await?;
    let mut storage = configuration.storage(data_dir.join(node_folder()));
    let coordination = match is_ephemeral {
        true => {
            storage.sync = WalSync::Never;
            MemoryCoordination::ephemeral()
        }
        false => MemoryCoordination::open(&data_dir.join(COORDINATION))?,
    };
    let platform = found(&coordination, &ClusterId::new("c1")?, &storage.dir).await?;
    storage.platform = Some(platform);
    let ground = Ground {
        platform,
        listeners,
        storage,
        coordination,
        descriptors,
        metrics,
    };
    match configuration.cache.kind {
        Some(CacheKind::None) => ground.start(configuration, Arc::new(NoCache)).await,
        Some(CacheKind::Embedded) | None => {
            let max_bytes = configuration.cache.max_bytes.0;
            let cache = EmbeddedCache::new(max_bytes, Arc::new(SystemClock));
            ground.start(configuration, Arc::new(cache)).await
        }
    }
}

/// What is there before the first tier is started.
struct Ground {
    platform: PlatformId,
    listeners: Listeners,
    storage: StorageSettings,
    coordination: Arc<MemoryCoordination>,
    descriptors: Descriptors,
    metrics: MetricsPage,
}

impl Ground {
    /// Starts the tiers from the lowest up.
    async fn start<C: Cache>(
        self,
        configuration: &Configuration,
        cache: Arc<C>,
    ) -> Result<Platform, Box<dyn std::error::Error>> {
        let Self {
            platform,
            listeners,
            storage,
            coordination,
            descriptors,
            metrics,
        } = self;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let connections = descriptors.for_peers(MAX_PEER_CONNECTIONS);
        let stream_bytes = configuration.limits.stream_bytes();
        let (node, cluster) = (NodeId::new("n1")?, ClusterId::new("c1")?);
        let settings = DataNodeSettings {
            connections,
            stream_bytes,
            ..DataNodeSettings::new(platform, node, cluster, storage)
        };
        let (store, shared) = (coordination.clone(), Arc::clone(&cache));
        let datanode = DataNode::start(settings, store, shared, Arc::clone(&clock)).await?;
        let settings = ServerCoordinatorSettings {
            connections,
            stream_bytes,
            ..ServerCoordinatorSettings::new(platform, NodeId::new("s1")?)
        };
        let server_coordinator = ServerCoordinator::start(settings, coordination.clone()).await?;
        let node = NodeId::new("cc1")?;
        let settings = configuration.client_coordinator(platform, node, descriptors, metrics);
        let client_coordinator =
            ClientCoordinator::start_on(listeners, settings, coordination, cache, clock).await?;
        Ok(Platform {
            datanode,
            server_coordinator,
            client_coordinator,
        })
    }
}

/// Founds the platform of one node, unless there is one. If only the coordination store is new, the
/// platform is that of the node's directory.
async fn found(
    coordination: &MemoryCoordination,
    cluster: &ClusterId,
    node_dir: &Path,
) -> Result<PlatformId, Box<dyn std::error::Error>> {
    let known = platform_of(Arc::new(RealDisk), node_dir)?;
    let founding = Founding {
        platform: known.unwrap_or_else(|| PlatformId(rand::random())),
        clusters: vec![FoundingCluster {
            id: cluster.clone(),
            weight: 1,
            members: vec![NodeId::new("n1")?],
        }],
        f_ms: DEFAULT_F_MS,
    };
    Ok(founding.ensure(coordination).await?)
}

async fn ready(client_coordinator: &ClientCoordinator) {
    while !client_coordinator.is_ready() {
        sleep(READY_PAUSE).await;
    }
}

/// The folder of the data node, in the data directory.
fn node_folder() -> PathBuf {
    ["c1", "n1"].iter().collect()
}

/// The text that is printed once the platform serves.
fn announcement(
    arguments: &DevArguments,
    file: Option<&Path>,
    data_dir: &Path,
    addresses: [SocketAddr; 2],
) -> String {
    let [grpc, rest] = addresses.map(reachable);
    let [grpc_remark, rest_remark] = addresses.map(remark);
    let data_dir = data_dir
        .canonicalize()
        .unwrap_or_else(|_| data_dir.to_owned());
    if arguments.output == Output::Json {
        let line = json!({
            "grpc": grpc.to_string(),
            "rest": rest.to_string(),
            "pid": std::process::id(),
            "data_dir": data_dir.to_string_lossy(),
            "config": file.map(Path::to_string_lossy),
        });
        return line.to_string();
    }
    let address = match grpc.port() {
        7400 if grpc.ip().is_loopback() => String::new(),
        _ => format!(" --address {grpc}"),
    };
    let kept = match arguments.ephemeral {
        true => "nothing is kept".to_owned(),
        false => data_dir.display().to_string(),
    };
    let configured = match file {
        Some(file) => file.display().to_string(),
        None => "no file; `tierkv config check` shows all values".to_owned(),
    };
    let after = if arguments.ephemeral {
        ""
    } else {
        "; the data is kept"
    };
    format!(
        "TierKV is running, every tier in this process.

  gRPC   {grpc}{grpc_remark}
  REST   http://{rest}{rest_remark}
  data   {kept}
  config {configured}

Try, in another terminal:

  curl -X PUT --data-binary 'hello' http://{rest}/v1/kv/default/greeting
  curl http://{rest}/v1/kv/default/greeting
  tierkv get greeting{address}
  tierkv status{address}
  curl http://{rest}/metrics

Ctrl-C stops it{after}."
    )
}
