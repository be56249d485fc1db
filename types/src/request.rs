//! Writes as clients request them, before a master evaluates them.

use std::time::Duration;

use bytes::Bytes;

use crate::{key::ItemKey, record::RequestId, version::Version};

/// A client's name for a write, so that a retry is applied once (I8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestName {
    /// An id made by the client, with its birth.
    Id(RequestId),
    /// An idempotency key. The first master that receives it sets its birth.
    Key {
        /// A hash of namespace and key: the random part of the id.
        random: [u8; 16],
        /// When a coordinator received this attempt, in milliseconds of platform time. A master
        /// refuses an attempt that was under way so long that the outcome of another one may be
        /// forgotten.
        received_millis: u64,
    },
}

impl RequestName {
    /// The part that masters store the request under.
    #[must_use]
    pub const fn random(&self) -> &[u8; 16] {
        match self {
            Self::Id(id) => &id.random,
            Self::Key { random, .. } => random,
        }
    }
}

impl From<RequestId> for RequestName {
    fn from(id: RequestId) -> Self {
        Self::Id(id)
    }
}

/// A client's request for an atomic write. A master turns it into a
/// [`record::Write`](crate::record::Write).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRequest {
    /// The client's name for it.
    pub name: RequestName,
    /// The conditions for applying it; several may be on one key.
    pub conditions: Vec<Condition>,
    /// At least one; no key twice.
    pub operations: Vec<Operation>,
    /// Whether the answer contains what each key held before.
    pub return_previous: bool,
}

/// A condition on one key, which the write need not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The key.
    pub key: ItemKey,
    /// The condition.
    pub kind: ConditionKind,
}

/// A condition on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionKind {
    /// The key is absent.
    Absent,
    /// The key is present.
    Present,
    /// The key is present with this version.
    Version(Version),
}

/// The requested change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The key.
    pub key: ItemKey,
    /// The change.
    pub kind: OperationKind,
}

/// A requested change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationKind {
    /// Set a value.
    Put {
        /// The whole value; an empty value is not an absent key.
        value: Bytes,
        /// How long it lives, from when it gets its version; `None` for ever.
        ttl: Option<Duration>,
    },
    /// Remove the key.
    Delete,
    /// Keep the value and set a new time to live; refused if the key is absent.
    Touch {
        /// How long it lives, from when it gets its new version; `None` for ever.
        ttl: Option<Duration>,
    },
    /// Add to the number that it holds; an absent key counts as 0. Its expiry is kept.
    Increment {
        /// The summand.
        delta: i64,
    },
}

impl WriteRequest {
    /// A checksum (CRC-32C) of the whole request but its name; never 0. Two requests under one name
    /// with different fingerprints are different requests.
    #[must_use]
    pub fn fingerprint(&self) -> u32 {
        let sum = self.operations.iter().fold(0, |sum, operation| {
            let sum = append_sized(sum, operation.key.as_bytes());
            match &operation.kind {
                OperationKind::Put { value, ttl } => {
                    let millis = ttl.map_or(0, |ttl| ttl.as_millis());
                    let sum = crc32c::crc32c_append(sum, &millis.to_le_bytes());
                    append_sized(crc32c::crc32c_append(sum, &[1]), value)
                }
                OperationKind::Delete => crc32c::crc32c_append(sum, &[2]),
                OperationKind::Increment { delta } => {
                    crc32c::crc32c_append(crc32c::crc32c_append(sum, &[3]), &delta.to_le_bytes())
                }
                OperationKind::Touch { ttl } => {
                    let millis = ttl.map_or(0, |ttl| ttl.as_millis());
                    crc32c::crc32c_append(crc32c::crc32c_append(sum, &[7]), &millis.to_le_bytes())
                }
            }
        });
        let sum = self.conditions.iter().fold(sum, |sum, condition| {
            let sum = append_sized(sum, condition.key.as_bytes());
            match condition.kind {
                ConditionKind::Absent => crc32c::crc32c_append(sum, &[4]),
                ConditionKind::Present => crc32c::crc32c_append(sum, &[5]),
                ConditionKind::Version(version) => {
                    let sum = crc32c::crc32c_append(sum, &[6]);
                    crc32c::crc32c_append(sum, &version.to_bits().to_le_bytes())
                }
            }
        });
        sum.max(1)
    }
}

/// With the length, so that bytes of the key can't be taken for the value's.
fn append_sized(sum: u32, bytes: &[u8]) -> u32 {
    let sum = crc32c::crc32c_append(sum, &(bytes.len() as u64).to_le_bytes());
    crc32c::crc32c_append(sum, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &[u8], value: &'static [u8], ttl: Option<u64>) -> WriteRequest {
        WriteRequest {
            name: RequestName::Id(RequestId {
                birth_millis: 1,
                random: [2; 16],
            }),
            conditions: Vec::new(),
            operations: vec![Operation {
                key: ItemKey::new("n", key).unwrap(),
                kind: OperationKind::Put {
                    value: Bytes::from_static(value),
                    ttl: ttl.map(Duration::from_millis),
                },
            }],
            return_previous: false,
        }
    }

    fn increment(delta: i64) -> WriteRequest {
        let mut asked = put(b"a", b"", None);
        asked.operations[0].kind = OperationKind::Increment { delta };
        asked
    }

    fn touch(ttl: Option<u64>) -> WriteRequest {
        let mut asked = put(b"a", b"", None);
        let ttl = ttl.map(Duration::from_millis);
        asked.operations[0].kind = OperationKind::Touch { ttl };
        asked
    }

    fn conditional(key: &[u8], kind: ConditionKind) -> WriteRequest {
        let mut asked = put(b"a", b"bc", None);
        let key = ItemKey::new("n", key).unwrap();
        asked.conditions.push(Condition { key, kind });
        asked
    }

    #[test]
    fn every_difference_changes_the_fingerprint() {
        let mut delete = put(b"a", b"", None);
        delete.operations[0].kind = OperationKind::Delete;
        let mut twice = put(b"a", b"b", None);
        twice.operations.extend(put(b"b", b"", None).operations);
        let asked = [
            put(b"a", b"bc", None),
            put(b"ab", b"c", None),
            put(b"a", b"bc", Some(1)),
            put(b"a", b"", None),
            delete,
            twice,
            increment(1),
            increment(-1),
            touch(None),
            touch(Some(1)),
            conditional(b"a", ConditionKind::Absent),
            conditional(b"a", ConditionKind::Present),
            conditional(b"b", ConditionKind::Present),
            conditional(b"a", ConditionKind::Version(Version::from_bits(1))),
            conditional(b"a", ConditionKind::Version(Version::from_bits(2))),
        ];
        let mut seen: Vec<u32> = asked.iter().map(WriteRequest::fingerprint).collect();
        assert_eq!(seen[0], put(b"a", b"bc", None).fingerprint());
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), asked.len());
    }
}
