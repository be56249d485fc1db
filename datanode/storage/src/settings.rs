//! What an operator may set about a data node's storage.

use std::{path::PathBuf, time::Duration};

/// When an appended record counts as durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WalSync {
    /// After an fsync: an acknowledged write survives the machine's crash.
    #[default]
    Always,
    /// After the write alone, with an fsync this long after it at the latest: it survives
    /// the process's crash, and the machine's but for what was written last. After a
    /// crash of the machine the node is trusted again only when an operator, or its
    /// cluster, says so (REP-LOGID).
    Interval(Duration),
    /// After the write alone, with no fsync ever. Only for data that is thrown away.
    Never,
}

/// Settings of one node's storage.
#[derive(Clone, Debug)]
pub struct StorageSettings {
    /// The directory that holds everything; made if it is missing.
    pub dir: PathBuf,
    /// Size of one log segment, allocated whole. Default 64 MiB.
    pub segment_bytes: u64,
    /// Longest time between two checkpoints while there is something to store. Default 1 s.
    pub checkpoint_interval: Duration,
    /// Bytes of entries not yet stored that trigger a checkpoint at once. Default 32 MiB.
    pub checkpoint_bytes: u64,
    /// Bytes of entries not yet stored over which writers wait. Default 256 MiB.
    pub pinned_limit_bytes: u64,
    /// Bytes of stored entries kept in memory. Default 512 MiB.
    pub clean_limit_bytes: u64,
    /// How long records stay in the log once the store has them, by the cluster clock, for
    /// watchers, rejoining nodes and the cache. Default 10 min.
    pub log_retention: Duration,
    /// Bytes of log over which records go sooner than that. Default 8 GiB.
    pub log_limit_bytes: u64,
    /// When a record counts as durable. Default `Always`.
    pub sync: WalSync,
}

impl StorageSettings {
    /// The defaults, in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            dir: dir.into(),
            segment_bytes: 64 * MIB,
            checkpoint_interval: Duration::from_secs(1),
            checkpoint_bytes: 32 * MIB,
            pinned_limit_bytes: 256 * MIB,
            clean_limit_bytes: 512 * MIB,
            log_retention: Duration::from_secs(600),
            log_limit_bytes: 8 << 30,
            sync: WalSync::Always,
        }
    }
}

impl Default for StorageSettings {
    /// The defaults, in `./tierkv-data`.
    fn default() -> Self {
        Self::new("tierkv-data")
    }
}
