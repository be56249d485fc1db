//! The VFS through which SQLite uses our [`Disk`](crate::Disk).
//!
//! With SQLite's own I/O, two rules would not hold for the store:
//!
//! - LOG-DISK: tests lose, tear and reorder unsynced writes. Files that SQLite writes past the
//!   test disk survive every test, whether or not they would survive a power cut.
//! - Damage is found and never served. SQLite has no checksums. A flipped bit in a row is found
//!   by the row's hash, but in a key, or in a page that leads to rows, it makes rows silently
//!   absent. Here each page of the database has a checksum, and each frame of the write-ahead
//!   file is compared with a checksum in memory.
//!
//! The VFS is registered once a process under the name `tierkv`, for write-ahead mode within
//! one process. Locks and the write-ahead index are in memory; the lock on the node's directory
//! keeps other processes out.
//!
//! - A name is durable before anything depends on it: the first sync after a file was created
//!   syncs the directory, and so does a removal.
//! - A full disk is SQLite's `FULL`, and passes (LOG-SPACE). Every other failed write and every
//!   failed sync is final: nothing is written any more. SQLite ignores such failures when it
//!   writes the write-ahead file back; they are final too.
//! - A torn page of the database is not damage: the database is written only from the
//!   write-ahead file, which still has the page then, and which SQLite opens first.
//!
//! Reading order: `role` (the files of a database), `volume` (an open database), `registry`
//! (finds a database by its name), `file` (reads and writes), `checksum` (pages), `frames` and
//! `seal` (the write-ahead file), `locks`, `shared_memory`, `faults` (the disk's errors).

pub(super) mod checksum;
mod faults;
mod file;
pub(super) mod frames;
mod locks;
pub(super) mod registry;
pub(super) mod role;
pub(super) mod seal;
mod shared_memory;
pub(super) mod volume;

use std::{io, ptr::NonNull, sync::OnceLock};

use sqlite_plugin::{
    flags::{AccessFlags, CreateMode, LockLevel, OpenKind, OpenMode, OpenOpts, ShmLockMode},
    vars,
    vfs::{RegisterOpts, Vfs, VfsResult, register_static},
};

use self::{
    file::{Handle, Stored},
    role::Role,
};

/// The name of this VFS in SQLite.
pub(super) const NAME: &str = "tierkv";

/// The only guarantee of a disk: a crash does not change the bytes beside a write. Writes are
/// neither atomic nor ordered.
const DEVICE: i32 = vars::SQLITE_IOCAP_POWERSAFE_OVERWRITE;
/// The sector size that SQLite assumes.
const SECTOR_BYTES: i32 = 4096;

/// Registers this VFS in SQLite; returns SQLite's error code on failure.
pub(super) fn register() -> Result<(), i32> {
    static REGISTERED: OnceLock<Result<(), i32>> = OnceLock::new();
    *REGISTERED.get_or_init(|| {
        let options = RegisterOpts {
            make_default: false,
        };
        let name = std::ffi::CString::new(NAME).map_err(|_| vars::SQLITE_INTERNAL)?;
        register_static(name, DiskVfs, options).map(|_| ())
    })
}

/// The VFS; its state is in the registry.
#[derive(Debug)]
struct DiskVfs;

/// The file of a database behind `handle`, for calls that SQLite makes only for these.
fn stored(handle: &mut Handle) -> VfsResult<&mut Stored> {
    match handle {
        Handle::Stored(file) => Ok(file),
        Handle::Scratch(_) => Err(vars::SQLITE_MISUSE),
    }
}

impl Vfs for DiskVfs {
    type Handle = Handle;

    fn open(&self, path: Option<&str>, options: OpenOpts) -> VfsResult<Handle> {
        let (Some(path), OpenKind::MainDb | OpenKind::Wal | OpenKind::MainJournal) =
            (path, options.kind())
        else {
            return Ok(Handle::Scratch(Vec::new()));
        };
        let (volume, role) = registry::find(path).ok_or(vars::SQLITE_CANTOPEN)?;
        let is_read_only = options.mode().is_readonly() || volume.is_read_only();
        // SQLite creates only the other files; the database is created before (`format`).
        let creates = match options.mode() {
            OpenMode::ReadWrite { create } => create != CreateMode::None && role != Role::Main,
            OpenMode::ReadOnly => false,
        };
        let path = volume.path(role);
        let file = loop {
            let (action, opened) = match volume.disk().open(&path) {
                // A missing file reads like an empty one.
                Err(error)
                    if volume.is_read_only()
                        && role == Role::WriteAhead
                        && error.kind() == io::ErrorKind::NotFound =>
                {
                    return Ok(Handle::Scratch(Vec::new()));
                }
                Err(error) if creates && error.kind() == io::ErrorKind::NotFound => {
                    volume.check_writable(vars::SQLITE_CANTOPEN)?;
                    match volume.disk().create(&path) {
                        // Another connection created it first.
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                        Ok(file) => {
                            volume.add_name();
                            break file;
                        }
                        created => ("create", created),
                    }
                }
                opened => ("open", opened),
            };
            break opened.map_err(|error| {
                let is_full = error.kind() == io::ErrorKind::StorageFull;
                let code = if is_full {
                    vars::SQLITE_FULL
                } else {
                    vars::SQLITE_CANTOPEN
                };
                volume.failed(action, &path, error, code)
            })?;
        };
        Ok(Handle::Stored(Stored::new(
            volume,
            role,
            file,
            is_read_only,
        )))
    }

