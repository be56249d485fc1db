//! Checks and conversions of what came over the wire.

use std::time::Duration;

use bytes::Bytes;
use tierkv_types::{
    Change, ChangeKind, Error, ItemKey, RequestId, Version, Write,
    limits::{DEFAULT_TIMEOUT, MAX_OPERATIONS, MAX_TIMEOUT, MAX_VALUE_BYTES},
};

use crate::{internal, v1};

/// The time an operation has: the caller's, cut to the limit, or the default for 0.
#[must_use]
pub fn timeout(timeout_ms: u32) -> Duration {
    match timeout_ms {
        0 => DEFAULT_TIMEOUT,
        ms => Duration::from_millis(ms.into()).min(MAX_TIMEOUT),
    }
}

/// A remaining time as it goes over the wire: at least 1 ms, because 0 means "default".
#[must_use]
pub fn timeout_ms(remaining: Duration) -> u32 {
    u32::try_from(remaining.as_millis())
        .unwrap_or(u32::MAX)
        .max(1)
}

/// Checks a value's size.
///
/// # Errors
/// `InvalidArgument` over the limit `max_value_bytes`.
pub fn check_value(value: &Bytes) -> Result<(), Error> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(Error::invalid(format!(
            "the value has {} bytes; the limit max_value_bytes is {MAX_VALUE_BYTES}",
            value.len()
        )));
    }
    Ok(())
}

/// Checks how many operations one request holds.
///
/// # Errors
/// `InvalidArgument` over the limit `max_operations`.
pub fn check_operations(count: usize) -> Result<(), Error> {
    if count > MAX_OPERATIONS {
        return Err(Error::invalid(format!(
            "the request has {count} operations; the limit max_operations is {MAX_OPERATIONS}"
        )));
    }
    Ok(())
}

/// A request id as a client sent it.
///
/// # Errors
/// `InvalidArgument` unless it has 16 random bytes and a birth that fits a clock.
pub fn request_id(id: &v1::RequestId) -> Result<RequestId, Error> {
    request_id_from(&id.random, id.birth_ms)
}

fn request_id_from(random: &[u8], birth_millis: u64) -> Result<RequestId, Error> {
    let random = <[u8; 16]>::try_from(random)
        .map_err(|_| Error::invalid("a request id has 16 random bytes"))?;
    if birth_millis >> 48 != 0 {
        return Err(Error::invalid(
            "a request id's birth is in milliseconds of platform time, below 2^48",
        ));
    }
    Ok(RequestId {
        birth_millis,
        random,
    })
}

/// A consistency as it came over the wire.
///
/// # Errors
/// `InvalidArgument` if this server does not know the number.
pub fn consistency(number: i32) -> Result<v1::Consistency, Error> {
    v1::Consistency::try_from(number).map_err(|_| {
        Error::invalid(format!(
            "consistency {number} is unknown here; use CACHED (1), SESSION (2) or LATEST (3)"
        ))
    })
}

impl internal::Write {
    /// A write as it goes over the wire.
    #[must_use]
    pub fn from_write(write: Write) -> Self {
        let changes = write
            .changes
            .into_iter()
            .map(|change| internal::Change {
                item_key: change.key.into(),
                kind: Some(match change.kind {
                    ChangeKind::Put { value, expires } => {
                        internal::change::Kind::Put(internal::Put {
                            value,
                            expires: expires.unwrap_or_default().to_bits(),
                        })
                    }
                    ChangeKind::Delete => internal::change::Kind::Delete(internal::Delete {}),
                }),
            })
            .collect();
        Self {
            request_random: Bytes::copy_from_slice(&write.request.random),
            request_birth_ms: write.request.birth_millis,
            changes,
            placement_version: 0,
        }
    }

    /// Checks a write that came over the wire.
    ///
    /// # Errors
    /// `InvalidArgument` if any part breaks its rules, or a key is changed twice.
    pub fn into_write(self) -> Result<Write, Error> {
        let request = request_id_from(&self.request_random, self.request_birth_ms)?;
        check_operations(self.changes.len())?;
        let mut changes = Vec::with_capacity(self.changes.len());
        for change in self.changes {
            let kind = match change.kind {
                Some(internal::change::Kind::Put(put)) => {
                    check_value(&put.value)?;
                    let expires = (put.expires != 0).then(|| Version::from_bits(put.expires));
                    ChangeKind::Put {
                        value: put.value,
                        expires,
                    }
                }
                Some(internal::change::Kind::Delete(internal::Delete {})) => ChangeKind::Delete,
                None => return Err(Error::invalid("a change says neither put nor delete")),
            };
            changes.push(Change {
                key: ItemKey::from_bytes(change.item_key)?,
                kind,
            });
        }
        if changes.is_empty() {
            return Err(Error::invalid("a write has at least one change"));
        }
        let mut keys: Vec<&ItemKey> = changes.iter().map(|change| &change.key).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Error::invalid("a write changes a key once"));
        }
        Ok(Write { request, changes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(changes: Vec<Change>) -> Write {
        Write {
            request: RequestId {
                birth_millis: 7,
                random: [9; 16],
            },
            changes,
        }
    }

    fn put(key: &[u8]) -> Change {
        let key = ItemKey::new("n", key).unwrap();
        Change {
            key,
            kind: ChangeKind::Put {
                value: Bytes::from_static(b"v"),
                expires: None,
            },
        }
    }

    #[test]
    fn a_write_comes_back_as_it_went() {
        let delete = Change {
            key: ItemKey::new("n", b"b").unwrap(),
            kind: ChangeKind::Delete,
        };
        let sent = write(vec![put(b"a"), delete]);
        assert_eq!(
            internal::Write::from_write(sent.clone())
                .into_write()
                .unwrap(),
            sent
        );
    }

    #[test]
    fn writes_that_mean_nothing_are_refused() {
        let refused = |wire: internal::Write| wire.into_write().unwrap_err();
        refused(internal::Write::from_write(write(vec![])));
        refused(internal::Write::from_write(write(vec![
            put(b"a"),
            put(b"a"),
        ])));
        let mut no_kind = internal::Write::from_write(write(vec![put(b"a")]));
        no_kind.changes[0].kind = None;
        refused(no_kind);
        let mut short_id = internal::Write::from_write(write(vec![put(b"a")]));
        short_id.request_random.truncate(15);
        refused(short_id);
        let big = Bytes::from(vec![0; MAX_VALUE_BYTES + 1]);
        let key = ItemKey::new("n", b"k").unwrap();
        let kind = ChangeKind::Put {
            value: big,
            expires: None,
        };
        refused(internal::Write::from_write(write(vec![Change {
            key,
            kind,
        }])));
    }

    #[test]
    fn time_left_never_becomes_the_default() {
        assert_eq!(timeout_ms(Duration::ZERO), 1);
        assert_eq!(timeout(0), DEFAULT_TIMEOUT);
        assert_eq!(timeout(u32::MAX), MAX_TIMEOUT);
    }
}
