//! [`HangingDisk`]: the machine's disk, whose changes hang while a test wants that. They return no
//! error, as with a controller or a network disk that does not answer.

use std::{
    io,
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use tierkv_storage::{
    Disk, RealDisk,
    disk::{BootId, DiskDir, DiskFile, DiskId, DiskLock},
};

/// Whether changes hang now.
#[derive(Debug, Default)]
struct Switch {
    is_on: Mutex<bool>,
    changed: Condvar,
}

impl Switch {
    fn set(&self, is_on: bool) {
        *self.is_on.lock().unwrap_or_else(PoisonError::into_inner) = is_on;
        self.changed.notify_all();
    }

    /// Waits until changes do not hang.
    fn pass(&self) {
        let is_on = self.is_on.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = self.changed.wait_while(is_on, |is_on| *is_on);
        drop(passed.unwrap_or_else(PoisonError::into_inner));
    }
}

/// The machine's disk, which may hang. Clones hang together.
#[derive(Clone, Debug, Default)]
pub(crate) struct HangingDisk(Arc<Switch>);

/// While it lives, the disk hangs.
pub(crate) struct Hang(Arc<Switch>);

impl Drop for Hang {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl HangingDisk {
    /// From now on writes, syncs and changes of names hang; reads don't.
    pub(crate) fn hang(&self) -> Hang {
        self.0.set(true);
        Hang(Arc::clone(&self.0))
    }

    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(HangingFile(Arc::clone(&self.0), file))
    }
}

#[derive(Debug)]
struct HangingFile(Arc<Switch>, Box<dyn DiskFile>);

#[derive(Debug)]
struct HangingDir(Arc<Switch>, Box<dyn DiskDir>);

impl Disk for HangingDisk {
    fn id(&self) -> DiskId {
        RealDisk.id()
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.pass();
        RealDisk.create_dir(dir)
    }

    fn create(&self, file: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.pass();
        Ok(self.file(RealDisk.create(file)?))
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(RealDisk.open(file)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.pass();
        RealDisk.rename(from, to)
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        self.0.pass();
        RealDisk.remove(file)
    }

    fn dir(&self, dir: &Path) -> io::Result<Box<dyn DiskDir>> {
        let dir = RealDisk.dir(dir)?;
        Ok(Box::new(HangingDir(Arc::clone(&self.0), dir)))
    }

    fn boot_id(&self) -> io::Result<BootId> {
        RealDisk.boot_id()
    }

    fn lock(&self, file: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        RealDisk.lock(file)
    }
}

impl DiskFile for HangingFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.1.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.pass();
        self.1.write_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.pass();
        self.1.sync_data()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.0.pass();
        self.1.allocate(bytes)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.pass();
        self.1.truncate(bytes)
    }

    fn size(&self) -> io::Result<u64> {
        self.1.size()
    }
}

impl DiskDir for HangingDir {
    fn sync(&self) -> io::Result<()> {
        self.0.pass();
        self.1.sync()
    }
}