    fn delete(&self, path: &str) -> VfsResult<()> {
        let (volume, role) = registry::find(path).ok_or(vars::SQLITE_IOERR_DELETE)?;
        let code = vars::SQLITE_IOERR_DELETE;
        volume.check_writable(code)?;
        let path = volume.path(role);
        match volume.disk().remove(&path) {
            Ok(()) => volume.sync_dir(vars::SQLITE_IOERR_DIR_FSYNC),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(vars::SQLITE_IOERR_DELETE_NOENT)
            }
            Err(error) => Err(volume.failed("remove", &path, error, code)),
        }
    }

    fn access(&self, path: &str, _flags: AccessFlags) -> VfsResult<bool> {
        let (volume, role) = registry::find(path).ok_or(vars::SQLITE_IOERR_ACCESS)?;
        let path = volume.path(role);
        match volume.disk().open(&path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => {
                let code = vars::SQLITE_IOERR_ACCESS;
                Err(volume.failed("open", &path, error, code))
            }
        }
    }

    fn file_size(&self, handle: &mut Handle) -> VfsResult<usize> {
        match handle {
            Handle::Stored(file) => {
                usize::try_from(file.size()?).map_err(|_| vars::SQLITE_IOERR_FSTAT)
            }
            Handle::Scratch(bytes) => Ok(bytes.len()),
        }
    }

    fn truncate(&self, handle: &mut Handle, size: usize) -> VfsResult<()> {
        match handle {
            Handle::Stored(file) => file.truncate(size),
            Handle::Scratch(bytes) => {
                bytes.resize(size, 0);
                Ok(())
            }
        }
    }

    fn write(&self, handle: &mut Handle, offset: usize, data: &[u8]) -> VfsResult<usize> {
        match handle {
            Handle::Stored(file) => file.write(offset, data)?,
            Handle::Scratch(bytes) => {
                let end = offset + data.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[offset..end].copy_from_slice(data);
            }
        }
        Ok(data.len())
    }

    fn read(&self, handle: &mut Handle, offset: usize, data: &mut [u8]) -> VfsResult<usize> {
        match handle {
            Handle::Stored(file) => file.read(offset, data),
            Handle::Scratch(bytes) => {
                let rest = bytes.get(offset..).unwrap_or_default();
                let read = rest.len().min(data.len());
                data[..read].copy_from_slice(&rest[..read]);
                Ok(read)
            }
        }
    }

    fn lock(&self, handle: &mut Handle, level: LockLevel) -> VfsResult<()> {
        match handle {
            Handle::Stored(file) => file.lock(level),
            Handle::Scratch(_) => Ok(()),
        }
    }

    fn unlock(&self, handle: &mut Handle, level: LockLevel) -> VfsResult<()> {
        if let Handle::Stored(file) = handle {
            file.unlock(level);
        }
        Ok(())
    }

    fn check_reserved_lock(&self, handle: &mut Handle) -> VfsResult<bool> {
        Ok(matches!(handle, Handle::Stored(file) if file.is_reserved()))
    }

    fn sync(&self, handle: &mut Handle) -> VfsResult<()> {
        match handle {
            Handle::Stored(file) => file.sync(),
            Handle::Scratch(_) => Ok(()),
        }
    }

    fn close(&self, handle: Handle) -> VfsResult<()> {
        drop(handle);
        Ok(())
    }

    fn sector_size(&self, _handle: &mut Handle) -> VfsResult<i32> {
        Ok(SECTOR_BYTES)
    }

    fn device_characteristics(&self, _handle: &mut Handle) -> VfsResult<i32> {
        Ok(DEVICE)
    }

    fn shm_map(
        &self,
        handle: &mut Handle,
        region: usize,
        bytes: usize,
        extend: bool,
    ) -> VfsResult<Option<NonNull<u8>>> {
        let Stored { volume, index, .. } = stored(handle)?;
        Ok(volume.index.map(index, region, bytes, extend))
    }

    fn shm_lock(
        &self,
        handle: &mut Handle,
        offset: u32,
        count: u32,
        mode: ShmLockMode,
    ) -> VfsResult<()> {
        let Stored { volume, index, .. } = stored(handle)?;
        let slots = locks::slots(offset, count).ok_or(vars::SQLITE_IOERR_SHMLOCK)?;
        match mode {
            ShmLockMode::LockShared => volume.index.share(index, slots),
            ShmLockMode::LockExclusive => volume.index.exclude(index, slots),
            ShmLockMode::UnlockShared | ShmLockMode::UnlockExclusive => {
                volume.index.release(index, slots);
                Ok(())
            }
        }
        .map_err(|_| vars::SQLITE_BUSY)
    }

    fn shm_barrier(&self, handle: &mut Handle) {
        if let Handle::Stored(file) = handle {
            file.volume.index.barrier();
        }
    }

    fn shm_unmap(&self, handle: &mut Handle, _delete: bool) -> VfsResult<()> {
        let Stored { volume, index, .. } = stored(handle)?;
        volume.index.unmap(index);
        Ok(())
    }
}
