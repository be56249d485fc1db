//! What one record does to the replicated state.

use tierkv_types::{Change, ItemKey, Payload, Record, RequestId, Version, Write};

use super::{outcome::Outcome, table::Row};
use crate::Entry;

/// What a record does, wherever it stands. This is the one place that reads a payload.
#[derive(Debug)]
pub struct Effects<'a> {
    version: Version,
    write: Option<&'a Write>,
    /// The keys that it changes, in order, and what becomes of each. Watchers are told of
    /// these, and the cache forgets the keys.
    pub changes: &'a [Change],
    /// Tombstones of deletions up to this version go.
    pub forgotten: Option<Version>,
    /// Rows of small tables that it writes or removes.
    pub rows: Vec<Row>,
}

impl<'a> Effects<'a> {
    /// What `record` does.
    #[must_use]
    pub fn of(record: &'a Record) -> Self {
        let nothing = Self {
            version: record.version,
            write: None,
            changes: &[],
            forgotten: None,
            rows: Vec::new(),
        };
        match &record.payload {
            Payload::Noop => nothing,
            Payload::Write(write) => Self {
                write: Some(write),
                changes: write.changes.as_slice(),
                ..nothing
            },
            Payload::Expire(changes) => Self {
                changes: changes.as_slice(),
                ..nothing
            },
            Payload::Forget { up_to } => Self {
                forgotten: Some(*up_to),
                ..nothing
            },
        }
    }

    /// Each key that it changes, with what the change leaves there: a value with its
    /// expiry, or a tombstone.
    pub fn entries(&self) -> impl Iterator<Item = (&'a ItemKey, Entry)> + use<'a> {
        let version = self.version;
        let changes = self.changes.iter();
        changes.map(move |change| (&change.key, Entry::of(&change.kind, version)))
    }

    /// The name of the request that it applies.
    #[must_use]
    pub fn request(&self) -> Option<&'a RequestId> {
        self.write.map(|write| &write.request)
    }

    /// The request that it applies, and what became of it.
    #[must_use]
    pub fn outcome(&self) -> Option<(RequestId, Outcome)> {
        let write = self.write?;
        Some((write.request, Outcome::of(write, self.version)))
    }
}
