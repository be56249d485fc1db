//! Converts writes between users, tiers and masters.

use std::time::Duration;

use bytes::Bytes;
use tierkv_types::{
    Condition, ConditionKind, Error, ItemKey, Operation, OperationKind, RequestName, Version,
    WriteRequest,
};

use super::{check_operations, check_value, random_part, request_id_from, ttl};
use crate::{
    internal::{self, write::RequestBirth as Birth},
    v1,
};

/// Checks a user's batch, which is sent under `name`.
///
/// # Errors
/// `InvalidArgument` if any part breaks its rules, or a key is changed twice.
pub fn batch(batch: v1::WriteRequest, name: RequestName) -> Result<WriteRequest, Error> {
    let v1::WriteRequest {
        namespace,
        conditions,
        operations,
        return_previous,
        request_id: _,
    } = batch;
    check_operations(conditions.len() + operations.len())?;
    let conditions = conditions.into_iter().map(|condition| {
        use v1::condition::Kind;
        Ok(Condition {
            key: ItemKey::new(&namespace, &condition.key)?,
            kind: match condition.kind {
                Some(Kind::IfAbsent(v1::Absent {})) => ConditionKind::Absent,
                Some(Kind::IfPresent(v1::Present {})) => ConditionKind::Present,
                Some(Kind::IfVersion(bits)) => ConditionKind::Version(Version::from_bits(bits)),
                None => return Err(empty_condition()),
            },
        })
    });
    let conditions = conditions.collect::<Result<_, _>>()?;
    let operations = operations.into_iter().map(|operation| {
        use v1::write_operation::Kind;
        let (key, kind) = match operation.kind {
            Some(Kind::Put(put)) => (put.key, self::put(put.value, put.ttl_ms)?),
            Some(Kind::Delete(delete)) => (delete.key, OperationKind::Delete),
            Some(Kind::Increment(v1::IncrementOperation { key, delta })) => {
                (key, OperationKind::Increment { delta })
            }
            Some(Kind::Touch(touch)) => (touch.key, self::touch(touch.ttl_ms)?),
            None => {
                return Err(Error::invalid(
                    "an operation of the write is empty, or of a kind that this release does \
                     not support; it is one of put, delete, increment and touch",
                ));
            }
        };
        let key = ItemKey::new(&namespace, &key)?;
        Ok(Operation { key, kind })
    });
    checked(WriteRequest {
        name,
        conditions,
        operations: operations.collect::<Result<_, _>>()?,
        return_previous,
    })
}

/// A put of a value that lives for `ttl_ms` milliseconds; 0 means for ever.
///
/// # Errors
/// `InvalidArgument` over the limits `max_value_bytes` and `max_ttl`.
pub fn put(value: Bytes, ttl_ms: u64) -> Result<OperationKind, Error> {
    check_value(&value)?;
    Ok(OperationKind::Put {
        value,
        ttl: ttl(ttl_ms)?,
    })
}

/// A touch after which the key lives for `ttl_ms` milliseconds; 0 means for ever.
///
/// # Errors
/// `InvalidArgument` over the limit `max_ttl`.
pub fn touch(ttl_ms: u64) -> Result<OperationKind, Error> {
    Ok(OperationKind::Touch { ttl: ttl(ttl_ms)? })
}

fn empty_condition() -> Error {
    Error::invalid(
        "a condition of the write is empty, or of a kind that this release does not support; it is \
         one of if_absent, if_present and if_version",
    )
}

/// Maximum bytes of a key that a refusal repeats.
const MAX_SHOWN_KEY_BYTES: usize = 128;

/// Checks the operations together.
fn checked(write: WriteRequest) -> Result<WriteRequest, Error> {
    if write.operations.is_empty() {
        return Err(Error::invalid(
            "the write has no operations; give at least one operation",
        ));
    }
    let mut keys: Vec<&ItemKey> = write.operations.iter().map(|asked| &asked.key).collect();
    keys.sort_unstable();
    if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
        let key = pair[0].key();
        let begin = key.get(..MAX_SHOWN_KEY_BYTES);
        let (begin, dots) = begin.map_or((&key[..], ""), |begin| (begin, "…"));
        return Err(Error::invalid(format!(
            "the write changes the key '{}{dots}' twice; leave the last of both, or send two \
             writes",
            begin.escape_ascii()
        )));
    }
    Ok(write)
}

