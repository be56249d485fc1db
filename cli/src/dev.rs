//! `tierkv dev`: every tier in one process, with real gRPC over loopback between them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    process::{self, ExitCode},
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueEnum};
use serde_json::json;
use tempfile::TempDir;
use tierkv_cache::EmbeddedCache;
use tierkv_client_coordinator::{ClientCoordinator, Listeners};
use tierkv_coordination::MemoryCoordination;
use tierkv_datanode::{DataNode, DataNodeSettings};
use tierkv_protocol::placement::WeightedCluster;
use tierkv_server_coordinator::{ServerCoordinator, ServerCoordinatorSettings};
use tierkv_storage::{StorageError, WalSync};
use tierkv_types::{Clock, ClusterId, NodeId, SystemClock, limits::MAX_PEER_CONNECTIONS};
use tokio::time::sleep;

use crate::{
    configuration::{self, Configuration, ConfigurationArguments, Places},
    descriptors::Descriptors,
    metrics_page,
    outcome::{FAILED, Outcome},
    output,
    signals::Signals,
};

/// How often to check whether the platform is ready.
const READY_PAUSE: Duration = Duration::from_millis(10);

/// Options of `tierkv dev`.
#[derive(Args)]
pub(crate) struct DevArguments {
    #[command(flatten)]
    configuration: ConfigurationArguments,
    #[arg(long, value_name = "DIR", help = configuration::help("data_dir"))]
    data_dir: Option<String>,
    /// Keep no data: use a temporary directory instead of --data-dir, without syncs to disk, and
    /// remove it at the end.
    #[arg(long)]
    ephemeral: bool,
    #[arg(long, value_name = "IP:PORT", help = configuration::help("grpc_listen"))]
    grpc_listen: Option<String>,
    #[arg(long, value_name = "IP:PORT", help = configuration::help("rest_listen"))]
    rest_listen: Option<String>,
    /// Size limit of the embedded cache in MiB; sets cache.max_bytes.
    #[arg(long, value_name = "MIB")]
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

/// Runs until SIGTERM, Ctrl-C or SIGHUP, then stops in order and exits 0.
pub(crate) async fn run(arguments: DevArguments) -> Outcome {
    let mut signals = Signals::listen()?;
    let loaded = arguments.configuration.load(&arguments.flags());
    let file = loaded.file.clone();
    let configuration = loaded.accept()?;
    let Places {
        grpc_listen,
        rest_listen,
        ..
    } = configuration.places;
    // Dropped last, so that the directory is removed after all its files are closed.
    let throw_away = arguments.ephemeral.then(TempDir::new).transpose()?;
    let data_dir = throw_away
        .as_ref()
        .map_or(configuration.places.data_dir.as_path(), TempDir::path);
    for (door, address) in [("gRPC", grpc_listen), ("REST", rest_listen)] {
        if !address.ip().is_loopback() {
            output::note(format_args!(
                "WARNING: {door} is served on {address}, which other machines may reach. There is \
                 no authentication: anyone who can connect can read and change all data"
            ));
        }
    }
    let descriptors = Descriptors::raise()?;
    // A start may wait for a clock, or read a long log; nothing is served before it has ended.
    let platform = tokio::select! {
        started = start(&configuration, descriptors, arguments.ephemeral, data_dir) => started?,
        () = signals.stop() => return Ok(ExitCode::SUCCESS),
    };
    let failure = tokio::select! {
        () = ready(&platform.client_coordinator) => {
            say(announcement(&arguments, file.as_deref(), data_dir, &platform));
            tokio::select! {
                () = signals.stop() => None,
                why = platform.datanode.failed() => Some(why),
            }
        }
        () = signals.stop() => None,
        why = platform.datanode.failed() => Some(why),
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
    let metrics = metrics_page::gather()?;
    descriptors.show();
    let settings = configuration.client_coordinator(NodeId::new("cc1")?, descriptors, metrics);
    let peers = descriptors.for_peers(MAX_PEER_CONNECTIONS);
    let stream_bytes = configuration.limits.stream_bytes();
    let listeners = Listeners::bind(&settings).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let cluster = ClusterId::new("c1")?;
    let mut storage = configuration.storage(data_dir.join("c1").join("n1"));
    let coordination = match is_ephemeral {
        true => {
            storage.sync = WalSync::Never;
            MemoryCoordination::ephemeral()
        }
        false => MemoryCoordination::open(&data_dir.join("coordination"))?,
    };
    let cache = Arc::new(EmbeddedCache::new(
        configuration.cache.max_bytes.0,
        Arc::clone(&clock),
    ));
    let datanode = DataNode::start(
        DataNodeSettings {
            connections: peers,
            stream_bytes,
            ..DataNodeSettings::new(NodeId::new("n1")?, cluster.clone(), storage)
        },
        coordination.clone(),
        Arc::clone(&cache),
        Arc::clone(&clock),
    )
    .await?;
    let server_coordinator = ServerCoordinator::start(
        ServerCoordinatorSettings {
            connections: peers,
            stream_bytes,
            ..ServerCoordinatorSettings::new(
                NodeId::new("s1")?,
                vec![WeightedCluster {
                    id: cluster,
                    weight: 1,
                }],
            )
        },
        coordination.clone(),
    )
    .await?;
    let client_coordinator =
        ClientCoordinator::start_on(listeners, settings, coordination, cache, clock).await?;
    Ok(Platform {
        datanode,
        server_coordinator,
        client_coordinator,
    })
}

async fn ready(client_coordinator: &ClientCoordinator) {
    while !client_coordinator.is_ready() {
        sleep(READY_PAUSE).await;
    }
}

/// The text that is printed once the platform serves.
fn announcement(
    arguments: &DevArguments,
    file: Option<&Path>,
    data_dir: &Path,
    platform: &Platform,
) -> String {
    let grpc = reachable(platform.client_coordinator.grpc_address());
    let rest = reachable(platform.client_coordinator.rest_address());
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

  gRPC   {grpc}
  REST   http://{rest}
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

/// An address that clients on this machine can use: loopback for a server that listens on all
/// addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
