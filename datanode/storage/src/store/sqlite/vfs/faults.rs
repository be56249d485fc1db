//! The disk's errors in full: SQLite passes on only a code, and ignores some errors.

use std::{
    path::Path,
    sync::{Mutex, OnceLock},
};

use crate::{StorageError, locked};

/// The failures of one database's files.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The first failure after which nothing may be written any more. A failed write or sync
    /// leaves an unknown state. The system reports a failed sync only once, so that a retry
    /// would succeed without making anything durable.
    fatal: OnceLock<StorageError>,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    failure: Option<StorageError>,
    damage: Option<StorageError>,
    /// The offset of a page of zeros that was read, in case SQLite expected content.
    blank: Option<u64>,
}

impl Faults {
    /// Records a failure that did not change the files.
    pub(super) fn note(&self, error: StorageError) {
        locked(&self.last).failure = Some(error);
    }

    /// Records a failure that ends all writes.
    pub(super) fn end(&self, error: StorageError) {
        locked(&self.last).failure = Some(error.clone());
        // The first failure is kept: it is the cause.
        let _ = self.fatal.set(error);
    }

    /// Records damage in data that was read.
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
