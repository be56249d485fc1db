//! [`Effects`]: what one record does to the replicated state.

use tierkv_types::{Change, ItemKey, OwnedSlots, Payload, Record, RequestId, Version, Write};

use super::{outcome::Outcome, slots, table::Row};
use crate::Entry;

/// The effects of a record, independent of its position. No other code reads payloads.
#[derive(Debug)]
pub struct Effects<'a> {
    version: Version,
    write: Option<&'a Write>,
    /// The changes of keys, in order. They are sent to watchers, and their keys are deleted from
    /// the cache.
    pub changes: &'a [Change],
    /// Tombstones of deletions up to this version are removed.
    pub forgotten: Option<Version>,
    /// The slots that the cluster owns from this record on, if it changes them.
    pub owned: Option<&'a OwnedSlots>,
    /// Rows of small tables that are written or removed.
    pub rows: Vec<Row>,
}

impl<'a> Effects<'a> {
    /// The effects of `record`.
    #[must_use]
    pub fn of(record: &'a Record) -> Self {
        let nothing = Self {
            version: record.version,
            write: None,
            changes: &[],
            forgotten: None,
            owned: None,
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
            Payload::Own(owned) => Self {
                owned: Some(owned),
                rows: vec![slots::row(owned)],
                ..nothing
            },
        }
    }

    /// Each changed key with its new entry: a value with its expiry, or a tombstone.
    pub fn entries(&self) -> impl Iterator<Item = (&'a ItemKey, Entry)> + use<'a> {
        let version = self.version;
        let changes = self.changes.iter();
        changes.map(move |change| (&change.key, Entry::of(&change.kind, version)))
    }

    /// The id of the applied request.
    #[must_use]
    pub fn request(&self) -> Option<&'a RequestId> {
        self.write.map(|write| &write.request)
    }

    /// The applied request, and its outcome.
    #[must_use]
    pub fn outcome(&self) -> Option<(RequestId, Outcome)> {
        let write = self.write?;
        Some((write.request, Outcome::of(write, self.version)))
    }
}
