//! Ranges of keys within one namespace, for scans and counts.

use std::fmt;

use bytes::Bytes;

use crate::{
    code::Error,
    key::{ItemKey, SEPARATOR, checked_namespace},
    limits::MAX_KEY_BYTES,
};

/// The item keys from `start` up to but not including `end`, all of one namespace.
///
/// Both ends are item keys (namespace, byte `0x00`, key), so that comparing bytes decides whether a
/// key is in the range. A namespace's name may be a prefix of another's. The byte after the name
/// keeps them apart: every key of a namespace is below its name followed by `0x01`.
#[derive(Clone, PartialEq, Eq)]
pub struct ItemRange {
    start: Bytes,
    end: Bytes,
}

/// The byte after the name where a namespace ends.
const NAMESPACE_END: u8 = SEPARATOR + 1;

/// Longest key part of an end: the first key after a key of maximum size has one more byte, a zero.
const MAX_BOUND_BYTES: usize = MAX_KEY_BYTES + 1;

impl ItemRange {
    /// All keys of a namespace (empty means `default`) that begin with `prefix`; an empty prefix
    /// selects all keys.
    ///
    /// # Errors
    /// `InvalidArgument` for an invalid namespace, or a prefix over the limit `max_key_bytes`.
    pub fn of_prefix(namespace: &str, prefix: &[u8]) -> Result<Self, Error> {
        let namespace = checked_namespace(namespace)?;
        checked_bound("prefix", prefix)?;
        // The end is the prefix with its last byte incremented; bytes that can't be incremented are
        // dropped first.
        let kept = prefix.iter().rposition(|byte| *byte < u8::MAX);
        let end = match kept {
            Some(last) => {
                let mut end = bound(namespace, &prefix[..=last]);
                if let Some(byte) = end.last_mut() {
                    *byte += 1;
                }
                end
            }
            None => end_of(namespace),
        };
        Ok(Self {
            start: bound(namespace, prefix).into(),
            end: end.into(),
        })
    }

    /// The range of all keys that begin with these bytes from the wire: the start of a range
    /// [`of_prefix`](Self::of_prefix).
    ///
    /// # Errors
    /// `InvalidArgument` if they are not a namespace, a zero byte and a prefix.
    pub fn of_item_prefix(bytes: &[u8]) -> Result<Self, Error> {
        let at = bytes.iter().position(|byte| *byte == SEPARATOR);
        let parts = at.and_then(|at| {
            let namespace = std::str::from_utf8(&bytes[..at]).ok()?;
            (!namespace.is_empty()).then_some((namespace, &bytes[at + 1..]))
        });
        let (namespace, prefix) = parts.ok_or_else(|| {
            Error::invalid("an item prefix is a namespace, a zero byte and a key's begin")
        })?;
        Self::of_prefix(namespace, prefix)
    }

    /// The keys of a namespace (empty means `default`) from `start` up to but not including `end`.
    /// An empty `start` is the namespace's first key, an empty `end` its end. A range with equal
    /// ends is empty and valid.
    ///
    /// # Errors
    /// `InvalidArgument` for an invalid namespace, an end over the limit `max_key_bytes`, or a
    /// `start` after `end`.
    pub fn between(namespace: &str, start: &[u8], end: &[u8]) -> Result<Self, Error> {
        let namespace = checked_namespace(namespace)?;
        checked_bound("start of the range", start)?;
        checked_bound("end of the range", end)?;
        if !end.is_empty() && start > end {
            return Err(Error::invalid(
                "the range starts after its end; a range is from its start on and before its \
                 end, both in the order of their bytes",
            ));
        }
        Ok(Self {
            start: bound(namespace, start).into(),
            end: match end {
                [] => end_of(namespace).into(),
                end => bound(namespace, end).into(),
            },
        })
    }

    /// Checks a range that came over the wire.
    ///
    /// # Errors
    /// `InvalidArgument` if its ends are of different namespaces, or out of order.
    pub fn from_bytes(start: Bytes, end: Bytes) -> Result<Self, Error> {
        let broken = || Error::invalid("an item range is from one item key to another");
        let at = start.iter().position(|byte| *byte == SEPARATOR);
        let (name, key) = start.split_at(at.ok_or_else(broken)?);
        let name = std::str::from_utf8(name).map_err(|_| broken())?;
        let is_named = !name.is_empty() && checked_namespace(name).is_ok();
        let end_key = end.strip_prefix(name.as_bytes()).ok_or_else(broken)?;
        let ends = match end_key {
            [NAMESPACE_END] => true,
            [SEPARATOR, key @ ..] => key.len() <= MAX_BOUND_BYTES,
            _ => false,
        };
        if is_named && ends && key.len() <= 1 + MAX_BOUND_BYTES && start <= end {
            Ok(Self { start, end })
        } else {
            Err(broken())
        }
    }

