//! The few things that the store asks of a disk, behind a trait so that tests can make
//! each of them fail.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

/// What replaces a file for good.
pub(super) trait Disk: Send {
    /// Makes `path` hold `bytes`, durably; what it held before is gone. Its name is
    /// durable only once its directory is synced.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// Gives the file `from` the name `to`, atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Makes the names in `directory` durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}

/// The machine's own file system.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalDisk;

impl Disk for LocalDisk {}
