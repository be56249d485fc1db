//! Small files that are read and replaced as a whole.

use std::{io, path::Path};

use crate::{StorageError, disk::Disk};

/// A file's content; `None` if there is no file. Blocks.
pub(crate) fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, StorageError> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::io("open", path, error)),
    };
    let content = file.size().and_then(|size| {
        let mut content = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        let read = file.read_at(0, &mut content)?;
        content.truncate(read);
        Ok(content)
    });
    let content = content.map_err(|error| StorageError::io("read", path, error))?;
    Ok(Some(content))
}

/// Replaces a file's content, creating the file if there is none; durable on return. The file
/// has the old or the new content at every moment: the new content is written and synced under
/// another name and then renamed. Blocks.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let new = path.with_extension("new");
    let dir = path.parent().unwrap_or(path);
    // Opened first: later all file descriptors might be in use.
    let names = disk.dir(dir);
    let names = names.map_err(|error| StorageError::io("open", dir, error))?;
    match disk.remove(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(StorageError::io("remove", &new, error));
        }
        _ => {}
    }
    let written = disk.create(&new).and_then(|file| {
        file.allocate(bytes.len() as u64)?;
        file.write_at(0, bytes)?;
        file.sync_data()
    });
    written.map_err(|error| StorageError::io("write", &new, error))?;
    disk.rename(&new, path)
        .and_then(|()| names.sync())
        .map_err(|error| StorageError::io("replace", path, error))
}
