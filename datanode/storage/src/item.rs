//! What a key holds: [`Item`], [`Entry`] with tombstones, [`Residence`] for lookups in memory.

use bytes::Bytes;
use tierkv_types::{ChangeKind, Version};

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The version that wrote it.
    pub version: Version,
    /// When it expires, by the cluster clock; `None`: never. The reader checks it.
    pub expires: Option<Version>,
    /// The value; an empty value is not an absent one.
    pub value: Bytes,
}

impl Item {
    /// Whether it is not expired at `now`.
    #[must_use]
    pub fn is_live(&self, now: Version) -> bool {
        self.expires.is_none_or(|expires| expires > now)
    }
}

/// The state of a key after its last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A value.
    Value(Item),
    /// Deleted, by this version.
    Tombstone(Version),
}

impl Entry {
    /// The entry after a change of this version.
    #[must_use]
    pub fn of(kind: &ChangeKind, version: Version) -> Self {
        match kind {
            ChangeKind::Put { value, expires } => Self::Value(Item {
                version,
                expires: *expires,
                value: value.clone(),
            }),
            ChangeKind::Increment { number, expires } => Self::Value(Item {
                version,
                expires: *expires,
                value: number.to_string().into(),
            }),
            ChangeKind::Delete { .. } => Self::Tombstone(version),
        }
    }

    /// When its value expires, if there is one that does.
    #[must_use]
    pub fn expires(&self) -> Option<Version> {
        self.item().and_then(|item| item.expires)
    }

    /// The value, if there is one.
    #[must_use]
    pub const fn item(&self) -> Option<&Item> {
        match self {
            Self::Value(item) => Some(item),
            Self::Tombstone(_) => None,
        }
    }
}

/// The result of a lookup in memory, without reading the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Residence {
    /// The key holds this.
    Found(Item),
    /// The key is absent.
    Absent,
    /// Not in memory: read the store with [`Storage::load`](crate::Storage::load).
    Unknown,
}
