//! [`Cursor`]: a place in a log, distinct from places in any other history.

use tierkv_types::{Position, Record, Version};

/// A place in a log: after this record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The record's position.
    pub position: Position,
    /// The record's version. With the position it identifies the record: another history of the
    /// cluster (an emptied directory, a restored backup) has another version there.
    pub version: Version,
}

impl Cursor {
    /// The place after this record.
    #[must_use]
    pub const fn of(record: &Record) -> Self {
        Self {
            position: record.position,
            version: record.version,
        }
    }
}
