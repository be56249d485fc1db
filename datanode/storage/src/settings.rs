//! The settings of a data node's storage.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use tierkv_types::PlatformId;

const MIB: u64 = 1 << 20;

/// When an appended record counts as durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WalSync {
    /// After an fsync: an acknowledged write survives a crash of the machine.
    #[default]
    Always,
    /// After the write, with an fsync at most this long after it. The write survives a crash
    /// of the process; a crash of the machine may lose the last writes. After that the node
    /// is used again only once an operator, or its cluster, readmits it (REP-LOGID).
    Interval(Duration),
    /// After the write, without any fsync. Only for data that may be lost.
    Never,
}

impl WalSync {
    /// Whether files are synced at all.
    pub(crate) const fn syncs(self) -> bool {
        match self {
            Self::Always | Self::Interval(_) => true,
            Self::Never => false,
        }
    }
}

/// Which clean entry is evicted first when memory is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EvictionPolicy {
    /// `lru`: the one whose last use is longest ago (least recently used).
    Lru,
    /// `lfu`: the one used least often recently, counting uses before its admission too.
    Lfu,
    /// `fifo`: the one admitted first.
    Fifo,
    /// `s3fifo`: the one admitted first and not used since, new entries before old ones.
    #[default]
    S3Fifo,
}

impl EvictionPolicy {
    const ALL: [Self; 4] = [Self::Lru, Self::Lfu, Self::Fifo, Self::S3Fifo];

    const fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::Lfu => "lfu",
            Self::Fifo => "fifo",
            Self::S3Fifo => "s3fifo",
        }
    }
}

impl fmt::Display for EvictionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EvictionPolicy {
    type Err = UnknownEvictionPolicy;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|policy| policy.name() == name);
        found.ok_or_else(|| UnknownEvictionPolicy(name.to_owned()))
    }
}

/// A name that is no [`EvictionPolicy`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no eviction policy {0:?}; there are lru, lfu, fifo and s3fifo")]
pub struct UnknownEvictionPolicy(String);

/// Limits of the clean entries in memory.
///
/// They are split evenly over the memory tier's 64 shards, so that all shards together never
/// keep more. An entry larger than a shard's share is not kept. With fewer records than shards,
/// some shards keep one record and the others none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Which entry is evicted first. Default `S3Fifo`.
    pub policy: EvictionPolicy,
    /// Most entries. Default [`MemoryLimits::UNBOUNDED`]; 0 keeps none.
    pub max_records: u64,
    /// Most bytes: keys, values, and the index and queues of the entries, as far as they can be
    /// counted. Default 512 MiB; 0 keeps none.
    pub max_bytes: u64,
}

impl MemoryLimits {
    /// A limit that is never reached.
    pub const UNBOUNDED: u64 = u64::MAX;

    /// The limit of records from an operator's setting, where 0 is no limit.
    #[must_use]
    pub const fn records_from(said: u64) -> u64 {
        if said == 0 { Self::UNBOUNDED } else { said }
    }

    /// The limit of records as an operator's setting: 0 if there is none.
    #[must_use]
    pub const fn said_records(&self) -> u64 {
        if self.max_records == Self::UNBOUNDED {
            0
        } else {
            self.max_records
        }
    }
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self {
            policy: EvictionPolicy::default(),
            max_records: Self::UNBOUNDED,
            max_bytes: 512 * MIB,
        }
    }
}

/// Settings of one node's storage.
#[derive(Clone, Debug)]
pub struct StorageSettings {
    /// The directory of all files; created if it is missing.
    pub dir: PathBuf,
    /// The platform that the node belongs to: a directory of another platform is refused, one of
    /// none belongs to this one from then on. Default `None`: any.
    pub platform: Option<PlatformId>,
    /// Size of one log segment, allocated whole. Default 64 MiB.
    pub segment_bytes: u64,
    /// Longest time between two checkpoints while there is something to store. Default 30 s: each
    /// writes a changed page once, however often it changed.
    pub checkpoint_interval: Duration,
    /// Bytes of entries not yet stored that trigger a checkpoint at once. Default 32 MiB.
    pub checkpoint_bytes: u64,
    /// Bytes of entries not yet stored over which writers wait. Default 256 MiB.
    pub pinned_limit_bytes: u64,
    /// The first limits of the clean entries in memory; they may be changed at run time.
    /// Default: see [`MemoryLimits`].
    pub memory: MemoryLimits,
    /// How long records stay in the log once the store has them, by the cluster clock, so that
    /// watches can resume. Default 10 min.
    pub log_retention: Duration,
    /// Bytes of log over which records are removed earlier; a [hold](crate::LogHold) keeps them up
    /// to twice as many. Default 8 GiB.
    pub log_limit_bytes: u64,
    /// When a record counts as durable. Default `Always`.
    pub sync: WalSync,
}

impl StorageSettings {
    /// The defaults, in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            platform: None,
            segment_bytes: 64 * MIB,
            checkpoint_interval: Duration::from_secs(30),
            checkpoint_bytes: 32 * MIB,
            pinned_limit_bytes: 256 * MIB,
            memory: MemoryLimits::default(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policys_name_is_read_back_and_another_is_refused_in_words() {
        for policy in EvictionPolicy::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert_eq!("s3fifo".parse(), Ok(EvictionPolicy::default()));
        let refused = "LRU".parse::<EvictionPolicy>().unwrap_err();
        assert_eq!(
            refused.to_string(),
            "there is no eviction policy \"LRU\"; there are lru, lfu, fifo and s3fifo"
        );
    }
}