    /// The part of the range after `key`: the rest of a scan that has returned `key`.
    #[must_use]
    pub fn after(&self, key: &ItemKey) -> Self {
        let mut next = Vec::with_capacity(key.as_bytes().len() + 1);
        next.extend_from_slice(key.as_bytes());
        next.push(0);
        let start = self.start.clone().max(next.into()).min(self.end.clone());
        Self {
            start,
            end: self.end.clone(),
        }
    }

    /// The first item key that may be in the range.
    #[must_use]
    pub const fn start(&self) -> &Bytes {
        &self.start
    }

    /// The first item key after the range.
    #[must_use]
    pub const fn end(&self) -> &Bytes {
        &self.end
    }

    /// The namespace of its keys.
    #[must_use]
    pub fn namespace(&self) -> &str {
        let end = self.start.iter().position(|byte| *byte == SEPARATOR);
        std::str::from_utf8(&self.start[..end.unwrap_or(0)]).unwrap_or_default()
    }

    /// Whether it can contain no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether it contains the item key of these bytes.
    #[must_use]
    pub fn contains(&self, item_key: &[u8]) -> bool {
        item_key >= &self.start[..] && item_key < &self.end[..]
    }
}

impl fmt::Debug for ItemRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = (self.start.escape_ascii(), self.end.escape_ascii());
        write!(f, "{start}..{end}")
    }
}

fn checked_bound(what: &str, bytes: &[u8]) -> Result<(), Error> {
    if bytes.len() > MAX_KEY_BYTES {
        return Err(Error::invalid(format!(
            "the {what} has {} bytes; the limit max_key_bytes is {MAX_KEY_BYTES}",
            bytes.len()
        )));
    }
    Ok(())
}

fn bound(namespace: &str, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(namespace.len() + 1 + key.len());
    bytes.extend_from_slice(namespace.as_bytes());
    bytes.push(SEPARATOR);
    bytes.extend_from_slice(key);
    bytes
}

