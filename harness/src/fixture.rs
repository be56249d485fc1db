//! Data of an earlier release, with a list of its content.
//!
//! A fixture is a directory: `data/` is the data directory of a platform that was killed, and
//! `content.json` lists all acknowledged writes. Reading order: [`Fixture`], then the parts of
//! the list in the order of its fields.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use tierkv_types::{
    Epoch, Index, ItemKey, Operation, OperationKind, Position, RequestId, Version, WriteRequest,
};

use crate::error::{Error, io_error};

/// The storage directory of the only data node, in a platform's data directory.
const NODE: &str = "c1/n1";

/// The list of a fixture's content: acknowledged writes only.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixture {
    #[serde(skip)]
    dir: PathBuf,
    /// The state of the node's log and store.
    pub log: LogState,
    /// The content of the store alone: the state after the record [`LogState::stored`].
    pub stored: State,
    /// The content of the store with the later records of the log.
    pub complete: State,
    /// The writes with known request ids, in the order in which they were applied.
    pub requests: Vec<NamedWrite>,
    /// A watch that was interrupted.
    pub watch: LeftWatch,
}

/// The state of a node's log and store.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogState {
    /// The last record of the log.
    pub last: RecordPlace,
    /// The last record that was stored.
    pub stored: RecordPlace,
    /// Each epoch with the index of its first record.
    pub epochs: Vec<EpochBegin>,
    /// The highest epoch promised.
    pub promised: u64,
    /// The version of the store's oldest tombstone.
    pub oldest_stored_tombstone: u64,
}

/// A record's position and version.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordPlace {
    epoch: u64,
    index: u64,
    version: u64,
}

impl RecordPlace {
    /// The record's position.
    #[must_use]
    pub const fn position(self) -> Position {
        Position {
            epoch: Epoch(self.epoch),
            index: Index(self.index),
        }
    }

    /// The record's version.
    #[must_use]
    pub const fn version(self) -> Version {
        Version::from_bits(self.version)
    }
}

/// An epoch and its first record.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochBegin {
    /// The epoch.
    pub epoch: u64,
    /// The index of its first record.
    pub first_index: u64,
}

/// The state of all keys after one record of the log.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The keys with a value.
    pub items: Vec<HeldItem>,
    /// The deleted keys, including those that never existed.
    pub removed: Vec<RemovedKey>,
}

/// A key with a value.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldItem {
    /// The key's namespace.
    pub namespace: String,
    /// The key; always text.
    pub key: String,
    /// The value; always text.
    pub value: String,
    /// The version of its last write.
    pub version: u64,
    /// When it expires, as the bits of a version; `None`: never.
    pub expires: Option<u64>,
}

/// A key that was deleted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemovedKey {
    /// The key's namespace.
    pub namespace: String,
    /// The key.
    pub key: String,
    /// The version of the deletion.
    pub version: u64,
}

/// A write with a known request id, and its answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedWrite {
    /// Its name in the list.
    pub name: String,
    birth_ms: u64,
    /// The random part of the request id, in hexadecimal.
    random: String,
    /// The namespace of its keys.
    pub namespace: String,
    /// Its operations, each with its answer.
    pub operations: Vec<AnsweredOperation>,
    /// The version in the answer.
    pub version: u64,
    /// Whether its outcome was stored; otherwise only the log has it.
    pub stored: bool,
}

/// One operation of a write, with its answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AnsweredOperation {
    /// A value was put.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// Its time to live in milliseconds; `None`: no expiry.
        ttl_ms: Option<u64>,
    },
    /// A key was deleted.
    Delete {
        /// The key.
        key: String,
        /// Whether it existed.
        existed: bool,
    },
    /// A number was incremented.
    Increment {
        /// The key.
        key: String,
        /// The number that was added.
        delta: i64,
        /// The resulting number.
        number: i64,
    },
}

