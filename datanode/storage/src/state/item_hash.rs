//! The hash of a key's item: a row's checksum, and what members compare.

use xxhash_rust::xxh3::xxh3_128;

use crate::Item;

/// Version, expiry flag, expiry, and the hash of the value.
const FIXED_BYTES: usize = 8 + 1 + 8 + 16;

/// XXH3-128 of a key and what it holds: key, version, expiry and value.
///
/// The value is hashed on its own, so that a large one is not copied; then its hash together
/// with everything else. Numbers are little-endian. The fixed part comes first and has one
/// length, so that two different items never have the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ItemHash([u8; 16]);

impl ItemHash {
    /// The hash of `item` under the item key `key`.
    #[must_use]
    pub fn of(key: &[u8], item: &Item) -> Self {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + key.len());
        bytes.extend_from_slice(&xxh3_128(&item.value).to_le_bytes());
        bytes.extend_from_slice(&item.version.to_bits().to_le_bytes());
        bytes.push(u8::from(item.expires.is_some()));
        let expires = item.expires.map_or(0, |expires| expires.to_bits());
        bytes.extend_from_slice(&expires.to_le_bytes());
        bytes.extend_from_slice(key);
        Self(xxh3_128(&bytes).to_le_bytes())
    }

    /// The hash itself, little-endian.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tierkv_types::Version;

    use super::*;

    fn item(version: u64, expires: Option<u64>, value: &'static [u8]) -> Item {
        Item {
            version: Version::from_bits(version),
            expires: expires.map(Version::from_bits),
            value: Bytes::from_static(value),
        }
    }

    #[test]
    fn whatever_a_key_holds_differently_has_another_hash() {
        let mut hashes: Vec<[u8; 16]> = [
            (&b"n\0a"[..], item(1, None, b"v")),
            (b"n\0b", item(1, None, b"v")),
            (b"n\0a", item(2, None, b"v")),
            (b"n\0a", item(1, Some(0), b"v")),
            (b"n\0a", item(1, Some(1), b"v")),
            (b"n\0a", item(1, None, b"")),
            (b"n\0av", item(1, None, b"")),
        ]
        .iter()
        .map(|(key, item)| *ItemHash::of(key, item).as_bytes())
        .collect();
        let count = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), count);
    }

    /// Golden, cross-checked with the reference implementation: it is on disk, and members
    /// compare it.
    #[test]
    fn the_hash_never_changes() {
        let hash = ItemHash::of(b"n\0key", &item(7, Some(9), b"value"));
        assert_eq!(hash.as_bytes(), &GOLDEN);
    }

    const GOLDEN: [u8; 16] = [
        214, 155, 50, 53, 222, 212, 131, 201, 159, 59, 79, 120, 41, 189, 43, 54,
    ];
}
