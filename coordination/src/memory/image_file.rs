//! The image's file: replaced as a whole, and durable before a change is acknowledged.
//!
//! The directory holds three files:
//!
//! - `coordination.json`, the image;
//! - `coordination.json.tmp`, the next image while it is written: a leftover of a crash is never
//!   read, and the next write replaces it;
//! - `coordination.lock`, empty, locked while a process uses the directory. Two processes would
//!   issue the same epochs twice.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use super::{disk::Disk, image::Image};
use crate::error::CoordinationError;

pub(super) const IMAGE: &str = "coordination.json";
const NEXT_IMAGE: &str = "coordination.json.tmp";
pub(super) const LOCK: &str = "coordination.lock";

/// Maximum size of the image, in encoded bytes: every change writes it whole. A change that would
/// exceed it is refused with `Storage`.
pub(super) const MAX_IMAGE_BYTES: usize = 64 << 20;

/// The file of a store's image, with the lock on its directory.
pub(super) struct ImageFile {
    directory: PathBuf,
    disk: Box<dyn Disk>,
    /// Locked until this is dropped or the process ends.
    lock: File,
}

impl ImageFile {
    /// Opens `directory` and reads the image in it. If there is none, writes an empty one, so that
    /// a directory without write permission is found at once.
    pub(super) fn open(
        directory: &Path,
        disk: impl Disk + 'static,
    ) -> Result<(Self, Image), CoordinationError> {
        create_directory(directory, &disk).map_err(|error| {
            CoordinationError::Storage(format!(
                "can't create the coordination directory {} ({error}); check its path and rights",
                directory.display()
            ))
        })?;
        let lock = lock(&directory.join(LOCK))?;
        let mut file = Self {
            directory: directory.to_owned(),
            disk: Box::new(disk),
            lock,
        };
        let path = directory.join(IMAGE);
        let image = match fs::read(&path) {
            Ok(bytes) => Image::decode(&bytes).map_err(|bad| {
                CoordinationError::Storage(format!(
                    "can't use the coordination file {}: {bad}",
                    path.display()
                ))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let image = Image::default();
                file.replace(&image)?;
                image
            }
            Err(error) => {
                return Err(CoordinationError::Storage(format!(
                    "can't read the coordination file {} ({error}); check the disk and its rights",
                    path.display()
                )));
            }
        };
        Ok((file, image))
    }

    /// Makes `image` the durable one.
    ///
    /// `Storage` if the old image is certainly still durable, `OutcomeUnknown` if either may be.
    pub(super) fn replace(&mut self, image: &Image) -> Result<(), CoordinationError> {
        let (path, next) = (self.directory.join(IMAGE), self.directory.join(NEXT_IMAGE));
        let unchanged = |what: &str, error: &dyn std::fmt::Display| {
            CoordinationError::Storage(format!(
                "can't {what} the coordination file {} ({error}); nothing was changed, check the \
                 disk and its space, then retry",
                path.display()
            ))
        };
        let unknown = |what: &str, error: &io::Error| {
            tracing::error!(path = %path.display(), %error, "can't {what} the coordination file");
            CoordinationError::OutcomeUnknown(format!(
                "can't {what} the coordination file {} ({error})",
                path.display()
            ))
        };

        let bytes = image
            .encode()
            .map_err(|error| unchanged("encode", &error))?;
        if bytes.len() > MAX_IMAGE_BYTES {
            return Err(unchanged(
                "extend",
                &format_args!(
                    "it would have {} bytes, over the limit of {MAX_IMAGE_BYTES}; delete records",
                    bytes.len()
                ),
            ));
        }
        if let Err(error) = self.disk.write(&next, &bytes) {
            // The space is freed at once, because the disk may be full; a leftover would do no
            // harm.
            let _ = fs::remove_file(&next);
            return Err(unchanged("write", &error));
        }
        if let Err(error) = self.disk.rename(&next, &path) {
            // A rename is atomic: while the old name exists, nothing happened.
            return Err(match fs::symlink_metadata(&next) {
                Ok(_) => unchanged("replace", &error),
                Err(_) => unknown("replace", &error),
            });
        }
        self.disk
            .sync_directory(&self.directory)
            .map_err(|error| unknown("make durable", &error))
    }
}

impl Drop for ImageFile {
    /// Unlocks explicitly: closing the file would not unlock it while a forked child process still
    /// has its copy open.
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(directory = %self.directory.display(), %error, "can't unlock its directory");
        }
    }
}

/// Creates `directory` and its missing parents, each name durable in its parent.
fn create_directory(directory: &Path, disk: &impl Disk) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if parent != directory {
        create_directory(parent, disk)?;
    }
    // The platform's metadata is not for other users of the machine.
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        // Another process, or a trailing `.`, created it first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
        other => other?,
    }
    disk.sync_directory(parent)
}

pub(super) fn lock(path: &Path) -> Result<File, CoordinationError> {
    let failed = |error: &io::Error| {
        CoordinationError::Storage(format!(
            "can't lock {} ({error}); check the disk and its rights",
            path.display()
        ))
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|error| failed(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(CoordinationError::Storage(format!(
            "{} is locked: another process uses this directory; stop it, or choose another \
             directory",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(failed(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::disk::LocalDisk;

    /// Between fork and exec a child holds a copy of every open file of its parent.
    #[test]
    fn a_copy_of_the_lock_in_a_child_does_not_keep_the_directory_in_use() {
        let directory = tempfile::TempDir::new().unwrap();
        let (file, _) = ImageFile::open(directory.path(), LocalDisk).unwrap();
        let copy = file.lock.try_clone().unwrap();
        drop(file);
        assert!(ImageFile::open(directory.path(), LocalDisk).is_ok());
        drop(copy);
    }
}
