//! The database file before SQLite opens it: creates it, and checks that it is a store with
//! page checksums.
//!
//! A new file is written as one well-formed page under another name, and renamed when it is
//! durable. Its header reserves the bytes of the checksums, which SQLite itself can't be asked
//! to do.
//!
//! SQLite reads the page format from the header before the page can be verified. So the header
//! is checked here: these bytes are the same for every store.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::vfs::{
    checksum::{self, MARK, MARK_AT, PAGE_BYTES, Page, RESERVED_BYTES},
    role::Role,
};
use crate::{StorageError, WalSync, disk::Disk};

/// The start of a file: SQLite's letters, pages of 4096 bytes.
const MAGIC: [u8; 18] = *b"SQLite format 3\0\x10\x00";
/// The header's bytes for the journal mode of writes and reads: 1 with a rollback journal, 2
/// with a write-ahead file.
const VERSIONS: std::ops::Range<usize> = 18..20;
/// The header's byte for the number of reserved bytes in each page.
const RESERVED_AT: usize = 20;
/// How full inner pages get; these values are fixed.
const FRACTIONS: [u8; 3] = [64, 32, 32];
/// Bytes of the header that are the same for every store.
const FIXED_BYTES: usize = 24;

/// How SQLite is to write a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writing {
    /// In place, without a rollback.
    InPlace,
    /// Through a write-ahead file.
    Ahead,
}

/// The kind of file in the place of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Plain,
    Checked,
}

/// The name of a new file until it is durable.
pub(super) fn new_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Returns the kind of file in the place of the store.
pub(super) fn look(disk: &dyn Disk, path: &Path) -> Result<Found, StorageError> {
    let failed = |error| StorageError::io("read", path, error);
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(failed(error)),
    };
    // An earlier release that crashed right after its start left an empty file.
    if file.size().map_err(failed)? == 0 {
        return Ok(Found::Nothing);
    }
    let mut page: Page = [0; PAGE_BYTES];
    file.read_at(0, &mut page).map_err(failed)?;
    let foreign = || {
        let what = "it is no store of a data node, or its header is damaged";
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
    // The file's change counter, and its number of pages.
    put(24, 1);
    put(28, 1);
    // The schema's format, and its text as UTF-8.
    put(44, 4);
    put(56, 1);
    // The change counter of the number of pages, and the release of SQLite that wrote it: one
    // old enough for every reader.
    put(92, 1);
    put(96, 3_037_002);
    // The root of the schema: an empty leaf, whose cells end before the checksum's bytes.
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

/// Switches a file that was written in place to a write-ahead file.
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

/// Renames the new file to the store's name.
pub(super) fn take_name(disk: &dyn Disk, path: &Path, sync: WalSync) -> Result<(), StorageError> {
    disk.rename(&new_path(path), path)
        .map_err(|error| StorageError::io("name", path, error))?;
    sync_dir(disk, path, sync)
}

/// Removes an unfinished database and its other files.
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

/// Removes a file if there is one; returns whether there was.
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
