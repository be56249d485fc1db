//! What an operator may set about a data node's storage.

use std::{path::PathBuf, time::Duration};

/// When an appended record counts as durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WalSync {
    /// After an fsync: an acknowledged write survives the machine's crash.
    #[default]
    Always,
    /// After the write alone: it survives the process's crash, not the machine's. Only
    /// for data that may be thrown away.
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