impl AnsweredOperation {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Increment { key, .. } => key,
        }
    }

    fn kind(&self) -> OperationKind {
        match self {
            Self::Put { value, ttl_ms, .. } => OperationKind::Put {
                value: value.clone().into(),
                ttl: ttl_ms.map(Duration::from_millis),
            },
            Self::Delete { .. } => OperationKind::Delete,
            Self::Increment { delta, .. } => OperationKind::Increment { delta: *delta },
        }
    }
}

impl NamedWrite {
    /// Its request id.
    ///
    /// # Panics
    /// If the random part is not 16 bytes in hexadecimal.
    #[must_use]
    pub fn id(&self) -> RequestId {
        let random = bytes_of_hex(&self.random).and_then(|bytes| bytes.try_into().ok());
        let Some(random) = random else {
            panic!(
                "the random part of {} is not 16 bytes in hexadecimal: {}",
                self.name, self.random
            );
        };
        RequestId {
            birth_millis: self.birth_ms,
            random,
        }
    }

    /// The write as a request to a master.
    ///
    /// # Panics
    /// If a key is invalid.
    #[must_use]
    pub fn request(&self) -> WriteRequest {
        let operations = self.operations.iter().map(|operation| Operation {
            key: item_key(&self.namespace, operation.key()),
            kind: operation.kind(),
        });
        WriteRequest {
            name: self.id().into(),
            conditions: Vec::new(),
            operations: operations.collect(),
            return_previous: false,
        }
    }
}

/// A watch that was interrupted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftWatch {
    /// The watched namespace.
    pub namespace: String,
    /// The watched prefix.
    pub prefix: String,
    /// The token to resume from, in hexadecimal.
    token: String,
    /// The last record before the token.
    pub after: RecordPlace,
    /// The changes after the token, in the order of the log.
    pub changes: Vec<WatchedChange>,
}

impl LeftWatch {
    /// The token to resume from.
    ///
    /// # Panics
    /// If the token in the list is not hexadecimal.
    #[must_use]
    pub fn token(&self) -> Vec<u8> {
        let Some(token) = bytes_of_hex(&self.token) else {
            panic!("the token is not hexadecimal: {}", self.token);
        };
        token
    }
}

/// A change that a watch reports.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchedChange {
    /// The key.
    pub key: String,
    /// The version of the change.
    pub version: u64,
    /// The new value; `None`: the key was removed.
    pub value: Option<String>,
    /// When it expires, as the bits of a version; `None`: never.
    pub expires: Option<u64>,
}

impl Fixture {
    /// Reads the list of the fixture in `dir`.
    ///
    /// # Errors
    /// If the list can't be read or is malformed.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("content.json");
        let what = || format!("reading {}", path.display());
        let text = fs::read(&path).map_err(io_error(what()))?;
        let read: Self = serde_json::from_slice(&text)
            .map_err(io::Error::from)
            .map_err(io_error(what()))?;
        Ok(Self {
            dir: dir.to_owned(),
            ..read
        })
    }

    /// The data directory of the platform. Copy it before anything opens it.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The storage directory of the data node in it.
    #[must_use]
    pub fn node(&self) -> PathBuf {
        self.data().join(NODE)
    }
}

/// The item key of a key in a namespace.
///
/// # Panics
/// If the key or the namespace is invalid.
#[must_use]
pub fn item_key(namespace: &str, key: &str) -> ItemKey {
    let made = ItemKey::new(namespace, key.as_bytes());
    made.unwrap_or_else(|error| panic!("{key:?} in {namespace:?}: {error}"))
}

/// Decodes hexadecimal digits; `None` if `text` is not hexadecimal.
fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.chars().map(|digit| digit.to_digit(16));
    let digits: Vec<u32> = digits.collect::<Option<_>>()?;
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(high * 16 + low).ok(),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_bytes_in_hexadecimal_are_decoded() {
        assert_eq!(bytes_of_hex("00ff1a"), Some(vec![0, 255, 26]));
        assert_eq!(bytes_of_hex("00f"), None);
        assert_eq!(bytes_of_hex("0g"), None);
    }
}
