//! What an operator may set about a data node's storage.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

const MIB: u64 = 1 << 20;

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

impl WalSync {
    /// Whether files are synced at all.
    pub(crate) const fn syncs(self) -> bool {
        match self {
            Self::Always | Self::Interval(_) => true,
            Self::Never => false,
        }
    }
}

/// Which clean entry goes first when memory is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EvictionPolicy {
    /// `lru`: the one whose last use is longest ago.
    Lru,
    /// `lfu`: the one used least often lately, counting also uses before it came.
    Lfu,
    /// `fifo`: the one that came first.
    Fifo,
    /// `s3fifo`: the one that came first and was not used since, new ones before old.
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

/// A name that is none of an [`EvictionPolicy`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no eviction policy {0:?}; there are lru, lfu, fifo and s3fifo")]
pub struct UnknownEvictionPolicy(String);

/// Bounds of the entries that memory keeps though the store has them.
///
/// They are split evenly over the memory tier's 64 shards, so that together these never
/// keep more. An entry larger than a shard's part is not kept, and of fewer records than
/// shards each record is another shard's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Which entry goes first. Default `S3Fifo`.
    pub policy: EvictionPolicy,
    /// Most entries. Default [`MemoryLimits::UNBOUNDED`]; 0 keeps none.
    pub max_records: u64,
    /// Most bytes: keys, values and all that finds and orders them, as far as they can be
    /// counted. Default 512 MiB; 0 keeps none.
    pub max_bytes: u64,
}

impl MemoryLimits {
    /// A bound that nothing reaches.
    pub const UNBOUNDED: u64 = u64::MAX;

    /// A bound of records as operators say it, where 0 is none.
    #[must_use]
    pub const fn records_from(said: u64) -> u64 {
        if said == 0 { Self::UNBOUNDED } else { said }
    }

    /// The bound of records as operators say it: 0 if there is none.
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
    /// What is kept in memory of what is stored, to begin with: it may be changed while
    /// running. Default: see [`MemoryLimits`].
    pub memory: MemoryLimits,
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
        Self {
            dir: dir.into(),
            segment_bytes: 64 * MIB,
            checkpoint_interval: Duration::from_secs(1),
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
