//! Keys: namespaces, and the byte string that all tiers use.

use std::{fmt, ops::Deref};

use bytes::Bytes;

use crate::{
    code::Error,
    limits::{MAX_KEY_BYTES, MAX_NAMESPACE_BYTES},
    slot::Slot,
};

/// Separates namespace and key in an [`ItemKey`]; no namespace contains it.
pub(crate) const SEPARATOR: u8 = 0;

/// The default namespace of a request.
pub const DEFAULT_NAMESPACE: &str = "default";

/// A checked namespace name: `[a-z0-9][a-z0-9_-]{0,62}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Box<str>);

impl Namespace {
    /// Checks `name`; an empty one means [`DEFAULT_NAMESPACE`].
    ///
    /// # Errors
    /// `InvalidArgument` if it is not `[a-z0-9][a-z0-9_-]{0,62}`.
    pub fn new(name: &str) -> Result<Self, Error> {
        Ok(Self(checked_namespace(name)?.into()))
    }
}

impl Deref for Namespace {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn checked_namespace(name: &str) -> Result<&str, Error> {
    if name.is_empty() {
        return Ok(DEFAULT_NAMESPACE);
    }
    let bytes = name.as_bytes();
    let lower = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let sound = bytes.len() <= MAX_NAMESPACE_BYTES
        && lower(&bytes[0])
        && bytes.iter().all(|b| lower(b) || matches!(b, b'_' | b'-'));
    if sound {
        Ok(name)
    } else {
        Err(Error::invalid(format!(
            "the namespace must be 1 to {MAX_NAMESPACE_BYTES} of a-z, 0-9, _ and -, \
             starting with a letter or digit"
        )))
    }
}

fn checked_key(key: &[u8]) -> Result<(), Error> {
    match key.len() {
        0 => Err(Error::invalid(
            "the key is empty; a key has 1 to 1024 bytes",
        )),
        1..=MAX_KEY_BYTES => Ok(()),
        n => Err(Error::invalid(format!(
            "the key has {n} bytes; the limit max_key_bytes is {MAX_KEY_BYTES}"
        ))),
    }
}

/// A key within its namespace as one byte string: namespace, byte `0x00`, key.
///
/// It is built once, where a request enters, and passed on whole: the slot, the log, the memory
/// tier, the store and the cache all use it as the key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemKey(Bytes);

impl ItemKey {
    /// Joins a namespace (empty means `default`) and a key.
    ///
    /// # Errors
    /// `InvalidArgument` if either breaks its rules.
    pub fn new(namespace: &str, key: &[u8]) -> Result<Self, Error> {
        let namespace = checked_namespace(namespace)?;
        // Allocated at its final length, so that converting it needs no second allocation.
        let mut joined = Vec::with_capacity(namespace.len() + 1 + key.len());
        Self::write(namespace, key, &mut joined)?;
        Ok(Self(joined.into()))
    }

    /// Appends the bytes of [`ItemKey::new`] to `buffer`, for a lookup that needs no owned key.
    ///
    /// # Errors
    /// `InvalidArgument` if either part breaks its rules; `buffer` is then unchanged.
    pub fn write(namespace: &str, key: &[u8], buffer: &mut Vec<u8>) -> Result<(), Error> {
        let namespace = checked_namespace(namespace)?;
        checked_key(key)?;
        buffer.extend_from_slice(namespace.as_bytes());
        buffer.push(SEPARATOR);
        buffer.extend_from_slice(key);
        Ok(())
    }

    /// Checks bytes that came over the wire or from disk.
    ///
    /// # Errors
    /// `InvalidArgument` if they are not a namespace, a separator and a key.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, Error> {
        let broken = || Error::invalid("an item key must be a namespace, a zero byte and a key");
        let at = bytes
            .iter()
            .position(|b| *b == SEPARATOR)
            .ok_or_else(broken)?;
        if at == 0 {
            return Err(broken());
        }
        checked_namespace(std::str::from_utf8(&bytes[..at]).map_err(|_| broken())?)?;
        checked_key(&bytes[at + 1..])?;
        Ok(Self(bytes))
    }

    /// The slot of this key.
    #[must_use]
    pub fn slot(&self) -> Slot {
        Slot::of(&self.0)
    }

    /// The canonical bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The namespace part.
    #[must_use]
    pub fn namespace(&self) -> &str {
        let at = self.separator();
        std::str::from_utf8(&self.0[..at]).unwrap_or_default()
    }

    /// The key part.
    #[must_use]
    pub fn key(&self) -> Bytes {
        self.0.slice(self.separator() + 1..)
    }

    /// A copy in its own memory, so that keeping it does not keep a network frame alive.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }

    fn separator(&self) -> usize {
        self.0.iter().position(|b| *b == SEPARATOR).unwrap_or(0)
    }
}

impl From<ItemKey> for Bytes {
    fn from(key: ItemKey) -> Self {
        key.0
    }
}

impl std::borrow::Borrow<[u8]> for ItemKey {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace(), self.key().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_and_the_empty_namespace_is_default() {
        let key = ItemKey::new("users", b"a\0b").unwrap();
        assert_eq!((key.namespace(), &key.key()[..]), ("users", &b"a\0b"[..]));
        assert_eq!(
            ItemKey::new("", b"k").unwrap(),
            ItemKey::new("default", b"k").unwrap()
        );
        assert_eq!(ItemKey::from_bytes(key.as_bytes().clone()).unwrap(), key);
    }

    #[test]
    fn bad_names_and_keys_are_refused() {
        for name in ["-a", "_a", "A", "a b", "ä", "a/b", &"a".repeat(64)] {
            assert!(ItemKey::new(name, b"k").is_err(), "namespace {name:?}");
        }
        assert!(ItemKey::new("a-_0", b"k").is_ok());
        assert!(ItemKey::new("a", b"").is_err());
        assert!(ItemKey::new("a", &[7; MAX_KEY_BYTES]).is_ok());
        assert!(ItemKey::new("a", &[7; MAX_KEY_BYTES + 1]).is_err());
    }

    #[test]
    fn bytes_that_are_no_item_key_are_refused() {
        for bytes in [
            &b""[..],
            b"\0k",
            b"noseparator",
            b"a\0",
            b"BAD\0k",
            b"\xff\0k",
        ] {
            assert!(
                ItemKey::from_bytes(Bytes::copy_from_slice(bytes)).is_err(),
                "{bytes:?}"
            );
        }
    }
}