impl internal::Write {
    /// A write in wire form.
    #[must_use]
    pub fn from_request(write: WriteRequest) -> Self {
        let changes = write.operations.into_iter().map(|operation| {
            use internal::change::Kind;
            let millis = |ttl: Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            internal::Change {
                item_key: operation.key.into(),
                kind: Some(match operation.kind {
                    OperationKind::Put { value, ttl } => Kind::Put(internal::Put {
                        value,
                        ttl_ms: ttl.map_or(0, millis),
                    }),
                    OperationKind::Delete => Kind::Delete(internal::Delete {}),
                    OperationKind::Increment { delta } => {
                        Kind::Increment(internal::Increment { delta })
                    }
                    OperationKind::Touch { ttl } => Kind::Touch(internal::Touch {
                        ttl_ms: ttl.map_or(0, millis),
                    }),
                }),
            }
        });
        let conditions = write.conditions.into_iter().map(|condition| {
            use internal::condition::Kind;
            internal::Condition {
                item_key: condition.key.into(),
                kind: Some(match condition.kind {
                    ConditionKind::Absent => Kind::IfAbsent(v1::Absent {}),
                    ConditionKind::Present => Kind::IfPresent(v1::Present {}),
                    ConditionKind::Version(version) => Kind::IfVersion(version.to_bits()),
                }),
            }
        });
        Self {
            request_random: Bytes::copy_from_slice(write.name.random()),
            request_birth: Some(match write.name {
                RequestName::Id(id) => Birth::RequestBirthMs(id.birth_millis),
                RequestName::Key {
                    received_millis, ..
                } => Birth::RequestArrival(internal::Arrival {
                    received_ms: received_millis,
                }),
            }),
            changes: changes.collect(),
            placement_version: 0,
            conditions: conditions.collect(),
            return_previous: write.return_previous,
        }
    }

    /// The keys that the write changes or has conditions on.
    pub fn item_keys(&self) -> impl Iterator<Item = &Bytes> {
        let changed = self.changes.iter().map(|change| &change.item_key);
        let conditions = self.conditions.iter();
        changed.chain(conditions.map(|condition| &condition.item_key))
    }

    /// Checks a write from the wire.
    ///
    /// # Errors
    /// `InvalidArgument` if any part breaks its rules, or a key is changed twice.
    pub fn into_request(self) -> Result<WriteRequest, Error> {
        let name = match self.request_birth {
            Some(Birth::RequestBirthMs(birth)) => {
                RequestName::Id(request_id_from(&self.request_random, birth)?)
            }
            Some(Birth::RequestArrival(internal::Arrival { received_ms })) => RequestName::Key {
                random: random_part(&self.request_random)?,
                received_millis: received_ms,
            },
            None => return Err(Error::invalid("the write has no birth of its request id")),
        };
        check_operations(self.conditions.len() + self.changes.len())?;
        let operations = self.changes.into_iter().map(|change| {
            use internal::change::Kind;
            let kind = match change.kind {
                Some(Kind::Put(asked)) => put(asked.value, asked.ttl_ms)?,
                Some(Kind::Delete(internal::Delete {})) => OperationKind::Delete,
                Some(Kind::Increment(internal::Increment { delta })) => {
                    OperationKind::Increment { delta }
                }
                Some(Kind::Touch(internal::Touch { ttl_ms })) => touch(ttl_ms)?,
                None => {
                    return Err(Error::invalid(
                        "a change is empty, or of a kind that this release does not support",
                    ));
                }
            };
            let key = ItemKey::from_bytes(change.item_key)?;
            Ok(Operation { key, kind })
        });
        let conditions = self.conditions.into_iter().map(|condition| {
            use internal::condition::Kind;
            Ok(Condition {
                key: ItemKey::from_bytes(condition.item_key)?,
                kind: match condition.kind {
                    Some(Kind::IfAbsent(v1::Absent {})) => ConditionKind::Absent,
                    Some(Kind::IfPresent(v1::Present {})) => ConditionKind::Present,
                    Some(Kind::IfVersion(bits)) => ConditionKind::Version(Version::from_bits(bits)),
                    None => return Err(empty_condition()),
                },
            })
        });
        checked(WriteRequest {
            name,
            operations: operations.collect::<Result<_, _>>()?,
            conditions: conditions.collect::<Result<_, _>>()?,
            return_previous: self.return_previous,
        })
    }
}

#[cfg(test)]
mod tests {
    use tierkv_types::{
        RequestId,
        limits::{MAX_OPERATIONS, MAX_VALUE_BYTES},
    };

    use super::*;

    const NAME: RequestName = RequestName::Id(RequestId {
        birth_millis: 7,
        random: [9; 16],
    });

    fn write(operations: Vec<Operation>) -> WriteRequest {
        WriteRequest {
            name: NAME,
            conditions: Vec::new(),
            operations,
            return_previous: false,
        }
    }

    fn operation(key: &[u8], kind: OperationKind) -> Operation {
        let key = ItemKey::new("n", key).unwrap();
        Operation { key, kind }
    }

