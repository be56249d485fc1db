//! A place in a log, told from any other history's.

use tierkv_types::{Position, Record, Version};

/// A place in a log: after this record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Where the record stands.
    pub position: Position,
    /// Its version. With its position, it tells the record from any that another history
    /// of the cluster (an emptied directory, a restored backup) has in its place.
    pub version: Version,
}

impl Cursor {
    /// After this record.
    #[must_use]
    pub const fn of(record: &Record) -> Self {
        Self {
            position: record.position,
            version: record.version,
        }
    }
}
