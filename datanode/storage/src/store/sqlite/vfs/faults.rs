//! What the disk said, in full: SQLite passes a number on and swallows some of those.

use std::{
    path::Path,
    sync::{Mutex, OnceLock},
};

use crate::{StorageError, locked};

/// The failures of one database's files.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The first failure after which nothing may be written any more: a write or a sync
    /// that failed leaves a state that nobody knows, and the system reports a failed sync
    /// once only, so that a second try would succeed without having made anything durable.
    fatal: OnceLock<StorageError>,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    failure: Option<StorageError>,
    damage: Option<StorageError>,
    /// Where a page of zeros was read, should SQLite have expected another one.
    blank: Option<u64>,
}

impl Faults {
    /// Notes a failure after which the files are still what they were.
    pub(super) fn note(&self, error: StorageError) {
        locked(&self.last).failure = Some(error);
    }

    /// Notes a failure that ends all writing.
    pub(super) fn end(&self, error: StorageError) {
        locked(&self.last).failure = Some(error.clone());
        // The first one tells best what happened.
        let _ = self.fatal.set(error);
    }

    /// Notes that something read is not what was written.
    pub(super) fn damaged(&self, file: &Path, offset: u64, what: &str) {
        let error = StorageError::damaged(file, offset, what);
        tracing::error!(%error, "the store is damaged");
        locked(&self.last).damage = Some(error);
    }

    pub(super) fn blank(&self, offset: u64) {
        locked(&self.last).blank = Some(offset);
    }

    pub(super) fn fatal(&self) -> Option<&StorageError> {
        self.fatal.get()
    }

    pub(super) fn last_failure(&self) -> Option<StorageError> {
        locked(&self.last).failure.clone()
    }

    pub(super) fn last_damage(&self) -> Option<StorageError> {
        locked(&self.last).damage.clone()
    }

    pub(super) fn last_blank(&self) -> Option<u64> {
        locked(&self.last).blank
    }
}
