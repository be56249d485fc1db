//! The steps before SQLite opens the file of a store:
//!
//! - If there is no file, an empty one is created.
//! - A file of the first releases has no room for checksums. It is copied, table by table, into
//!   a new file, which replaces it at the end.
//! - A write-ahead file that lost durable content is refused.

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

/// Makes `path` a database of a data node whose pages have checksums.
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
        // The name of a file from an earlier process may not be durable yet.
        sync_dir(&*disk, &path, sync)?;
        wal::check(&*disk, &path)
    })
    .await
}

/// Creates an empty store in `path`.
fn found_new(disk: &dyn Disk, path: &Path, sync: WalSync) -> Result<(), StorageError> {
    // Without its database such a file is useless, and beside a new one SQLite would use it.
    // It is kept under another name, because the database may be restored.
    put_aside(disk, &Role::WriteAhead.path(path))?;
    remove(disk, &Role::Journal.path(path))?;
    sync_dir(disk, path, sync)?;
    let new = new_path(path);
    write_empty(disk, &new, Writing::Ahead, sync)?;
    take_name(disk, path, sync)
}

/// Renames a file, if there is a nonempty one, so that nothing uses it.
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
        "there is a write-ahead file without a store; it is set aside"
    );
    disk.rename(path, &aside).map_err(failed)
}
