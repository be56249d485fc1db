//! All file I/O of a node's storage (LOG-DISK): log, node state and store.
//!
//! A test with `kill -9` proves nothing about durability: the page cache survives it. So all
//! file access goes through [`Disk`], writes are separate from flushes, and tests use a disk
//! that loses, tears and reorders unsynced writes.

mod real;
#[cfg(any(test, feature = "conformance"))]
mod test;

use std::{fmt, io, path::Path};

pub use self::real::RealDisk;
#[cfg(any(test, feature = "conformance"))]
pub use self::test::{Tear, TestDisk};

/// The id of one boot of a machine. Unsynced writes are lost when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootId(pub [u8; 16]);

/// The identity of a disk: on two handles with the same id, the same path is the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DiskId(pub u64);

/// Directories and the files in them. A created, renamed or removed name is durable only after
/// its directory was synced.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// The disk's id: equal for two handles that lead to the same files.
    fn id(&self) -> DiskId;

    /// Makes a directory and its parents, unless they exist.
    ///
    /// # Errors
    /// Those of the system.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes a file that does not exist yet.
    ///
    /// # Errors
    /// `AlreadyExists`, and those of the system.
    fn create(&self, file: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, and those of the system.
    fn open(&self, file: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// The names of the files in a directory, unordered.
    ///
    /// # Errors
    /// `NotFound`, and those of the system.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Renames a file within its directory; replaces a file of that name.
    ///
    /// # Errors
    /// `NotFound`, and those of the system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// `NotFound`, and those of the system.
    fn remove(&self, file: &Path) -> io::Result<()>;

    /// Opens a directory, so that its names can be synced later even if no more files can be
    /// opened then.
    ///
    /// # Errors
    /// `NotFound`, and those of the system.
    fn dir(&self, dir: &Path) -> io::Result<Box<dyn DiskDir>>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// Those of [`Disk::dir`], which change nothing, and of [`DiskDir::sync`].
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.dir(dir)?.sync()
    }

    /// Which boot of the machine this is.
    ///
    /// # Errors
    /// Those of the system.
    fn boot_id(&self) -> io::Result<BootId>;

    /// Takes the exclusive lock on `file`, creating the file if needed; `None` if another
    /// process or [`Disk`] user holds it. The lock is held until dropped.
    ///
    /// # Errors
    /// Those of the system.
    fn lock(&self, file: &Path) -> io::Result<Option<Box<dyn DiskLock>>>;
}

/// One open file.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Reads at `offset` until `buffer` is full or the file ends; returns the bytes read.
    ///
    /// # Errors
    /// Those of the system.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`. They are not durable yet.
    ///
    /// # Errors
    /// Those of the system; after an error any part may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes the file's content and length durable.
    ///
    /// # Errors
    /// Those of the system. After an error the state of everything written since the last
    /// success is unknown, and a retry does not make it known.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes the file at least `bytes` long, filled with zeros, and allocates the space, so that
    /// writing there can't fail for lack of space.
    ///
    /// # Errors
    /// `StorageFull`, and those of the system.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Cuts the file to `bytes`, or extends it with zeros without allocating space.
    ///
    /// # Errors
    /// Those of the system.
    fn truncate(&self, bytes: u64) -> io::Result<()>;

    /// The file's length.
    ///
    /// # Errors
    /// Those of the system.
    fn size(&self) -> io::Result<u64>;
}

/// An open directory.
pub trait DiskDir: fmt::Debug + Send + Sync {
    /// Makes its names durable.
    ///
    /// # Errors
    /// Those of the system; after an error the directory's state is unknown.
    fn sync(&self) -> io::Result<()>;
}

/// An exclusive lock, held until dropped.
pub trait DiskLock: fmt::Debug + Send + Sync {}

/// The ending for the name of a file that is set aside: `.`, `why` and the lowest number that
/// gives an ending which is in none of `names`.
pub(crate) fn free_ending(names: &[String], why: &str) -> String {
    let endings = (1_u32..).map(|number| format!(".{why}-{number}"));
    let is_free = |ending: &String| !names.iter().any(|name| name.contains(ending));
    // There are more numbers than files.
    endings.into_iter().find(is_free).unwrap_or_default()
}
