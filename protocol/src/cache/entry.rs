//! Entries: what a cache node stores for one key.
//!
//! Format, integers little-endian; the first byte is format and kind, and its values are never
//! reused:
//!
//! ```text
//! 0x01  version u64  filled u64                 value …   a value without expiry
//! 0x02  version u64  filled u64  expires u64    value …   a value with expiry
//! 0x03  version u64  filled u64                           an absence
//! ```
//!
//! No entry has length 0: that is the stub of a lease (CACHE-LEASE).

use std::time::Duration;

use bytes::{Buf, Bytes};
use thiserror::Error;
use tierkv_types::Version;

/// How long an entry may be used after its fill, by the cluster clock (CACHE-KEY).
///
/// Shorter than [`REDELIVERY_WINDOW`](super::REDELIVERY_WINDOW), so that a master that can't
/// redeliver old deletes only has to wait.
pub const ENTRY_LIFE: Duration = Duration::from_secs(5 * 60);

const VALUE: u8 = 1;
const EXPIRING_VALUE: u8 = 2;
const ABSENT: u8 = 3;

/// Most bytes that an encoded entry adds to its value.
pub const ENTRY_OVERHEAD_BYTES: usize = 1 + 3 * size_of::<u64>();

/// What a cache stores for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The key has a value.
    Value(ValueEntry),
    /// The key is absent (a negative entry).
    Absent(AbsentEntry),
}

/// A value as it was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueEntry {
    /// The version of the change that wrote it.
    pub version: Version,
    /// When it expires, by the cluster clock.
    pub expires: Option<Version>,
    /// The cluster clock when it was read for this fill.
    pub filled: Version,
    /// The value.
    pub value: Bytes,
}

/// An absence as it was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbsentEntry {
    /// The version of the last record that the answering node had applied, below any
    /// prepare on the key.
    pub version: Version,
    /// The cluster clock when it was read for this fill.
    pub filled: Version,
}

/// Bytes that are no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeEntryError {
    /// No bytes: the stub of a lease that was not filled yet.
    #[error("a lease's stub is no entry; treat it as a miss")]
    Stub,
    /// The first byte is no format that this release can read.
    #[error("the entry has the unknown format {0}; treat it as a miss")]
    UnknownFormat(u8),
    /// The entry is shorter or longer than its fields.
    #[error("the entry has a wrong length; treat it as a miss")]
    WrongLength,
}

impl Entry {
    /// The version that a `min_version` is compared with.
    #[must_use]
    pub const fn version(&self) -> Version {
        match self {
            Self::Value(entry) => entry.version,
            Self::Absent(entry) => entry.version,
        }
    }

    /// The cluster clock when the entry was read for its fill.
    #[must_use]
    pub const fn filled(&self) -> Version {
        match self {
            Self::Value(entry) => entry.filled,
            Self::Absent(entry) => entry.filled,
        }
    }

    /// When the value expires, by the cluster clock.
    #[must_use]
    pub const fn expires(&self) -> Option<Version> {
        match self {
            Self::Value(entry) => entry.expires,
            Self::Absent(_) => None,
        }
    }

    /// The value's bytes; an absence has none.
    #[must_use]
    pub fn value_bytes(&self) -> usize {
        match self {
            Self::Value(entry) => entry.value.len(),
            Self::Absent(_) => 0,
        }
    }

    /// How long a node should keep the entry after its fill: to the value's expiry, and at most
    /// [`ENTRY_LIFE`]. After that it is a miss.
    #[must_use]
    pub fn life(&self) -> Duration {
        match self.expires() {
            Some(expires) => {
                let left = expires.millis().saturating_sub(self.filled().millis());
                Duration::from_millis(left).min(ENTRY_LIFE)
            }
            None => ENTRY_LIFE,
        }
    }

    /// Whether the entry is past its life, or its value past its expiry, at `clock`.
    #[must_use]
    pub fn is_over(&self, clock: Version) -> bool {
        let age = clock.millis().saturating_sub(self.filled().millis());
        Duration::from_millis(age) > ENTRY_LIFE
            || self.expires().is_some_and(|expires| expires <= clock)
    }

    /// The entry with copied bytes, so that keeping it keeps no network frame in memory.
    #[must_use]
    pub fn detached(self) -> Self {
        match self {
            Self::Value(entry) => Self::Value(ValueEntry {
                value: Bytes::copy_from_slice(&entry.value),
                ..entry
            }),
            absent @ Self::Absent(_) => absent,
        }
    }

