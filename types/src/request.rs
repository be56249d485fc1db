//! Writes as clients ask for them, before a master has judged them.

use std::time::Duration;

use bytes::Bytes;

use crate::{key::ItemKey, record::RequestId};

/// An atomic write that a client asks for. What a master makes of it is a
/// [`record::Write`](crate::record::Write).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRequest {
    /// The client's name for it.
    pub id: RequestId,
    /// At least one; no key twice.
    pub operations: Vec<Operation>,
}

/// What is asked for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Which key.
    pub key: ItemKey,
    /// What shall become of it.
    pub kind: OperationKind,
}

/// What shall become of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationKind {
    /// It shall hold a value.
    Put {
        /// The whole value; empty is not absent.
        value: Bytes,
        /// How long, from the moment it is given its version; `None` for ever.
        ttl: Option<Duration>,
    },
    /// It shall be absent.
    Delete,
}

impl WriteRequest {
    /// A checksum (CRC-32C) of everything asked for but the id; never 0. Two requests of
    /// one id with different fingerprints are not the same request.
    #[must_use]
    pub fn fingerprint(&self) -> u32 {
        let sum = self.operations.iter().fold(0, |sum, operation| {
            let key = operation.key.as_bytes();
            let sum = append_sized(sum, key);
            match &operation.kind {
                OperationKind::Put { value, ttl } => {
                    let millis = ttl.map_or(0, |ttl| ttl.as_millis());
                    let sum = crc32c::crc32c_append(sum, &millis.to_le_bytes());
                    append_sized(crc32c::crc32c_append(sum, &[1]), value)
                }
                OperationKind::Delete => crc32c::crc32c_append(sum, &[2]),
            }
        });
        sum.max(1)
    }
}

/// With its length, so that what belongs to the key can't be taken for the value.
fn append_sized(sum: u32, bytes: &[u8]) -> u32 {
    let sum = crc32c::crc32c_append(sum, &(bytes.len() as u64).to_le_bytes());
    crc32c::crc32c_append(sum, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &[u8], value: &'static [u8], ttl: Option<u64>) -> WriteRequest {
        WriteRequest {
            id: RequestId {
                birth_millis: 1,
                random: [2; 16],
            },
            operations: vec![Operation {
                key: ItemKey::new("n", key).unwrap(),
                kind: OperationKind::Put {
                    value: Bytes::from_static(value),
                    ttl: ttl.map(Duration::from_millis),
                },
            }],
        }
    }

    #[test]
    fn whatever_is_asked_differently_has_another_fingerprint() {
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
        ];
        let mut seen: Vec<u32> = asked.iter().map(WriteRequest::fingerprint).collect();
        assert_eq!(seen[0], put(b"a", b"bc", None).fingerprint());
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), asked.len());
    }
}
