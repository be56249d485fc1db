//! Small replicated tables: rows of (table, key, value).
//!
//! State beside items, tombstones and outcomes is stored as rows of small tables, so a new kind
//! of record needs no new column in any store. A store keeps the rows unchanged and does not
//! interpret them.

use bytes::Bytes;

/// The table of a row. The numbers are on disk and never reused. A release must not open a
/// store with a table that it does not know; the store's schema version ensures that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Table(u8);

impl Table {
    /// The first index of each epoch: key is the epoch, value the index, both 8 bytes,
    /// big-endian.
    pub const EPOCHS: Self = Self(1);
    /// The slots that the cluster owns, in one row.
    pub const SLOTS: Self = Self(2);
    /// One row while a snapshot is being installed in the store. It is no replicated state: no
    /// record writes it, and no snapshot has it.
    pub const INSTALLING: Self = Self(254);

    /// The table with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        Self(number)
    }

    /// Its number, as it is stored.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// A row of a small table, or the removal of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The table it is in.
    pub table: Table,
    /// Its key, of at most [`Row::MAX_KEY_BYTES`] bytes.
    pub key: Bytes,
    /// Its value; `None` removes the row.
    pub value: Option<Bytes>,
}

impl Row {
    /// The row that marks a store as being installed, or its removal.
    pub(crate) fn installing(is_installing: bool) -> Self {
        Self {
            table: Table::INSTALLING,
            key: Bytes::new(),
            value: is_installing.then(Bytes::new),
        }
    }

    /// Longest key of a row, in bytes; an item key fits.
    pub const MAX_KEY_BYTES: usize = 2_048;
}
