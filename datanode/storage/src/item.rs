//! What a key holds, and what memory alone can say of it.

use bytes::Bytes;
use tierkv_types::{ChangeKind, Version};

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The version that wrote it.
    pub version: Version,
    /// When it expires, by the cluster clock; `None` never. Whoever serves it judges.
    pub expires: Option<Version>,
    /// The value; empty is not absent.
    pub value: Bytes,
}

impl Item {
    /// Whether its time has not come at `now`.
    #[must_use]
    pub fn is_live(&self, now: Version) -> bool {
        self.expires.is_none_or(|expires| expires > now)
    }
}

/// What the last change of a key left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A value.
    Value(Item),
    /// Nothing but the version that deleted it.
    Tombstone(Version),
}

impl Entry {
    /// What a change of this version leaves behind.
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

    /// The value, if there is one.
    #[must_use]
    pub const fn item(&self) -> Option<&Item> {
        match self {
            Self::Value(item) => Some(item),
            Self::Tombstone(_) => None,
        }
    }
}

/// What memory knows of a key, without asking the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Residence {
    /// It holds this.
    Found(Item),
    /// It is known to be absent.
    Absent,
    /// Only the store knows: use [`Storage::load`](crate::Storage::load).
    Unknown,
}
