//! The file operations of the store, behind a trait so that tests can make each of them fail.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

/// The operations for replacing a file durably.
pub(super) trait Disk: Send {
    /// Writes `bytes` to `path`, durably, replacing its contents. The file's name is durable only
    /// once its directory is synced.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// Renames the file `from` to `to`, atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Makes the names in `directory` durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}

/// The machine's file system.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalDisk;

impl Disk for LocalDisk {}
