//! A directory without an open store: inspected without a change, and repaired by setting a damaged
//! file aside.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{
    image::{BadImage, Image},
    image_file::{IMAGE, LOCK, lock},
};
use crate::{config::Versioned, error::CoordinationError};

/// The directory of a store, locked so that no process opens it.
#[derive(Debug)]
pub struct Offline {
    directory: PathBuf,
    /// Locked until this is dropped; `None` if there is no directory.
    lock: Option<File>,
    image: OfflineImage,
}

/// The state of the file in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OfflineImage {
    /// There is no file: the store starts empty.
    Missing,
    /// It can be opened.
    Sound,
    /// It is damaged; the message gives the reason and names the file.
    Damaged(String),
}

impl Offline {
    /// Locks `directory` and reads the file in it; changes nothing, and creates only the lock file.
    ///
    /// # Errors
    /// `Storage` if the directory is in use, can't be read or is of a newer format.
    pub fn open(directory: &Path) -> Result<(Self, Vec<(String, Versioned)>), CoordinationError> {
        let path = directory.join(IMAGE);
        let unusable = |why: &dyn std::fmt::Display| {
            CoordinationError::Storage(format!(
                "can't use the coordination file {}: {why}",
                path.display()
            ))
        };
        let lock = match directory.is_dir() {
            true => Some(lock(&directory.join(LOCK))?),
            false => None,
        };
        let mut records = Vec::new();
        let image = match fs::read(&path) {
            Ok(bytes) => match Image::decode(&bytes) {
                Ok(image) => {
                    records.extend(image.records);
                    OfflineImage::Sound
                }
                Err(BadImage::Damaged(what)) => OfflineImage::Damaged(format!(
                    "the coordination file {} is damaged: {what}",
                    path.display()
                )),
                Err(newer @ BadImage::Newer(_)) => return Err(unusable(&newer)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => OfflineImage::Missing,
            Err(error) => return Err(unusable(&error)),
        };
        let offline = Self {
            directory: directory.to_owned(),
            lock,
            image,
        };
        Ok((offline, records))
    }

    /// The state of the file.
    #[must_use]
    pub const fn image(&self) -> &OfflineImage {
        &self.image
    }

    /// Renames a damaged file within its directory, so that a store starts empty; durable on
    /// return. Returns the new name, or `None` if the file was not damaged.
    ///
    /// # Errors
    /// `Storage` if the system refuses.
    pub fn set_damaged_aside(&self) -> Result<Option<PathBuf>, CoordinationError> {
        let OfflineImage::Damaged(_) = self.image else {
            return Ok(None);
        };
        let path = self.directory.join(IMAGE);
        let names = (1_u32..).map(|number| format!("{IMAGE}.damaged-{number}"));
        let free = names
            .map(|name| self.directory.join(name))
            .find(|aside| !aside.exists())
            .unwrap_or_default();
        fs::rename(&path, &free)
            .and_then(|()| File::open(&self.directory)?.sync_all())
            .map_err(|error| {
                CoordinationError::Storage(format!("can't set {} aside ({error})", path.display()))
            })?;
        Ok(Some(free))
    }
}

impl Drop for Offline {
    /// Unlocks explicitly, as the store itself does.
    fn drop(&mut self) {
        if let Some(lock) = &self.lock
            && let Err(error) = lock.unlock()
        {
            tracing::warn!(directory = %self.directory.display(), %error, "can't unlock its directory");
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{ConfigStore, MemoryCoordination};

    #[tokio::test]
    async fn a_directory_is_looked_at_and_freed_from_a_damaged_file() {
        let dir = tempfile::TempDir::new().unwrap();
        let missing = dir.path().join("none");
        let (offline, records) = Offline::open(&missing).unwrap();
        assert_eq!(offline.image(), &OfflineImage::Missing);
        assert!(records.is_empty() && !missing.exists());

        let store = MemoryCoordination::open(dir.path()).unwrap();
        let value = Bytes::from_static(b"value");
        let _ = store.put_if_absent("a", value.clone()).await.unwrap();
        assert!(Offline::open(dir.path()).is_err(), "it is in use");
        drop(store);
        let (offline, records) = Offline::open(dir.path()).unwrap();
        assert_eq!(offline.image(), &OfflineImage::Sound);
        assert_eq!((records[0].0.as_str(), &records[0].1.value), ("a", &value));
        assert!(
            MemoryCoordination::open(dir.path()).is_err(),
            "it is locked"
        );
        assert_eq!(offline.set_damaged_aside().unwrap(), None);
        drop(offline);

        let path = dir.path().join(IMAGE);
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 5;
        bytes[last] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let (offline, records) = Offline::open(dir.path()).unwrap();
        assert!(matches!(offline.image(), OfflineImage::Damaged(what) if what.contains(IMAGE)));
        assert!(records.is_empty());
        let aside = offline.set_damaged_aside().unwrap().unwrap();
        assert_eq!(fs::read(aside).unwrap(), bytes);
        drop(offline);
        let store = MemoryCoordination::open(dir.path()).unwrap();
        assert_eq!(store.get("a").await.unwrap(), None);
    }
}