    /// The entry's bytes; never empty.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ENTRY_OVERHEAD_BYTES + self.value_bytes());
        bytes.push(match self {
            Self::Value(ValueEntry { expires: None, .. }) => VALUE,
            Self::Value(_) => EXPIRING_VALUE,
            Self::Absent(_) => ABSENT,
        });
        bytes.extend_from_slice(&self.version().to_bits().to_le_bytes());
        bytes.extend_from_slice(&self.filled().to_bits().to_le_bytes());
        if let Self::Value(entry) = self {
            if let Some(expires) = entry.expires {
                bytes.extend_from_slice(&expires.to_bits().to_le_bytes());
            }
            bytes.extend_from_slice(&entry.value);
        }
        bytes
    }

    /// Reads what [`Entry::encode`] wrote; the value shares memory with `bytes`.
    ///
    /// # Errors
    /// If the bytes are a lease's stub, of another format, or cut.
    pub fn decode(mut bytes: Bytes) -> Result<Self, DecodeEntryError> {
        let format = bytes.try_get_u8().map_err(|_| DecodeEntryError::Stub)?;
        if !matches!(format, VALUE | EXPIRING_VALUE | ABSENT) {
            return Err(DecodeEntryError::UnknownFormat(format));
        }
        let version = take_version(&mut bytes)?;
        let filled = take_version(&mut bytes)?;
        if format == ABSENT {
            if !bytes.is_empty() {
                return Err(DecodeEntryError::WrongLength);
            }
            return Ok(Self::Absent(AbsentEntry { version, filled }));
        }
        let expires = match format {
            EXPIRING_VALUE => Some(take_version(&mut bytes)?),
            _ => None,
        };
        Ok(Self::Value(ValueEntry {
            version,
            expires,
            filled,
            value: bytes,
        }))
    }
}

fn take_version(bytes: &mut Bytes) -> Result<Version, DecodeEntryError> {
    let bits = bytes
        .try_get_u64_le()
        .map_err(|_| DecodeEntryError::WrongLength)?;
    Ok(Version::from_bits(bits))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = Entry> {
        let version = || any::<u64>().prop_map(Version::from_bits);
        let bytes = proptest::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from);
        prop_oneof![
            (version(), proptest::option::of(version()), version(), bytes).prop_map(
                |(version, expires, filled, value)| Entry::Value(ValueEntry {
                    version,
                    expires,
                    filled,
                    value,
                })
            ),
            (version(), version())
                .prop_map(|(version, filled)| Entry::Absent(AbsentEntry { version, filled })),
        ]
    }

    proptest! {
        #[test]
        fn entries_come_back_and_are_no_stubs(entry in entries()) {
            let bytes = entry.encode();
            prop_assert!(!bytes.is_empty());
            prop_assert!(bytes.len() <= ENTRY_OVERHEAD_BYTES + entry.value_bytes());
            prop_assert_eq!(Entry::decode(bytes.into()), Ok(entry));
        }

        #[test]
        fn decoding_anything_never_panics_and_is_canonical(
            format in 0_u8..6, rest in proptest::collection::vec(any::<u8>(), 0..40)
        ) {
            let bytes: Bytes = std::iter::once(format).chain(rest).collect();
            if let Ok(entry) = Entry::decode(bytes.clone()) {
                prop_assert_eq!(entry.encode(), bytes.to_vec());
            }
        }

        #[test]
        fn a_cut_header_is_refused(entry in entries(), cut in 1_usize..17) {
            let bytes = Bytes::from(entry.encode());
            prop_assert_eq!(
                Entry::decode(bytes.slice(..cut)),
                Err(DecodeEntryError::WrongLength)
            );
        }
    }

    #[test]
    fn the_format_never_changes() {
        let value = Entry::Value(ValueEntry {
            version: Version::from_bits(0x0102),
            expires: Some(Version::from_bits(3)),
            filled: Version::from_bits(4),
            value: Bytes::from_static(b"v"),
        });
        let golden = b"\x02\x02\x01\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0v";
        assert_eq!(value.encode(), golden);
        let absent = Entry::Absent(AbsentEntry {
            version: Version::from_bits(1),
            filled: Version::from_bits(2),
        });
        assert_eq!(absent.encode(), b"\x03\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0");
    }

    #[test]
    fn a_stub_is_no_entry() {
        assert_eq!(Entry::decode(Bytes::new()), Err(DecodeEntryError::Stub));
    }

    #[test]
    fn an_empty_value_is_not_an_absence() {
        let empty = Entry::Value(ValueEntry {
            version: Version::ZERO,
            expires: None,
            filled: Version::ZERO,
            value: Bytes::new(),
        });
        assert_eq!(Entry::decode(empty.encode().into()), Ok(empty));
    }

    #[test]
    fn a_life_ends_with_the_expiry_and_after_five_minutes_at_the_latest() {
        let filled = Version::from_millis(1_000);
        let entry = |expires: Option<u64>| {
            Entry::Value(ValueEntry {
                version: Version::ZERO,
                expires: expires.map(Version::from_millis),
                filled,
                value: Bytes::new(),
            })
        };
        assert_eq!(entry(None).life(), ENTRY_LIFE);
        assert_eq!(entry(Some(3_000)).life(), Duration::from_secs(2));
        assert_eq!(entry(Some(500)).life(), Duration::ZERO);
        assert_eq!(entry(Some(u64::MAX >> 16)).life(), ENTRY_LIFE);

        assert!(!entry(None).is_over(Version::from_millis(301_000)));
        assert!(entry(None).is_over(Version::from_millis(301_001)));
        assert!(!entry(Some(3_000)).is_over(Version::from_millis(2_999)));
        assert!(entry(Some(3_000)).is_over(Version::from_millis(3_000)));
    }
}
