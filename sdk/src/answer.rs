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
            expires_at: match response.expires_at_ms {
                0 => None,
                at => UNIX_EPOCH.checked_add(Duration::from_millis(at)),
            },
        }
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
