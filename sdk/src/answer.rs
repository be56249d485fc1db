//! The answers of operations.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tierkv_rpc::proto::v1;

/// The tier that answered a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The cache tier.
    Cache,
    /// A replica of the key's cluster.
    Replica,
    /// The master of the key's cluster.
    Master,
    /// A tier that this release does not have.
    Unknown,
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The value; `None` if the key is absent.
    pub value: Option<Bytes>,
    /// The value's version. For an absent key: the version up to which its absence is known.
    pub version: u64,
    /// The tier that answered.
    pub source: Source,
    /// An upper bound of how stale the answer was when the read arrived.
    pub age: Duration,
    /// When the key expires, by the cluster's clock; `None` if it does not.
    pub expires_at: Option<SystemTime>,
    /// The tiers that the read went through, in order. Filled only with
    /// [`ReadOptions::explain`](crate::ReadOptions::explain).
    pub path: Vec<Hop>,
}

/// One tier on the path of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// `client-coordinator`, `cache`, `server-coordinator` or `datanode`.
    pub tier: String,
    /// The node's name, as in the topology.
    pub node: String,
    /// How long this tier took, including the tiers below it.
    pub took: Duration,
}

impl From<v1::GetResponse> for Found {
    fn from(response: v1::GetResponse) -> Self {
        let source = match v1::Source::try_from(response.source) {
            Ok(v1::Source::Cache) => Source::Cache,
            Ok(v1::Source::Replica) => Source::Replica,
            Ok(v1::Source::Master) => Source::Master,
            Ok(v1::Source::Unspecified) | Err(_) => Source::Unknown,
        };
        Self {
            value: response.found.then_some(response.value),
            version: response.version,
            source,
            age: Duration::from_millis(response.age_ms.into()),
            expires_at: expires_at(response.expires_at_ms),
            path: (response.path.into_iter())
                .map(|hop| Hop {
                    tier: hop.tier,
                    node: hop.node,
                    took: Duration::from_micros(hop.micros),
                })
                .collect(),
        }
    }
}

/// Converts an expiry time from the wire, where 0 means never.
pub(crate) fn expires_at(millis: u64) -> Option<SystemTime> {
    match millis {
        0 => None,
        at => UNIX_EPOCH.checked_add(Duration::from_millis(at)),
    }
}

/// The result of a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// Whether the key existed.
    pub existed: bool,
    /// The version of the deletion. For an absent key: the version up to which its absence is
    /// known.
    pub version: u64,
}

/// The result of an increment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incremented {
    /// The number after the increment.
    pub value: i64,
    /// The new version.
    pub version: u64,
}

/// The result of an atomic batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The version of all its changes.
    pub version: u64,
    /// The result of each change, in the order of the batch.
    pub changes: Vec<Changed>,
    /// Whether an earlier attempt had already been applied. The answer then repeats its result,
    /// without the previous values: they are not stored.
    pub replayed: bool,
}

/// The result of one change of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Whether the key existed before. Set for a delete, and with
    /// [`return_previous`](crate::Write::return_previous) for every change.
    pub existed: bool,
    /// With `return_previous`: what the key held before, if it existed.
    pub previous: Option<Previous>,
    /// For an increment: the number after it.
    pub number: Option<i64>,
}

/// What a key held before it was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previous {
    /// The value.
    pub value: Bytes,
    /// Its version.
    pub version: u64,
}

impl Changed {
    pub(crate) fn new(result: v1::WriteResult, is_increment: bool) -> Self {
        let version = result.previous_version;
        Self {
            existed: result.existed,
            previous: (result.previous_value).map(|value| Previous { value, version }),
            number: is_increment.then_some(result.number),
        }
    }
}