    fn put(key: &[u8]) -> Operation {
        let kind = super::put(Bytes::from_static(b"v"), 1_500).unwrap();
        operation(key, kind)
    }

    #[test]
    fn a_write_comes_back_as_it_went() {
        let increment = OperationKind::Increment { delta: -3 };
        let mut sent = write(vec![
            put(b"a"),
            operation(b"b", OperationKind::Delete),
            operation(b"c", increment),
            operation(b"d", touch(1_500).unwrap()),
            operation(b"e", touch(0).unwrap()),
        ]);
        let version = ConditionKind::Version(Version::from_bits(8));
        for kind in [ConditionKind::Absent, ConditionKind::Present, version] {
            let key = ItemKey::new("n", b"z").unwrap();
            sent.conditions.push(Condition { key, kind });
        }
        sent.return_previous = true;
        let wire = internal::Write::from_request(sent.clone());
        assert_eq!(wire.item_keys().count(), 8);
        assert_eq!(wire.into_request().unwrap(), sent);
        sent.name = RequestName::Key {
            random: [5; 16],
            received_millis: 8,
        };
        let wire = internal::Write::from_request(sent.clone());
        assert_eq!(wire.into_request().unwrap(), sent);
    }

    #[test]
    fn writes_that_mean_nothing_are_refused() {
        let refused = |wire: internal::Write| wire.into_request().unwrap_err();
        refused(internal::Write::from_request(write(vec![])));
        refused(internal::Write::from_request(write(vec![
            put(b"a"),
            put(b"a"),
        ])));
        let mut no_kind = internal::Write::from_request(write(vec![put(b"a")]));
        no_kind.changes[0].kind = None;
        refused(no_kind);
        let mut no_condition = internal::Write::from_request(write(vec![put(b"a")]));
        let item_key = ItemKey::new("n", b"k").unwrap().into();
        let empty = internal::Condition {
            item_key,
            kind: None,
        };
        no_condition.conditions.push(empty);
        refused(no_condition);
        let mut short_id = internal::Write::from_request(write(vec![put(b"a")]));
        short_id.request_random.truncate(15);
        refused(short_id.clone());
        let arrival = internal::Arrival { received_ms: 8 };
        short_id.request_birth = Some(Birth::RequestArrival(arrival));
        refused(short_id);
        let mut unborn = internal::Write::from_request(write(vec![put(b"a")]));
        unborn.request_birth = None;
        refused(unborn);
        let big = Bytes::from(vec![0; MAX_VALUE_BYTES + 1]);
        let kind = OperationKind::Put {
            value: big,
            ttl: None,
        };
        refused(internal::Write::from_request(write(vec![operation(
            b"k", kind,
        )])));
    }

    fn wire_put(key: &'static str) -> v1::WriteOperation {
        use v1::write_operation::Kind;
        v1::WriteOperation {
            kind: Some(Kind::Put(v1::PutOperation {
                key: key.into(),
                value: "v".into(),
                ttl_ms: 1_500,
            })),
        }
    }

    fn wire_condition(kind: Option<v1::condition::Kind>) -> v1::Condition {
        v1::Condition {
            key: "k".into(),
            kind,
        }
    }

    #[test]
    fn a_batch_is_checked_part_by_part() {
        let sound = v1::WriteRequest {
            namespace: "n".to_owned(),
            operations: vec![wire_put("a")],
            ..v1::WriteRequest::default()
        };
        assert_eq!(batch(sound.clone(), NAME), Ok(write(vec![put(b"a")])));
        let refused = |spoil: &dyn Fn(&mut v1::WriteRequest)| {
            let mut spoilt = sound.clone();
            spoil(&mut spoilt);
            let error = batch(spoilt, NAME).unwrap_err();
            error.message.into_owned()
        };
        let empty = v1::WriteOperation { kind: None };
        let message = refused(&|batch| batch.operations.push(empty.clone()));
        assert!(
            message.contains("put, delete, increment and touch"),
            "{message}"
        );
        let message = refused(&|batch| batch.conditions.push(wire_condition(None)));
        assert!(message.contains("if_version"), "{message}");
        let message = refused(&|batch| batch.operations.push(wire_put("a")));
        assert!(message.contains("twice"), "{message}");
        let message = refused(&|batch| batch.operations.clear());
        assert!(message.contains("at least one"), "{message}");
        let many = v1::condition::Kind::IfVersion(1);
        let many = vec![wire_condition(Some(many)); MAX_OPERATIONS];
        let message = refused(&|batch| batch.conditions = many.clone());
        assert!(message.contains("max_operations"), "{message}");
        refused(&|batch| batch.operations.push(wire_put("")));
        refused(&|batch| batch.namespace = "No".to_owned());
    }
}
