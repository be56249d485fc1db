//! One open database: its disk, and the state that its connections share.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use sqlite_plugin::vars;

use super::{
    faults::Faults, frames::Frames, locks::FileLocks, role::Role, shared_memory::SharedMemory,
};
use crate::{StorageError, WalSync, disk::Disk, error::is_out_of_descriptors, locked};

/// The page format of a database file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageFormat {
    /// Each page has a checksum.
    Checked,
    /// The format of the first releases, opened only to be rebuilt.
    Plain,
}

/// What may be done with a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everything.
    Full,
    /// Reads only: no file is created, changed or removed.
    Look,
}

/// An open database. The registry finds it until all users have closed it.
#[derive(Debug)]
pub(crate) struct Volume {
    number: u64,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    format: PageFormat,
    access: Access,
    sync: WalSync,
    pub(super) locks: Mutex<FileLocks>,
    pub(super) index: SharedMemory,
    pub(super) frames: Frames,
    pub(super) faults: Faults,
    /// Whether a file was created since the directory was synced.
    has_new_names: Mutex<bool>,
}

impl Volume {
    pub(super) fn new(
        number: u64,
        disk: Arc<dyn Disk>,
        path: &Path,
        format: PageFormat,
        access: Access,
        sync: WalSync,
    ) -> Self {
        Self {
            number,
            disk,
            path: path.to_owned(),
            format,
            access,
            sync,
            locks: Mutex::default(),
            index: SharedMemory::default(),
            frames: Frames::default(),
            faults: Faults::default(),
            has_new_names: Mutex::new(false),
        }
    }

    /// The name with which SQLite opens it.
    pub(crate) fn name(&self) -> String {
        self.number.to_string()
    }

    pub(super) fn is_at(&self, disk: &dyn Disk, path: &Path) -> bool {
        self.disk.id() == disk.id() && self.path == path
    }

    pub(super) fn format(&self) -> PageFormat {
        self.format
    }

    /// Whether it is read-only.
    pub(super) fn is_read_only(&self) -> bool {
        self.access == Access::Look
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    pub(super) fn path(&self, role: Role) -> PathBuf {
        role.path(&self.path)
    }

    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// The disk on which it is.
    pub(crate) fn shared_disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    /// The bytes of one of its files; 0 if there is none. Blocks.
    ///
    /// # Errors
    /// Failures of the disk.
    pub(crate) fn bytes_of(&self, role: Role) -> Result<u64, StorageError> {
        let path = self.path(role);
        match self.disk.open(&path).and_then(|file| file.size()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            size => size.map_err(|error| StorageError::io("measure", &path, error)),
        }
    }

    /// The failure that ended all writes, if any.
    pub(crate) fn fatal(&self) -> Option<StorageError> {
        self.faults.fatal().cloned()
    }

    /// The last damage that was read, even if SQLite ignored it.
    pub(crate) fn damage(&self) -> Option<StorageError> {
        self.faults.last_damage()
    }

    /// The last failure of the disk, even if SQLite reported it as damage.
    pub(crate) fn failure(&self) -> Option<StorageError> {
        self.faults.last_failure()
    }

    /// The disk's own error behind SQLite's `error`.
    pub(crate) fn explain(&self, error: StorageError) -> StorageError {
        let code = match &error {
            StorageError::Sql { source, .. } => source
                .as_database_error()
                .and_then(|error| error.code())
                .and_then(|code| code.parse::<i32>().ok()),
            StorageError::NoSpace { .. } => Some(vars::SQLITE_FULL),
            StorageError::Damaged { .. } => Some(vars::SQLITE_CORRUPT),
            _ => None,
        };
        let cause = match code {
            Some(vars::SQLITE_IOERR_DATA) => self.faults.last_damage(),
            Some(vars::SQLITE_CORRUPT) if is_some_page(&error) => {
                let what = "a page that must exist was never written";
                let blank = self.faults.last_blank();
                blank.map(|offset| StorageError::damaged(&self.path, offset, what))
            }
            Some(vars::SQLITE_FULL) => match self.faults.last_failure() {
                Some(full @ StorageError::NoSpace { .. }) => Some(full),
                _ => None,
            },
            Some(code) if matches!(code & 0xFF, vars::SQLITE_IOERR | vars::SQLITE_CANTOPEN) => {
                self.fatal().or_else(|| self.faults.last_failure())
            }
            _ => None,
        };
        cause.unwrap_or(error)
    }

    /// Refuses writes if it is read-only, and after a failed write or sync.
    pub(super) fn check_writable(&self, code: i32) -> Result<(), i32> {
        if self.is_read_only() {
            return Err(vars::SQLITE_READONLY);
        }
        match self.faults.fatal() {
            None => Ok(()),
            Some(_) => Err(code),
        }
    }

    /// The code for SQLite after a failure that changed nothing.
    pub(super) fn failed(
        &self,
        action: &'static str,
        path: &Path,
        error: io::Error,
        code: i32,
    ) -> i32 {
        self.faults.note(StorageError::io(action, path, error));
        code
    }

    /// The code for SQLite after a failed write. Every failure but a full disk is final.
    pub(super) fn write_failed(
        &self,
        action: &'static str,
        path: &Path,
        error: io::Error,
        code: i32,
    ) -> i32 {
        let error = StorageError::io(action, path, error);
        if matches!(error, StorageError::NoSpace { .. }) {
            self.faults.note(error);
            return vars::SQLITE_FULL;
        }
        self.faults.end(error);
        code
    }

    /// The code for SQLite after a failed sync. Every failure is final, also a full disk: the
    /// state of earlier writes is unknown.
    pub(super) fn sync_failed(&self, path: &Path, error: io::Error, code: i32) -> i32 {
        self.faults.end(StorageError::Io {
            action: "sync",
            path: path.to_owned(),
            source: Arc::new(error),
        });
        code
    }

    /// Records that a file was created.
    pub(super) fn add_name(&self) {
        *locked(&self.has_new_names) = true;
    }

    /// Makes the names of files created since the last call durable.
    pub(super) fn sync_new_names(&self) -> Result<(), i32> {
        // Locked meanwhile, so that a caller that finds nothing to do can rely on the sync.
        let mut has_new_names = locked(&self.has_new_names);
        if *has_new_names {
            self.sync_dir(vars::SQLITE_IOERR_DIR_FSYNC)?;
            *has_new_names = false;
        }
        Ok(())
    }

    /// Makes the names in the directory durable, unless the sync mode has no syncs.
    pub(super) fn sync_dir(&self, code: i32) -> Result<(), i32> {
        if !self.sync.syncs() {
            return Ok(());
        }
        match self.disk.sync_dir(self.dir()) {
            Ok(()) => Ok(()),
            // The directory could not be opened: nothing is in an unknown state.
            Err(error) if is_out_of_descriptors(&error) => {
                Err(self.failed("open", self.dir(), error, code))
            }
            Err(error) => Err(self.sync_failed(self.dir(), error, code)),
        }
    }
}

/// Whether the error's place is only "a page".
fn is_some_page(error: &StorageError) -> bool {
    matches!(error, StorageError::Damaged { place, .. } if place == super::super::errors::SOME_PAGE)
}
