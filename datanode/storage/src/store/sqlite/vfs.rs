//! SQLite's files, through our [`Disk`](crate::Disk).
//!
//! Left to itself SQLite does its own I/O, and two promises would not cover the store:
//!
//! - LOG-DISK: tests lose, tear and reorder what was not synced. What SQLite does past
//!   the test disk survives every test, whether or not it would survive a power cut.
//! - Damage is found and never served. SQLite has no checksums: a flipped bit in a row
//!   is found by the row's own one, but in a key, or in a page that leads to rows, it
//!   makes rows silently absent. Here each page of the database carries a checksum, and
//!   each frame of the write-ahead file is held against one in memory.
//!
//! This is a VFS in SQLite's sense, registered once a process under the name `tierkv`,
//! for write-ahead mode within one process. Locks and the write-ahead index are in
//! memory; the lock on the node's directory keeps other processes out.
//!
//! - A name is durable before what depends on it: the first sync after a file was made
//!   syncs the directory, and so does a removal.
//! - A full disk is SQLite's `FULL`, and passes (LOG-SPACE). Every other failure to write
//!   and every failed sync is final, also where SQLite ignores it, as it does when it
//!   folds the write-ahead file back: nothing is written any more.
//! - A torn page of the database is not damage: only folding writes there, and the page
//!   is then in the write-ahead file, which SQLite opens before it reads the first page.
//!
//! Reading order: `role` (which file of a database), `volume` (an open database),
//! `registry` (which database a name stands for), `file` (reads and writes), `checksum` (pages), `frames` and `seal` (the
//! write-ahead file), `locks`, `shared_memory`, `faults` (what the disk said in full).

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

/// The name under which SQLite knows this VFS.
pub(super) const NAME: &str = "tierkv";

/// What a disk promises: a crash leaves the bytes beside a write what they were. Neither
/// that writes are atomic nor that they keep their order.
const DEVICE: i32 = vars::SQLITE_IOCAP_POWERSAFE_OVERWRITE;
/// What SQLite assumes that a disk writes at once.
const SECTOR_BYTES: i32 = 4096;

/// Makes SQLite know this VFS; answers its error code if it can't.
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

/// The VFS; what it knows is in the registry.
#[derive(Debug)]
struct DiskVfs;

/// The file of a database behind `handle`, for what SQLite does with no other.
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
        // SQLite makes the files beside the database. That one is made before (`format`).
        let creates = match options.mode() {
            OpenMode::ReadWrite { create } => create != CreateMode::None && role != Role::Main,
            OpenMode::ReadOnly => false,
        };
        let path = volume.path(role);
        let file = loop {
            let (action, opened) = match volume.disk().open(&path) {
                // One that is missing holds what an empty one does.
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
                        // Another connection was quicker.
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
