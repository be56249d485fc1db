//! All file I/O of a node's storage (LOG-DISK): log, node state and store.
//!
//! `kill -9` proves nothing about durability: the page cache survives it. So files are
//! touched only through [`Disk`], writes are separate from flushes, and tests put a disk
//! underneath that loses, tears and reorders what was not synced.

mod real;
#[cfg(any(test, feature = "conformance"))]
mod test;

use std::{fmt, io, path::Path};

pub use self::real::RealDisk;
#[cfg(any(test, feature = "conformance"))]
pub use self::test::{Tear, TestDisk};

/// One boot of a machine: what was written and not synced survives nothing but this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootId(pub [u8; 16]);

/// Which disk it is: where two answer the same, the same path is the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DiskId(pub u64);

/// Directories and the files in them. A new, renamed or removed name is durable only
/// once its directory was synced.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Tells whether two handles lead to the same files.
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

    /// The names of the files in a directory, in no order.
    ///
    /// # Errors
    /// `NotFound`, and those of the system.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Gives a file another name in the same directory; replaces a file of that name.
    ///
    /// # Errors
    /// `NotFound`, and those of the system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// `NotFound`, and those of the system.
    fn remove(&self, file: &Path) -> io::Result<()>;

    /// Opens a directory, so that its names can be made durable at a moment when no other
    /// file can be opened.
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

    /// Takes the exclusive lock that `file` stands for, making the file if needed;
    /// `None` if another process or [`Disk`] user holds it. It is held until dropped.
    ///
    /// # Errors
    /// Those of the system.
    fn lock(&self, file: &Path) -> io::Result<Option<Box<dyn DiskLock>>>;
}

/// One open file.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Reads at `offset` until `buffer` is full or the file ends; answers how much.
    ///
    /// # Errors
    /// Those of the system.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`. They are not durable yet.
    ///
    /// # Errors
    /// Those of the system; after one any part may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes the file's content and length durable.
    ///
    /// # Errors
    /// Those of the system; after one nothing is known of what was written since the
    /// last success, and trying again would not find out.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes the file at least `bytes` long, zeros where nothing was written, with the
    /// space set aside so that writing there can't run out of it.
    ///
    /// # Errors
    /// `StorageFull`, and those of the system.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Cuts the file to `bytes`, or lets it grow to that with zeros for which no space
    /// is set aside.
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
    /// Makes the names in it durable.
    ///
    /// # Errors
    /// Those of the system; after one the directory's state is unknown.
    fn sync(&self) -> io::Result<()>;
}

/// An exclusive lock, held until dropped.
pub trait DiskLock: fmt::Debug + Send + Sync {}

/// The end of a name under which a file is out of the way, `.` and `why` and a number: the
/// lowest one that none of `names` has in it.
pub(crate) fn free_ending(names: &[String], why: &str) -> String {
    let endings = (1_u32..).map(|number| format!(".{why}-{number}"));
    let is_free = |ending: &String| !names.iter().any(|name| name.contains(ending));
    // There are fewer files than numbers.
    endings.into_iter().find(is_free).unwrap_or_default()
}
