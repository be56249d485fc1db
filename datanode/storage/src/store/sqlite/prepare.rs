//! All that comes before SQLite opens the file of a store.
//!
//! - Where there is none, an empty one is made.
//! - One of the first releases has no room for checksums. It is copied, table by table, into
//!   a new file that then takes its place; until then it is what counts.
//! - A write-ahead file that lost something it held durably is refused.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    format::{Found, Writing, clear, look, new_path, remove, sync_dir, take_name, write_empty},
    rebuild::rebuild,
    vfs::role::Role,
    wal,
};
use crate::{
    StorageError, WalSync,
    blocking::blocking,
    disk::{Disk, free_ending},
};

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
        wal::check(&*disk, &path)
    })
    .await
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
