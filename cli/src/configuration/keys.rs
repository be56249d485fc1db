//! Every key, declared once: its meaning, its type and its default. The file, the
//! environment, `--set`, `config check`, `config sample` and `--help` all use these
//! declarations.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use tierkv_client_coordinator::{
    ClientCoordinatorSettings, ConnectionLimits, HostName, MetricsPage, WebOrigin,
};
use tierkv_coordination::Location;
use tierkv_storage::{EvictionPolicy, MemoryLimits, StorageSettings, WalSync};
use tierkv_types::{ClusterId, NodeId, PlatformId, limits::DEFAULT_MAX_STALENESS};

use super::{
    ByteSize, HostPort,
    reader::Reader,
    setting::{CacheKind, SyncMode},
};
use crate::descriptors::Descriptors;

/// Declares a section: a struct with one documented field for each key, and a function that
/// reads it. Operators see the field docs verbatim.
macro_rules! section {
    (
        $(#[$about:meta])*
        $name:ident at $prefix:literal {
            $( $(#[doc = $meaning:literal])+ $field:ident: $type:ty = $default:expr; )+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug)]
        pub(crate) struct $name {
            $( $(#[doc = $meaning])+ pub(crate) $field: $type, )+
        }

        impl $name {
            fn read(reader: &mut Reader<'_>) -> Self {
                Self {
                    $( $field: reader.take(
                        concat!($prefix, stringify!($field)),
                        concat!($($meaning),+),
                        $default,
                    ), )+
                }
            }
        }
    };
}

section! {
    /// Paths and addresses: the keys outside any section.
    Places at "" {
        /// Folder of all data. A relative path is relative to the working directory.
        data_dir: PathBuf = PathBuf::from("tierkv-data");
        /// Name of this process in its tier, as n1 or s1; not for `tierkv dev`.
        node: Option<NodeId> = None;
        /// Cluster of a data node.
        cluster: Option<ClusterId> = None;
        /// Address on which a data node or a server coordinator listens for other tiers; port 0
        /// takes a free one. Without it, port 7600 of a data node and 7500 of a server coordinator,
        /// on loopback.
        listen: Option<SocketAddr> = None;
        /// Address under which other processes reach this one, as HOST:PORT, if it is not the one
        /// on which it listens.
        advertise: Option<HostPort> = None;
        /// Address of /metrics and /health of a data node or a server coordinator; port 0 takes a
        /// free one. Without it, port 7680 of a data node and 7580 of a server coordinator, on
        /// loopback. A client coordinator has them on its REST server.
        metrics_listen: Option<SocketAddr> = None;
        /// Address of the gRPC server; port 0 takes a free one.
        grpc_listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 7400));
        /// Address of the REST server; port 0 takes a free one.
        rest_listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 7480));
    }
}

section! {
    /// The store of the platform's metadata.
    CoordinationKeys at "coordination." {
        /// Where it is: "memory:" (in the process, for `tierkv dev` only), or the endpoints of an
        /// etcd cluster and a name for this platform in it, as in
        /// "etcd://10.0.0.1:2379,10.0.0.2:2379/shop"; etcds:// uses TLS.
        url: Location = Location::Memory;
        /// User at etcd, if it requires one.
        user: Option<String> = None;
        /// File with the user's password in its first line.
        password_file: Option<PathBuf> = None;
        /// PEM file with the certificates of the authorities that signed etcd's certificate;
        /// without it, those of the system count.
        ca_file: Option<PathBuf> = None;
        /// PEM file with this process's certificate, if etcd requires one.
        cert_file: Option<PathBuf> = None;
        /// PEM file with the certificate's private key.
        key_file: Option<PathBuf> = None;
    }
}

section! {
    /// The cache tier.
    Cache at "cache." {
        /// The kind of cache: "embedded" in the process, which only `tierkv dev` can use, or "none".
        /// Without it, `tierkv dev` embeds one and other processes have none.
        kind: Option<CacheKind> = None;
        /// Size limit of the embedded cache.
        max_bytes: ByteSize = ByteSize(256 << 20);
    }
}

section! {
    /// The REST gateway.
    Rest at "rest." {
        /// Host names that REST accepts, besides localhost and the loopback addresses. While REST
        /// listens on loopback only, or if any are listed, all others are refused, because a web
        /// page can make any other name resolve to this machine.
        allowed_hosts: Vec<HostName> = Vec::new();
        /// Origins of web pages that may use REST, as in "https://app.example.com". Browser
        /// requests from pages of other origins are refused.
        allowed_origins: Vec<WebOrigin> = Vec::new();
    }
}

section! {
    /// Reads.
    Reads at "reads." {
        /// How stale an answer may be if the read has no bound of its own, from 2050 to 60000. The
        /// cache answers only within this bound.
        max_staleness_ms: u64 = millis(DEFAULT_MAX_STALENESS);
    }
}

section! {
    /// The commit log.
    Wal at "wal." {
        /// When an acknowledged write is synced to disk: "always" before the acknowledgement, or
        /// "interval" at most wal.sync_interval_ms later; a crash of the machine can lose the
        /// writes in between.
        sync: SyncMode = SyncMode::Always;
        /// Longest time until acknowledged writes are synced, if wal.sync is "interval".
        sync_interval_ms: u64 = 100;
        /// Size of one file of the log. A write larger than this is refused.
        segment_bytes: ByteSize = ByteSize(defaults().segment_bytes);
        /// Size limit of the log on disk. Over it, records are removed before wal.retention_ms,
        /// once the store has them.
        max_bytes: ByteSize = ByteSize(defaults().log_limit_bytes);
        /// How long records stay in the log once the store has them. As far back as that, watches
        /// can resume.
        retention_ms: u64 = millis(defaults().log_retention);
    }
}

section! {
    /// The memory tier.
    Memory at "memory." {
        /// Which stored record is evicted from memory first when a bound is reached: "s3fifo",
        /// "lru", "lfu" or "fifo". `tierkv admin memory` changes this key and the next two at run
        /// time.
        policy: EvictionPolicy = defaults().memory.policy;
        /// Most stored records kept in memory; 0 means no bound.
        max_records: u64 = 0;
        /// Most bytes of these records, including what it takes to index them.
        max_bytes: ByteSize = ByteSize(defaults().memory.max_bytes);
        /// Bytes of records that the store does not have yet; at this bound writers wait.
        pinned_max_bytes: ByteSize = ByteSize(defaults().pinned_limit_bytes);
    }
}

section! {
    /// The SQL store.
    Store at "store." {
        /// Longest time between two checkpoints while there are records to store.
        checkpoint_interval_ms: u64 = millis(defaults().checkpoint_interval);
        /// Bytes of records not yet stored that start a checkpoint at once.
        checkpoint_bytes: ByteSize = ByteSize(defaults().checkpoint_bytes);
    }
}

section! {
    /// The threads of the process.
    Threads at "threads." {
        /// Threads that serve requests. 0: as many as the machine has cores for `tierkv dev`; half
        /// as many, at least one, for a process of one role, which shares the machine with other
        /// roles. The log and the store have threads of their own.
        workers: u64 = 0;
    }
}

impl Threads {
    /// The worker threads; `None` if the process chooses.
    pub(crate) fn workers(&self) -> Option<NonZeroUsize> {
        NonZeroUsize::new(usize::try_from(self.workers).unwrap_or_default())
    }
}

section! {
    /// Limits of the gRPC and REST servers.
    Limits at "limits." {
        /// Most connections to gRPC and REST together; further ones are closed at once. At most 4/5
        /// of the file descriptors of the process (ulimit -Hn): the rest is for files.
        connections: u64 = doors().connections as u64;
        /// Most bytes of answers buffered for slow clients; between tiers four times as much. From
        /// half of it on, streams with unsent answers wait, and slow clients are disconnected.
        stream_bytes: ByteSize = ByteSize(doors().stream_bytes as u64);
        /// Timeout for the head of a REST request, and for the first bytes of a gRPC connection.
        head_timeout_ms: u64 = millis(doors().head_timeout);
        /// Timeout for the body of a request; streams are exempt.
        body_timeout_ms: u64 = millis(doors().body_timeout);
        /// How long a REST connection may be idle before it is closed.
        rest_idle_timeout_ms: u64 = millis(doors().rest_idle_timeout);
        /// How often a gRPC client is pinged.
        grpc_ping_interval_ms: u64 = millis(doors().ping_interval);
        /// How long a client may take to answer a ping before its connection is closed.
        grpc_ping_timeout_ms: u64 = millis(doors().ping_timeout);
    }
}

impl Limits {
    /// Most bytes of answers buffered for clients.
    pub(crate) fn stream_bytes(&self) -> usize {
        usize::try_from(self.stream_bytes.0).unwrap_or(usize::MAX)
    }
}

/// The whole configuration.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    /// Paths and addresses.
    pub(crate) places: Places,
    /// The store of the platform's metadata.
    pub(crate) coordination: CoordinationKeys,
    /// The cache tier.
    pub(crate) cache: Cache,
    /// The REST gateway.
    pub(crate) rest: Rest,
    /// Reads.
    pub(crate) reads: Reads,
    /// The threads of the process.
    pub(crate) threads: Threads,
    /// Limits of the gRPC and REST servers.
    pub(crate) limits: Limits,
    /// The commit log.
    pub(crate) wal: Wal,
    /// The memory tier.
    pub(crate) memory: Memory,
    /// The SQL store.
    pub(crate) store: Store,
}

impl Configuration {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            places: Places::read(reader),
            coordination: CoordinationKeys::read(reader),
            cache: Cache::read(reader),
            rest: Rest::read(reader),
            reads: Reads::read(reader),
            threads: Threads::read(reader),
            limits: Limits::read(reader),
            wal: Wal::read(reader),
            memory: Memory::read(reader),
            store: Store::read(reader),
        }
    }

    /// Settings of the client coordinator `node`, in a process with these descriptors.
    pub(crate) fn client_coordinator(
        &self,
        platform: PlatformId,
        node: NodeId,
        descriptors: Descriptors,
        metrics: MetricsPage,
    ) -> ClientCoordinatorSettings {
        let limits = &self.limits;
        ClientCoordinatorSettings {
            grpc_listen: self.places.grpc_listen,
            rest_listen: self.places.rest_listen,
            rest_allowed_hosts: self.rest.allowed_hosts.clone(),
            rest_allowed_origins: self.rest.allowed_origins.clone(),
            max_staleness: Duration::from_millis(self.reads.max_staleness_ms),
            limits: ConnectionLimits {
                connections: descriptors.for_users(limits.connections),
                stream_bytes: limits.stream_bytes(),
                head_timeout: Duration::from_millis(limits.head_timeout_ms),
                body_timeout: Duration::from_millis(limits.body_timeout_ms),
                rest_idle_timeout: Duration::from_millis(limits.rest_idle_timeout_ms),
                ping_interval: Duration::from_millis(limits.grpc_ping_interval_ms),
                ping_timeout: Duration::from_millis(limits.grpc_ping_timeout_ms),
            },
            advertise: (self.places.advertise.as_ref()).map(|address| address.0.clone()),
            ..ClientCoordinatorSettings::new(platform, node, metrics)
        }
    }

    /// Settings of a data node's storage in `dir`.
    pub(crate) fn storage(&self, dir: PathBuf) -> StorageSettings {
        let Self {
            wal, memory, store, ..
        } = self;
        StorageSettings {
            segment_bytes: wal.segment_bytes.0,
            checkpoint_interval: Duration::from_millis(store.checkpoint_interval_ms),
            checkpoint_bytes: store.checkpoint_bytes.0,
            pinned_limit_bytes: memory.pinned_max_bytes.0,
            memory: MemoryLimits {
                policy: memory.policy,
                max_records: MemoryLimits::records_from(memory.max_records),
                max_bytes: memory.max_bytes.0,
            },
            log_retention: Duration::from_millis(wal.retention_ms),
            log_limit_bytes: wal.max_bytes.0,
            sync: match wal.sync {
                SyncMode::Always => WalSync::Always,
                SyncMode::Interval => {
                    WalSync::Interval(Duration::from_millis(wal.sync_interval_ms))
                }
            },
            ..StorageSettings::new(dir)
        }
    }
}

/// The default limits of the gRPC and REST servers.
fn doors() -> ConnectionLimits {
    ConnectionLimits::default()
}

/// The default settings of storage, which are the defaults of its keys.
fn defaults() -> StorageSettings {
    StorageSettings::default()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
