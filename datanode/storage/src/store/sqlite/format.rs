//! The database file before SQLite opens it: that it is there, ours, and with checksums.
//!
//! A new one is written as one well-formed page, under another name, and takes its name
//! when it is durable. So SQLite finds a file whose header reserves the bytes of the
//! checksums, which it can't be asked for.
//!
//! What a header says about the form of pages SQLite reads before it can verify the
//! page, so it is verified here: it is the same for every store of ours.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::vfs::{
    checksum::{self, MARK, MARK_AT, PAGE_BYTES, Page, RESERVED_BYTES},
    role::Role,
};
use crate::{StorageError, WalSync, disk::Disk};

/// What a file begins with: SQLite's letters, pages of 4096 bytes.
const MAGIC: [u8; 18] = *b"SQLite format 3\0\x10\x00";
/// Where the header says how files are written and read: 1 with a rollback journal, 2
/// with a write-ahead file.
const VERSIONS: std::ops::Range<usize> = 18..20;
/// Where the header says how many bytes of each page are reserved.
const RESERVED_AT: usize = 20;
/// How full inner pages get, which is fixed.
const FRACTIONS: [u8; 3] = [64, 32, 32];
/// Bytes of the header that are the same for every store of ours.
const FIXED_BYTES: usize = 24;

/// How SQLite shall write a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writing {
    /// In place, with nothing to come back to.
    InPlace,
    /// Through a write-ahead file.
    Ahead,
}

/// What is in the place of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Plain,
    Checked,
}

/// Where a file is made until it is durable.
pub(super) fn new_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Says which kind of file is in the place of the store.
pub(super) fn look(disk: &dyn Disk, path: &Path) -> Result<Found, StorageError> {
    let failed = |error| StorageError::io("read", path, error);
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(failed(error)),
    };
    // What an earlier release left when it died in its first moment.
    if file.size().map_err(failed)? == 0 {
        return Ok(Found::Nothing);
    }
    let mut page: Page = [0; PAGE_BYTES];
    file.read_at(0, &mut page).map_err(failed)?;
    let foreign = || {
        let what = "this is no store of a data node, or its header is damaged";
        Err(StorageError::damaged(path, 0, what))
    };
    if page[..MAGIC.len()] != MAGIC || page[RESERVED_AT + 1..FIXED_BYTES] != FRACTIONS {
        return foreign();
    }
    let is_marked = page[MARK_AT..MARK_AT + MARK.len()] == MARK;
    match (page[RESERVED_AT], &page[VERSIONS]) {
        (RESERVED_BYTES, [2, 2]) if is_marked => Ok(Found::Checked),
        (0, [1, 1] | [2, 2]) if !is_marked => Ok(Found::Plain),
        _ => foreign(),
    }
}

/// Writes a database without a table into `path`.
pub(super) fn write_empty(
    disk: &dyn Disk,
    path: &Path,
    writing: Writing,
    sync: WalSync,
) -> Result<(), StorageError> {
    let file = disk.create(path);
    let file = file.map_err(|error| StorageError::io("create", path, error))?;
    file.write_at(0, &empty_page(writing))
        .map_err(|error| StorageError::io("write", path, error))?;
    if sync.syncs() {
        file.sync_data()
            .map_err(|error| StorageError::io("sync", path, error))?;
    }
    Ok(())
}

/// The first and only page of a database without a table.
fn empty_page(writing: Writing) -> Page {
    let mut page = [0; PAGE_BYTES];
    page[..MAGIC.len()].copy_from_slice(&MAGIC);
    page[VERSIONS].copy_from_slice(&writing.versions());
    page[RESERVED_AT] = RESERVED_BYTES;
    page[RESERVED_AT + 1..FIXED_BYTES].copy_from_slice(&FRACTIONS);
    let mut put = |at: usize, number: u32| {
        page[at..at + 4].copy_from_slice(&number.to_be_bytes());
    };
    // How often the file was changed; how many pages it has.
    put(24, 1);
    put(28, 1);
    // The schema's format, and its text as UTF-8.
    put(44, 4);
    put(56, 1);
    // Of which change the number of pages is, and by which release of SQLite: one that
    // is old enough for every reader.
    put(92, 1);
    put(96, 3_037_002);
    // The root of the schema: an empty leaf, whose cells end where our bytes begin.
    page[100] = 13;
    let end = u16::try_from(MARK_AT).unwrap_or(u16::MAX);
    page[105..107].copy_from_slice(&end.to_be_bytes());
    checksum::seal(&mut page, 0);
    page
}

impl Writing {
    const fn versions(self) -> [u8; 2] {
        match self {
            Self::InPlace => [1, 1],
            Self::Ahead => [2, 2],
        }
    }
}

/// Makes a file that was written in place one that is written ahead.
pub(super) fn write_ahead_from_now_on(
    disk: &dyn Disk,
    path: &Path,
    sync: WalSync,
) -> Result<(), StorageError> {
    let failed = |error| StorageError::io("finish", path, error);
    let file = disk.open(path).map_err(failed)?;
    let mut page: Page = [0; PAGE_BYTES];
    file.read_at(0, &mut page).map_err(failed)?;
    page[VERSIONS].copy_from_slice(&Writing::Ahead.versions());
    checksum::seal(&mut page, 0);
    file.write_at(0, &page).map_err(failed)?;
    if sync.syncs() {
        file.sync_data().map_err(failed)?;
    }
    Ok(())
}

/// Gives what was made under another name the name of the store.
pub(super) fn take_name(disk: &dyn Disk, path: &Path, sync: WalSync) -> Result<(), StorageError> {
    disk.rename(&new_path(path), path)
        .map_err(|error| StorageError::io("name", path, error))?;
    sync_dir(disk, path, sync)
}

/// Removes a database that was not finished, and all beside it.
pub(super) fn clear(disk: &dyn Disk, path: &Path, sync: WalSync) -> Result<(), StorageError> {
    let files = [Role::Main, Role::WriteAhead, Role::Journal];
    let mut is_changed = false;
    for role in files {
        is_changed |= remove(disk, &role.path(path))?;
    }
    if is_changed {
        sync_dir(disk, path, sync)?;
    }
    Ok(())
}

/// Removes a file if it is there; answers whether it was.
pub(super) fn remove(disk: &dyn Disk, path: &Path) -> Result<bool, StorageError> {
    match disk.remove(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StorageError::io("remove", path, error)),
    }
}

pub(super) fn sync_dir(disk: &dyn Disk, path: &Path, sync: WalSync) -> Result<(), StorageError> {
    let dir = path.parent().unwrap_or(path);
    if !sync.syncs() {
        return Ok(());
    }
    let synced = disk.sync_dir(dir);
    synced.map_err(|error| StorageError::io("sync", dir, error))
}
