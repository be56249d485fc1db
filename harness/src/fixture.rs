//! Data that an earlier release left behind, with the list of what it holds.
//!
//! A fixture is a directory: `data/` is the data directory of a platform that was killed,
//! `content.json` lists what was acknowledged while it was made. Reading order:
//! [`Fixture`], then the parts of the list in the order of its fields.

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

/// Where the storage of the only data node is in a platform's data directory.
const NODE: &str = "c1/n1";

/// The list of a fixture's content. Everything in it was acknowledged.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixture {
    #[serde(skip)]
    dir: PathBuf,
    /// How the node's log and store stand.
    pub log: LogState,
    /// What the store alone holds: the state after the record [`LogState::stored`].
    pub stored: State,
    /// What the store and the records after it hold.
    pub complete: State,
    /// The writes whose request ids are known, in the order in which they were applied.
    pub requests: Vec<NamedWrite>,
    /// A watch that was left in the middle.
    pub watch: LeftWatch,
}

/// How a node's log and store stand.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogState {
    /// The last record of the log.
    pub last: RecordPlace,
    /// The last record whose effect the store holds.
    pub stored: RecordPlace,
    /// Each epoch with the index of its first record.
    pub epochs: Vec<EpochBegin>,
    /// The highest epoch promised.
    pub promised: u64,
    /// The version of the store's oldest tombstone.
    pub oldest_stored_tombstone: u64,
}

/// Where a record stands, and its version.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordPlace {
    epoch: u64,
    index: u64,
    version: u64,
}

impl RecordPlace {
    /// Where the record stands.
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

/// What all keys hold at one record of the log.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The keys that hold a value.
    pub items: Vec<HeldItem>,
    /// The keys that were deleted, also those that had never been there.
    pub removed: Vec<RemovedKey>,
}

/// A key that holds a value.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldItem {
    /// The key's namespace.
    pub namespace: String,
    /// The key; all of them are text.
    pub key: String,
    /// The value; all of them are text.
    pub value: String,
    /// The version of the write that left it.
    pub version: u64,
    /// When it expires, as the bits of a version; `None` never.
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

/// A write under a known request id, with its answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedWrite {
    /// What the list calls it.
    pub name: String,
    birth_ms: u64,
    /// The random part of the request id, in hexadecimal.
    random: String,
    /// The namespace of its keys.
    pub namespace: String,
    /// What was asked for, and how each operation was answered.
    pub operations: Vec<AnsweredOperation>,
    /// The version that was answered.
    pub version: u64,
    /// Whether the store has its outcome; otherwise the log alone does.
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
        /// How long it lives, in milliseconds; `None` for ever.
        ttl_ms: Option<u64>,
    },
    /// A key was deleted.
    Delete {
        /// The key.
        key: String,
        /// Whether it had been there.
        existed: bool,
    },
    /// A number was incremented.
    Increment {
        /// The key.
        key: String,
        /// What was added.
        delta: i64,
        /// The number after it.
        number: i64,
    },
}

impl AnsweredOperation {
    /// The key that it is about.
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
            panic!("the random part of {} is {}", self.name, self.random);
        };
        RequestId {
            birth_millis: self.birth_ms,
            random,
        }
    }

    /// The write as a master was asked for it.
    ///
    /// # Panics
    /// If a key is none.
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

/// A watch that was left in the middle.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftWatch {
    /// The namespace that it was of.
    pub namespace: String,
    /// The prefix that it was of.
    pub prefix: String,
    /// The token to resume from, in hexadecimal.
    token: String,
    /// The record that the token stands after.
    pub after: RecordPlace,
    /// The changes after the token, in the order of the log.
    pub changes: Vec<WatchedChange>,
}

impl LeftWatch {
    /// The token to resume from.
    ///
    /// # Panics
    /// If the list has no hexadecimal there.
    #[must_use]
    pub fn token(&self) -> Vec<u8> {
        let Some(token) = bytes_of_hex(&self.token) else {
            panic!("the token is {}", self.token);
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
    /// The value that it left; `None`: the key was removed.
    pub value: Option<String>,
    /// When it expires, as the bits of a version; `None` never.
    pub expires: Option<u64>,
}

impl Fixture {
    /// Reads the list of the fixture in `dir`.
    ///
    /// # Errors
    /// If the list can't be read or is none.
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

    /// The data directory of the platform. It is to be copied before anything opens it.
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
/// If the key or the namespace is none.
#[must_use]
pub fn item_key(namespace: &str, key: &str) -> ItemKey {
    let made = ItemKey::new(namespace, key.as_bytes());
    made.unwrap_or_else(|error| panic!("{key:?} in {namespace:?}: {error}"))
}

/// The bytes that hexadecimal digits stand for; `None` if they are none.
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
    fn hexadecimal_is_read_by_whole_bytes() {
        assert_eq!(bytes_of_hex("00ff1a"), Some(vec![0, 255, 26]));
        assert_eq!(bytes_of_hex("00f"), None);
        assert_eq!(bytes_of_hex("0g"), None);
    }
}
