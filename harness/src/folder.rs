//! The temporary folder of a server, with its data and its log.

use std::{
    env, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::TempDir;

use crate::{
    error::{Error, io_error},
    user::User,
};

/// The environment variable with the folder under which all data folders are created.
pub const ROOT_VARIABLE: &str = "TIERKV_HARNESS_DIR";

/// The temporary folder of one server: its log, and `data/`, which belongs to the server's user.
/// It is removed with the last clone.
#[derive(Clone, Debug)]
pub struct DataFolder {
    folder: Arc<TempDir>,
    data: PathBuf,
}

impl DataFolder {
    /// A new, empty folder for the server `name`.
    ///
    /// It lies under `TIERKV_HARNESS_DIR`, or else under `/var/tmp`, which is on disk even where
    /// `/tmp` is in memory: an fsync must cost what a disk costs.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn new(name: &str) -> Result<Self, Error> {
        let root = env::var_os(ROOT_VARIABLE).map_or_else(default_root, PathBuf::from);
        let what = || format!("making a data folder for {name} in {}", root.display());
        let folder = tempfile::Builder::new()
            .prefix(&format!("tierkv-{name}-"))
            .tempdir_in(&root)
            .map_err(io_error(what()))?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))
            .map_err(io_error(what()))?;
        let data = folder.path().join("data");
        fs::create_dir(&data).map_err(io_error(what()))?;
        if let Some(user) = User::for_servers() {
            user.own(&data).map_err(io_error(what()))?;
        }
        Ok(Self {
            folder: Arc::new(folder),
            data,
        })
    }

    /// Copies the content of `from` to `to` in the data folder, owned by the server's user.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn place(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let what = format!("copying {} for a server", from.display());
        // Every folder of the path may be new too.
        let mut target = self.data.clone();
        to.iter()
            .try_for_each(|part| {
                target.push(part);
                make_own(&target)
            })
            .and_then(|()| copy(from, &target))
            .map_err(io_error(what))
    }

    /// The folder that the server may write to.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The folder around the data, where the log is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn make_own(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    User::for_servers().map_or(Ok(()), |user| user.own(folder))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    make_own(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
            continue;
        }
        fs::copy(entry.path(), &target)?;
        if let Some(user) = User::for_servers() {
            user.own(&target)?;
        }
    }
    Ok(())
}

fn default_root() -> PathBuf {
    let on_disk = Path::new("/var/tmp");
    if on_disk.is_dir() {
        on_disk.to_owned()
    } else {
        env::temp_dir()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn placed_files_belong_to_the_server() {
        let from = tempfile::tempdir().unwrap();
        fs::create_dir(from.path().join("inner")).unwrap();
        fs::write(from.path().join("inner/file"), "text").unwrap();
        let folder = DataFolder::new("test").unwrap();
        folder.place(from.path(), Path::new("a/b")).unwrap();
        let file = folder.data().join("a/b/inner/file");
        assert_eq!(fs::read_to_string(&file).unwrap(), "text");
        let owner = |path: &Path| fs::metadata(path).unwrap().uid();
        for path in [&file, &folder.data().join("a"), &folder.data().join("a/b")] {
            assert_eq!(owner(path), owner(folder.data()));
        }
    }

    #[test]
    fn a_folder_is_removed_with_its_last_clone() {
        let folder = DataFolder::new("test").unwrap();
        let clone = folder.clone();
        let data = folder.data().to_owned();
        drop(folder);
        assert!(data.is_dir());
        drop(clone);
        assert!(!data.exists());
    }
}
