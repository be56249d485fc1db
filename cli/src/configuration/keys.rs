//! Every key, declared once: its meaning, its type and its default. The file, the
//! environment, `--set`, `config check`, `config sample` and `--help` all come from here.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use tierkv_client_coordinator::{
    ClientCoordinatorSettings, ConnectionLimits, HostName, MetricsPage, WebOrigin,
};
use tierkv_storage::{EvictionPolicy, MemoryLimits, StorageSettings, WalSync};
use tierkv_types::{NodeId, limits::DEFAULT_MAX_STALENESS};

use super::{ByteSize, reader::Reader, setting::SyncMode};
use crate::descriptors::Descriptors;

/// Declares a section: a struct with a documented field a key, and how it is read. Field
/// docs are told to operators word for word.
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
    /// Where things are: the keys outside any section.
    Places at "" {
        /// Where everything is kept. A relative path begins at the working directory.
        data_dir: PathBuf = PathBuf::from("tierkv-data");
        /// Where gRPC is served; port 0 takes a free one.
        grpc_listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 7400));
        /// Where REST is served; port 0 takes a free one.
        rest_listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 7480));
    }
}

section! {
    /// The embedded cache.
    Cache at "cache." {
        /// How much the embedded cache may hold.
        max_bytes: ByteSize = ByteSize(256 << 20);
    }
}

section! {
    /// The REST gateway.
    Rest at "rest." {
        /// Host names that REST answers to, beside localhost and the addresses of loopback.
        /// While it listens on loopback only, or if any are listed, it answers to no others: a
        /// web page can have any other name lead here.
        allowed_hosts: Vec<HostName> = Vec::new();
        /// Origins of web pages that may use REST, as in "https://app.example.com". What
        /// browsers send for pages of other origins is refused.
        allowed_origins: Vec<WebOrigin> = Vec::new();
    }
}

section! {
    /// Reads.
    Reads at "reads." {
        /// How stale an answer may be where the read names no bound of its own, from 2050 to
        /// 60000. The cache answers only within it.
        max_staleness_ms: u64 = millis(DEFAULT_MAX_STALENESS);
    }
}

section! {
    /// The commit log.
    Wal at "wal." {
        /// When an acknowledged write is on the disk: "always" before the acknowledgement,
        /// or "interval" at most wal.sync_interval_ms later, which a crash of the machine can
        /// lose.
        sync: SyncMode = SyncMode::Always;
        /// Longest time to the sync of what was acknowledged, where wal.sync is "interval".
        sync_interval_ms: u64 = 100;
        /// Size of one file of the log. A write larger than it is refused.
        segment_bytes: ByteSize = ByteSize(defaults().segment_bytes);
        /// Size of the log on disk over which records go sooner than wal.retention_ms, as soon
        /// as the store has them.
        max_bytes: ByteSize = ByteSize(defaults().log_limit_bytes);
        /// How long records stay in the log once the store has them, for watchers, rejoining
        /// nodes and the cache. Under 8 minutes a restarted master may do without the cache
        /// for a while.
        retention_ms: u64 = millis(defaults().log_retention);
    }
}

section! {
    /// The memory tier.
    Memory at "memory." {
        /// Which stored record leaves memory first when a bound is reached: "s3fifo", "lru",
        /// "lfu" or "fifo". `tierkv admin memory` changes this and the next two while running.
        policy: EvictionPolicy = defaults().memory.policy;
        /// Most records kept in memory that the store has too; 0 is no bound.
        max_records: u64 = 0;
        /// Most bytes of those records, with what it takes to find them.
        max_bytes: ByteSize = ByteSize(defaults().memory.max_bytes);
        /// Bytes of records that the store does not have yet over which writers wait.
        pinned_max_bytes: ByteSize = ByteSize(defaults().pinned_limit_bytes);
    }
}

section! {
    /// The SQL store.
    Store at "store." {
        /// Longest time between two checkpoints while there is something to store.
        checkpoint_interval_ms: u64 = millis(defaults().checkpoint_interval);
        /// Bytes of records not yet stored that make a checkpoint at once.
        checkpoint_bytes: ByteSize = ByteSize(defaults().checkpoint_bytes);
    }
}

section! {
    /// Limits of the doors that users come in by.
    Limits at "limits." {
        /// Most connections at all doors together; what is over it is closed at once. Never
        /// more than 4/5 of the file descriptors that the process may have (ulimit -Hn): the
        /// rest is for files.
        connections: u64 = doors().connections as u64;
        /// Bytes of answers that wait for clients which have not taken them, in each tier. Over
        /// it streams wait for room, and connections whose clients take nothing are closed.
        stream_bytes: ByteSize = ByteSize(doors().stream_bytes as u64);
        /// How long the head of a request may take to arrive; of gRPC, the first bytes of a
        /// connection.
        head_timeout_ms: u64 = millis(doors().head_timeout);
        /// How long the body of a request may take to arrive; streams are free of it.
        body_timeout_ms: u64 = millis(doors().body_timeout);
        /// How long a REST connection may have nothing to do before it is closed.
        rest_idle_timeout_ms: u64 = millis(doors().rest_idle_timeout);
        /// How often a gRPC client is asked whether it lives.
        grpc_ping_interval_ms: u64 = millis(doors().ping_interval);
        /// How long it may take to answer before its connection is closed.
        grpc_ping_timeout_ms: u64 = millis(doors().ping_timeout);
    }
}

impl Limits {
    /// Most bytes of answers that wait for clients.
    pub(crate) fn stream_bytes(&self) -> usize {
        usize::try_from(self.stream_bytes.0).unwrap_or(usize::MAX)
    }
}

/// Everything that may be configured.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    /// Where things are.
    pub(crate) places: Places,
    /// The embedded cache.
    pub(crate) cache: Cache,
    /// The REST gateway.
    pub(crate) rest: Rest,
    /// Reads.
    pub(crate) reads: Reads,
    /// Limits of the doors.
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
            cache: Cache::read(reader),
            rest: Rest::read(reader),
            reads: Reads::read(reader),
            limits: Limits::read(reader),
            wal: Wal::read(reader),
            memory: Memory::read(reader),
            store: Store::read(reader),
        }
    }

    /// A client coordinator of the name `node`, in a process with these descriptors.
    pub(crate) fn client_coordinator(
        &self,
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
            ..ClientCoordinatorSettings::new(node, metrics)
        }
    }

    /// A data node's storage in `dir`.
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

/// How the doors are bounded if nobody says anything.
fn doors() -> ConnectionLimits {
    ConnectionLimits::default()
}

/// What storage does if nobody says anything: where it has a default, that is the key's.
fn defaults() -> StorageSettings {
    StorageSettings::default()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
