//! What operations answer.

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
    /// A tier that this release does not know.
    Unknown,
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The value; `None` if the key is absent.
    pub value: Option<Bytes>,
    /// The value's version; of an absent key, the version up to which that is known.
    pub version: u64,
    /// Who answered.
    pub source: Source,
    /// An upper bound of how stale the answer was when the read arrived.
    pub age: Duration,
    /// When the key expires, by the cluster's clock; `None` if it does not.
    pub expires_at: Option<SystemTime>,
    /// The tiers that the read went through, the first one first, if
    /// [`ReadOptions::explain`](crate::ReadOptions::explain) asked for them.
    pub path: Vec<Hop>,
}

/// One tier on a read's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// `client-coordinator`, `cache`, `server-coordinator` or `datanode`.
    pub tier: String,
    /// Its name, as the topology tells it.
    pub node: String,
    /// How long until it had its answer, the tiers below it included.
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

/// When a key expires, as it goes over the wire; 0 never.
pub(crate) fn expires_at(millis: u64) -> Option<SystemTime> {
    match millis {
        0 => None,
        at => UNIX_EPOCH.checked_add(Duration::from_millis(at)),
    }
}

/// What a delete did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// Whether the key was there.
    pub existed: bool,
    /// The deletion's version; of an absent key, the version up to which that is known.
    pub version: u64,
}

/// What an increment did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incremented {
    /// The number after it.
    pub value: i64,
    /// The new version.
    pub version: u64,
}

/// What an atomic batch did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The version of everything it changed.
    pub version: u64,
    /// What became of each key, in the order of the batch.
    pub changes: Vec<Changed>,
    /// An earlier attempt had been applied, and this is what it did then; what keys held
    /// before is not remembered.
    pub replayed: bool,
}

/// What one change of a batch did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Whether the key was there before: of a delete, and with
    /// [`return_previous`](crate::Write::return_previous) of every change.
    pub existed: bool,
    /// With `return_previous`, what the key held before, if it was there.
    pub previous: Option<Previous>,
    /// Of an increment: the number after it.
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
