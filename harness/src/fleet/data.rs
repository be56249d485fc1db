//! What happens to the data of a fleet's data nodes: lost, put back by an older copy, damaged, on a
//! disk that is full.
//!
//! Each function is for a node whose process has ended, unless it says otherwise.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Fleet, Server};
use crate::{
    error::{Error, io_error},
    folder::DataFolder,
    network::again,
};

/// A file that takes space on a node's disk.
const BALLAST: &str = "ballast";

/// A copy of a data node's data.
#[derive(Debug)]
pub struct DataCopy(DataFolder);

impl DataCopy {
    /// The directory of log and store in the copy.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.0.data().join("copy")
    }
}

impl Fleet {
    /// The directory of a data node's log and store.
    ///
    /// # Errors
    /// If there is no such data node.
    pub fn data_dir(&self, name: &str) -> Result<PathBuf, Error> {
        Ok(self.data_node(name)?.1)
    }

    /// Copies a data node's data. Its process may stand still meanwhile instead of having ended.
    ///
    /// # Errors
    /// If there is no such data node, or its data can't be copied.
    pub fn copy_data(&self, name: &str) -> Result<DataCopy, Error> {
        let (_, dir) = self.data_node(name)?;
        let copy = DataFolder::new("copy")?;
        copy.place(&dir, Path::new("copy"))?;
        Ok(DataCopy(copy))
    }

    /// Removes a data node's data, as if its disk were new.
    ///
    /// # Errors
    /// If there is no such data node, or its data can't be removed.
    pub fn wipe(&self, name: &str) -> Result<(), Error> {
        let (_, dir) = self.data_node(name)?;
        fs::remove_dir_all(&dir).map_err(io_error(format!("removing {}", dir.display())))
    }

    /// Replaces a data node's data by a copy.
    ///
    /// # Errors
    /// If there is no such data node, or its data can't be replaced.
    pub fn put_back(&self, name: &str, copy: &DataCopy) -> Result<(), Error> {
        self.wipe(name)?;
        self.place(name, copy)
    }

    /// Moves a data node's data to a disk of so many bytes, which is in memory. Only for a fleet
    /// with a network.
    ///
    /// # Errors
    /// If there is no such data node, or the system refuses.
    pub fn move_to_small_disk(&self, name: &str, bytes: u64) -> Result<(), Error> {
        let copy = self.copy_data(name)?;
        let (server, _) = self.data_node(name)?;
        again::mount_disk(server.folder.data(), bytes)?;
        self.place(name, &copy)
    }

    /// Moves it back, and removes the small disk.
    ///
    /// # Errors
    /// If there is no small disk, or the system refuses.
    pub fn move_from_small_disk(&self, name: &str) -> Result<(), Error> {
        let copy = self.copy_data(name)?;
        let (server, _) = self.data_node(name)?;
        again::unmount_disk(server.folder.data())?;
        self.put_back(name, &copy)
    }

    /// Takes all but so many bytes of the disk under a data node's data. The node may run.
    ///
    /// # Errors
    /// If less is free, or the system refuses.
    pub fn fill_disk(&self, name: &str, left: u64) -> Result<(), Error> {
        let (server, _) = self.data_node(name)?;
        let ballast = server.folder.data().join(BALLAST);
        let what = format!("allocating {}", ballast.display());
        let about = rustix::fs::statvfs(server.folder.data())
            .map_err(|error| io_error(what.as_str())(error.into()))?;
        let free = about.f_bavail * about.f_frsize;
        let file = fs::File::create(&ballast).map_err(io_error(what.as_str()))?;
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, free.saturating_sub(left))
            .map_err(|error| io_error(what)(error.into()))
    }

    /// Makes room on a disk that was filled. The node may run.
    ///
    /// # Errors
    /// If it was not filled.
    pub fn make_room(&self, name: &str) -> Result<(), Error> {
        let (server, _) = self.data_node(name)?;
        let ballast = server.folder.data().join(BALLAST);
        fs::remove_file(&ballast).map_err(io_error(format!("removing {}", ballast.display())))
    }

    fn place(&self, name: &str, copy: &DataCopy) -> Result<(), Error> {
        let (server, dir) = self.data_node(name)?;
        let inside = dir.strip_prefix(server.folder.data()).unwrap_or(&dir);
        server.folder.place(&copy.dir(), inside)
    }

    fn data_node(&self, name: &str) -> Result<(&Server, PathBuf), Error> {
        let server = self.servers.iter().find(|server| server.name == name);
        let of_cluster = server.and_then(|server| Some((server, server.cluster.as_ref()?)));
        let (server, cluster) = of_cluster.ok_or_else(|| missing(name))?;
        Ok((server, server.folder.data().join(cluster).join(name)))
    }
}

fn missing(name: &str) -> Error {
    let missing = std::io::Error::other("the platform has no such process with data");
    io_error(format!("looking for {name}"))(missing)
}
