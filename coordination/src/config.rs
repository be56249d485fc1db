//! Records: small named values, changed only by compare-and-swap.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::CoordinationError;

/// The number of a change of the store. It grows with every change, and no two changes share one,
/// not even across a restart. It has no other meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A record's value and the revision of its last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The whole value.
    pub value: Bytes,
    /// The revision of its last change, which the next compare-and-swap must expect.
    pub revision: Revision,
}

/// The outcome of a conditional change. Both are certain; an uncertain outcome is
/// [`CoordinationError::OutcomeUnknown`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Swap {
    /// The change is durable, with this revision.
    Won(Revision),
    /// The record is not as expected; nothing was changed. Read, then decide again.
    Lost,
}

impl Swap {
    /// The revision of the change, if it was made.
    #[must_use]
    pub const fn won(self) -> Option<Revision> {
        match self {
            Self::Won(revision) => Some(revision),
            Self::Lost => None,
        }
    }
}

/// Named records with revisions.
///
/// Keys are `/`-separated strings of 1 to [`MAX_KEY_BYTES`](crate::limits::MAX_KEY_BYTES)
/// bytes without control characters, values at most
/// [`MAX_VALUE_BYTES`](crate::limits::MAX_VALUE_BYTES).
///
/// **COORD-CAS**: the outcome of a change that ended in [`CoordinationError::OutcomeUnknown`] is
/// known only after reading its record at a *later* revision; to get one, swap again. Until then
/// either outcome is possible.
#[async_trait]
pub trait ConfigStore: Send + Sync {
    /// The record, if there is one.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad key; `Unavailable` or `Closed` if the store can't answer.
    async fn get(&self, key: &str) -> Result<Option<Versioned>, CoordinationError>;

    /// Creates the record unless it exists.
    ///
    /// # Errors
    /// As [`compare_and_swap`](Self::compare_and_swap).
    async fn put_if_absent(&self, key: &str, value: Bytes) -> Result<Swap, CoordinationError>;

    /// Replaces the record's value if its revision still is `expected`.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad key or value; `Unavailable`, `Storage` or `Closed` if certainly
    /// nothing was changed; `OutcomeUnknown` otherwise.
    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Revision,
        value: Bytes,
    ) -> Result<Swap, CoordinationError>;

    /// Removes the record if its revision still is `expected`. Returns the revision of the removal.
    ///
    /// # Errors
    /// As [`compare_and_swap`](Self::compare_and_swap).
    async fn delete(&self, key: &str, expected: Revision) -> Result<Swap, CoordinationError>;
}