fn end_of(namespace: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(namespace.len() + 1);
    bytes.extend_from_slice(namespace.as_bytes());
    bytes.push(NAMESPACE_END);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn key(namespace: &str, key: &[u8]) -> ItemKey {
        ItemKey::new(namespace, key).unwrap()
    }

    fn holds(range: &ItemRange, namespace: &str, name: &[u8]) -> bool {
        range.contains(key(namespace, name).as_bytes())
    }

    #[test]
    fn a_prefix_ends_where_nothing_begins_with_it() {
        let range = ItemRange::of_prefix("n", b"ab").unwrap();
        assert_eq!(
            (&range.start[..], &range.end[..]),
            (&b"n\0ab"[..], &b"n\0ac"[..])
        );
        let range = ItemRange::of_prefix("n", b"a\xFF\xFF").unwrap();
        assert_eq!(&range.end[..], b"n\0b");
        assert!(holds(&range, "n", b"a\xFF\xFF"));
        assert!(!holds(&range, "n", b"a\xFF\xFE\xFF"));
        let range = ItemRange::of_prefix("n", b"\xFF").unwrap();
        assert_eq!(&range.end[..], b"n\x01");
        assert!(holds(&range, "n", &[0xFF; MAX_KEY_BYTES]));
    }

    /// As a watch uses it: exactly the bytes with which the keys begin.
    #[test]
    fn a_prefix_begins_the_keys_of_its_namespace_and_no_others() {
        let item_prefix = |namespace: &str, prefix: &[u8]| {
            ItemRange::of_prefix(namespace, prefix).map(|range| range.start().clone())
        };
        let prefix = item_prefix("", b"a\0").unwrap();
        let range = ItemRange::of_item_prefix(&prefix).unwrap();
        assert_eq!(range, ItemRange::of_prefix("", b"a\0").unwrap());
        assert!(key("default", b"a\0b").as_bytes().starts_with(&prefix));
        assert!(holds(&range, "default", b"a\0b"));
        assert!(!key("default", b"a").as_bytes().starts_with(&prefix));
        assert!(!holds(&range, "default", b"a"));
        let all = item_prefix("n", b"").unwrap();
        let range = ItemRange::of_item_prefix(&all).unwrap();
        assert!(!key("n1", b"k").as_bytes().starts_with(&all));
        assert!(!holds(&range, "n1", b"k"));
        assert!(item_prefix("n", &[7; MAX_KEY_BYTES]).is_ok());
        assert!(item_prefix("n", &[7; MAX_KEY_BYTES + 1]).is_err());
        assert!(item_prefix("N", b"").is_err());
        let long = [b"n\0".as_slice(), &[7; MAX_KEY_BYTES + 1]].concat();
        for bytes in [&b""[..], b"n", b"\0k", b"N\0k", b"\xff\0k", &long] {
            assert!(ItemRange::of_item_prefix(bytes).is_err(), "{bytes:?}");
        }
    }

    /// `n` is a prefix of the other two; the default namespace has its own name.
    #[test]
    fn a_namespace_ends_before_the_next_one_begins() {
        let range = ItemRange::of_prefix("n", b"").unwrap();
        assert_eq!(ItemRange::between("n", b"", b"").unwrap(), range);
        assert!(holds(&range, "n", b"\0") && holds(&range, "n", &[0xFF; MAX_KEY_BYTES]));
        for other in ["n-", "n0", "m", "default"] {
            assert!(
                !holds(&range, other, b"\0") && !holds(&range, other, b"\xFF"),
                "{other}"
            );
        }
        let default = ItemRange::of_prefix("", b"a").unwrap();
        assert_eq!(default, ItemRange::of_prefix("default", b"a").unwrap());
        assert_eq!((range.namespace(), default.namespace()), ("n", "default"));
    }

    #[test]
    fn an_empty_range_is_one_and_a_reversed_one_is_refused() {
        let empty = ItemRange::between("n", b"b", b"b").unwrap();
        assert!(empty.is_empty() && !holds(&empty, "n", b"b"));
        let refused = ItemRange::between("n", b"b", b"a").unwrap_err();
        assert!(
            refused.message.contains("starts after its end"),
            "{refused}"
        );
        assert!(ItemRange::between("n", b"b", b"").is_ok());
    }

    #[test]
    fn ends_over_the_limit_and_bad_namespaces_are_refused() {
        let long = [7; MAX_KEY_BYTES + 1];
        for refused in [
            ItemRange::of_prefix("n", &long),
            ItemRange::between("n", &long, b""),
            ItemRange::between("n", b"", &long),
        ] {
            let error = refused.unwrap_err();
            assert!(
                error
                    .message
                    .contains("1025 bytes; the limit max_key_bytes"),
                "{error}"
            );
        }
        assert!(ItemRange::of_prefix("n", &long[1..]).is_ok());
        assert!(ItemRange::of_prefix("Not One", b"").is_err());
        assert!(ItemRange::between("-", b"", b"").is_err());
    }

    #[test]
    fn bytes_that_are_no_range_are_refused() {
        let long = [&b"n\0"[..], &[7; MAX_BOUND_BYTES + 1]].concat();
        for (start, end) in [
            (&b""[..], &b""[..]),
            (b"\0a", b"\0b"),
            (b"n", b"n\x01"),
            (b"n\0a", b""),
            (b"n\0b", b"n\0a"),
            (b"n\0a", b"m\0b"),
            (b"n\0a", b"n2\0b"),
            (b"n\0a", b"n\x02"),
            (b"n\0a", b"n\x01a"),
            (b"N\0a", b"N\0b"),
            (b"n\0a", &long),
            (&long, b"n\x01"),
        ] {
            let bytes = Bytes::copy_from_slice;
            let range = ItemRange::from_bytes(bytes(start), bytes(end));
            assert!(range.is_err(), "{start:?} {end:?}");
        }
    }

    proptest! {
        #[test]
        fn a_prefix_holds_what_begins_with_it_and_nothing_else(
            prefix in vec(prop_oneof![0_u8..3, 253_u8..=255], 0..5),
            name in vec(prop_oneof![0_u8..3, 253_u8..=255], 1..7),
        ) {
            let range = ItemRange::of_prefix("n", &prefix).unwrap();
            prop_assert_eq!(holds(&range, "n", &name), name.starts_with(&prefix));
            let (start, end) = (range.start.clone(), range.end.clone());
            prop_assert_eq!(ItemRange::from_bytes(start, end).unwrap(), range);
        }

        #[test]
        fn the_range_after_a_key_is_the_rest(
            prefix in vec(0_u8..3, 0..3),
            seen in vec(0_u8..3, 1..5),
            name in vec(0_u8..3, 1..5),
        ) {
            let range = ItemRange::of_prefix("n", &prefix).unwrap();
            let rest = range.after(&key("n", &seen));
            prop_assert_eq!(holds(&rest, "n", &name), holds(&range, "n", &name) && name > seen);
            let (start, end) = (rest.start.clone(), rest.end.clone());
            prop_assert_eq!(ItemRange::from_bytes(start, end).unwrap(), rest);
        }
    }

    #[test]
    fn behind_the_longest_key_there_is_a_range_too() {
        let range = ItemRange::of_prefix("n", b"").unwrap();
        let rest = range.after(&key("n", &[7; MAX_KEY_BYTES]));
        let again = ItemRange::from_bytes(rest.start.clone(), rest.end.clone());
        assert_eq!(again.unwrap(), rest);
    }
}
