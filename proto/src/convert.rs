//! Checks and converts what arrives over the wire; writes are in [`writes`], roles and health in
//! [`topology`].

pub mod topology;
pub mod writes;

use std::time::Duration;

use bytes::Bytes;
use tierkv_types::{
    Error, RequestId,
    limits::{DEFAULT_TIMEOUT, MAX_OPERATIONS, MAX_TIMEOUT, MAX_TTL, MAX_VALUE_BYTES},
};

use crate::v1;

/// An operation's timeout: the caller's, cut to the limit, or the default for 0.
#[must_use]
pub fn timeout(timeout_ms: u32) -> Duration {
    match timeout_ms {
        0 => DEFAULT_TIMEOUT,
        ms => Duration::from_millis(ms.into()).min(MAX_TIMEOUT),
    }
}

/// A remaining time in wire form: at least 1 ms, because 0 means the default.
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

/// Checks a client's request id.
///
/// # Errors
/// `InvalidArgument` unless it has 16 random bytes and a birth that fits a clock.
pub fn request_id(id: &v1::RequestId) -> Result<RequestId, Error> {
    request_id_from(&id.random, id.birth_ms)
}

pub(crate) fn request_id_from(random: &[u8], birth_millis: u64) -> Result<RequestId, Error> {
    let random = random_part(random)?;
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

pub(crate) fn random_part(random: &[u8]) -> Result<[u8; 16], Error> {
    <[u8; 16]>::try_from(random).map_err(|_| Error::invalid("a request id has 16 random bytes"))
}

/// Checks a consistency from the wire.
///
/// # Errors
/// `InvalidArgument` if this server does not support the number.
pub fn consistency(number: i32) -> Result<v1::Consistency, Error> {
    v1::Consistency::try_from(number).map_err(|_| {
        Error::invalid(format!(
            "consistency {number} is unknown here; use CACHED (1), SESSION (2) or LATEST (3)"
        ))
    })
}

impl From<v1::count_request::Selection> for v1::scan_request::Selection {
    fn from(selection: v1::count_request::Selection) -> Self {
        match selection {
            v1::count_request::Selection::Prefix(prefix) => Self::Prefix(prefix),
            v1::count_request::Selection::Range(range) => Self::Range(range),
        }
    }
}

impl From<v1::scan_request::Selection> for v1::count_request::Selection {
    fn from(selection: v1::scan_request::Selection) -> Self {
        match selection {
            v1::scan_request::Selection::Prefix(prefix) => Self::Prefix(prefix),
            v1::scan_request::Selection::Range(range) => Self::Range(range),
        }
    }
}

/// An age in whole milliseconds, rounded up: it is an upper bound.
#[must_use]
pub fn age_ms(age: Duration) -> u32 {
    u32::try_from(age.as_micros().div_ceil(1_000)).unwrap_or(u32::MAX)
}

/// One tier's hop in a read's path, with the time until it had its answer.
#[must_use]
pub fn hop(tier: &str, node: &str, took: Duration) -> v1::Hop {
    v1::Hop {
        tier: tier.to_owned(),
        node: node.to_owned(),
        micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    }
}

/// The names of the eviction policies in configuration and output.
const POLICIES: [(&str, v1::EvictionPolicy); 4] = [
    ("s3fifo", v1::EvictionPolicy::S3fifo),
    ("lru", v1::EvictionPolicy::Lru),
    ("lfu", v1::EvictionPolicy::Lfu),
    ("fifo", v1::EvictionPolicy::Fifo),
];

/// The name of an eviction policy from the wire.
///
/// # Errors
/// `InvalidArgument` if this server does not support the number.
pub fn policy_name(number: i32) -> Result<&'static str, Error> {
    let known = (POLICIES.iter()).find(|(_, policy)| i32::from(*policy) == number);
    known.map(|(name, _)| *name).ok_or_else(|| {
        Error::invalid(format!(
            "the eviction policy {number} is unknown here; use LRU (1), LFU (2), FIFO (3) or \
             S3FIFO (4)"
        ))
    })
}

/// The eviction policy with this name.
///
/// # Errors
/// `InvalidArgument` if there is none with this name.
pub fn policy(name: &str) -> Result<v1::EvictionPolicy, Error> {
    let known = POLICIES.iter().find(|(known, _)| *known == name);
    known.map(|(_, policy)| *policy).ok_or_else(|| {
        Error::invalid(format!(
            "there is no eviction policy {name:?}; there are s3fifo, lru, lfu and fifo"
        ))
    })
}

/// Checks a client's time to live; `None` means for ever.
///
/// # Errors
/// `InvalidArgument` over the limit `max_ttl`.
pub fn ttl(ttl_ms: u64) -> Result<Option<Duration>, Error> {
    match Duration::from_millis(ttl_ms) {
        Duration::ZERO => Ok(None),
        ttl if ttl <= MAX_TTL => Ok(Some(ttl)),
        _ => Err(Error::invalid(format!(
            "the time to live has {ttl_ms} ms; the limit max_ttl is {} ms (100 years), and 0 means \
             that the key never expires",
            MAX_TTL.as_millis()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_have_their_names_and_others_are_refused_in_words() {
        for (name, wire) in POLICIES {
            assert_eq!(policy(name), Ok(wire));
            assert_eq!(policy_name(wire.into()), Ok(name));
        }
        for number in [0, 99] {
            let error = policy_name(number).unwrap_err();
            assert!(error.message.contains("S3FIFO (4)"), "{error}");
        }
        let error = policy("LRU").unwrap_err();
        assert!(error.message.contains("s3fifo, lru"), "{error}");
    }

    #[test]
    fn time_left_never_becomes_the_default() {
        assert_eq!(timeout_ms(Duration::ZERO), 1);
        assert_eq!(timeout(0), DEFAULT_TIMEOUT);
        assert_eq!(timeout(u32::MAX), MAX_TIMEOUT);
    }
}
