//! The database file before SQLite opens it: that it is there, ours, and with checksums.
//!
//! - A new one is written under another name, as one well-formed page, and takes its
//!   name when it is durable. So SQLite finds a file whose header reserves the bytes of
//!   the checksums, which it can't be asked for.
//! - One of the first releases has no room for them. It is copied, table by table, into a
//!   new file that then takes its place; until then it is what counts.
//!
//! What a header says about the form of pages SQLite reads before it can verify the
//! page, so it is verified here: it is the same for every store of ours.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    rebuild::rebuild,
    vfs::{
        checksum::{self, MARK, MARK_AT, PAGE_BYTES, Page, RESERVED_BYTES},
        role::Role,
    },
};
use crate::{
    StorageError, WalSync,
    blocking::blocking,
    disk::{Disk, free_ending},
};

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

/// Sees to it that `path` is a database of ours whose pages carry checksums.
pub(super) async fn prepare(
    disk: &Arc<dyn Disk>,
    path: &Path,
    sync: WalSync,
) -> Result<(), StorageError> {
    let found = {
        let (disk, path) = (Arc::clone(disk), path.to_owned());
        blocking(move || {
            clear(&*disk, &new_path(&path), sync)?;
            let found = look(&*disk, &path)?;
            if found == Found::Nothing {
                found_new(&*disk, &path, sync)?;
            }
            Ok(found)
        })
    };
    if found.await? == Found::Plain {
        tracing::info!(file = %path.display(), "rebuilding the store with page checksums");
        rebuild(disk, path, sync).await?;
    }
    let (disk, path) = (Arc::clone(disk), path.to_owned());
    blocking(move || {
        // What a process before this one made may not have its name for good yet.
        sync_dir(&*disk, &path, sync)?;
        super::wal::check(&*disk, &path)
    })
    .await
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

/// Makes an empty store in `path`.
fn found_new(disk: &dyn Disk, path: &Path, sync: WalSync) -> Result<(), StorageError> {
    // Without its database such a file holds nothing; beside a new one it would be
    // taken for a part of that. But the database may come back.
    put_aside(disk, &Role::WriteAhead.path(path))?;
    remove(disk, &Role::Journal.path(path))?;
    sync_dir(disk, path, sync)?;
    let new = new_path(path);
    write_empty(disk, &new, Writing::Ahead, sync)?;
    take_name(disk, path, sync)
}

/// Gives a file that holds something, if there is one, a name under which nobody looks.
fn put_aside(disk: &dyn Disk, path: &Path) -> Result<(), StorageError> {
    let failed = |error| StorageError::io("put aside", path, error);
    let size = match disk.open(path) {
        Ok(file) => file.size().map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if size == 0 {
        return remove(disk, path).map(drop);
    }
    let names = disk.list(path.parent().unwrap_or(path)).map_err(failed)?;
    let mut aside = path.as_os_str().to_owned();
    aside.push(free_ending(&names, "aside"));
    let aside = PathBuf::from(aside);
    tracing::error!(
        file = %path.display(),
        aside = %aside.display(),
        "there is a write-ahead file and no store; it is put aside"
    );
    disk.rename(path, &aside).map_err(failed)
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
