//! A disk in memory that forgets, on demand, what was not synced.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{BootId, Disk, DiskFile, DiskLock};
use crate::locked;

/// What the hardware writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// How a crash treats the sectors of a file that were written but not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tear {
    /// Those up to some point are there, the ones behind it are not.
    InOrder,
    /// Each is there or not, whatever the others are.
    AnyOrder,
}

/// A disk in memory. [`TestDisk::crash`] is a power cut: it answers the disk as the next
/// boot finds it, with what was synced and an arbitrary part of the rest, and everything
/// from before the cut is dead. Clones share the disk.
#[derive(Clone, Debug, Default)]
pub struct TestDisk {
    state: Arc<Mutex<State>>,
    life: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Counts the power cuts.
    boot: u64,
    /// Counts the processes that had the disk; only the last one's handles work.
    life: u64,
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names since their directory was synced, oldest first.
    pending: Vec<Renaming>,
    locks: HashSet<PathBuf>,
    /// Space left to allocate; `None` is no bound.
    space: Option<u64>,
    /// How many syncs still succeed; `None` is all of them.
    syncs_left: Option<u64>,
    syncs: u64,
}

#[derive(Debug, Default)]
struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
}

/// A change of names: `path` now leads to `inode`, or nowhere.
#[derive(Clone, Debug)]
struct Renaming(Vec<(PathBuf, Option<usize>)>);

#[derive(Debug)]
struct TestFile {
    disk: TestDisk,
    inode: usize,
}

#[derive(Debug)]
struct TestLock {
    disk: TestDisk,
    path: PathBuf,
}

impl TestDisk {
    /// Cuts the power; `seed` decides what of the unsynced survives.
    #[must_use]
    pub fn crash(&self, seed: u64, tear: Tear) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut state = locked(&self.state);
        let state = &mut *state;
        state.boot += 1;
        state.life += 1;
        state.locks.clear();
        state.space = None;
        state.syncs_left = None;
        // The journal of a file system keeps the order of changes to names.
        let kept = random.random_range(0..=state.pending.len());
        let pending = std::mem::take(&mut state.pending);
        for Renaming(changes) in pending.into_iter().take(kept) {
            apply_names(&mut state.durable_names, changes);
        }
        state.names = state.durable_names.clone();
        for inode in &mut state.inodes {
            inode.lose(&mut random, tear);
        }
        Self {
            state: Arc::clone(&self.state),
            life: state.life,
        }
    }

    /// Ends the process that uses the disk, as `kill -9` does: the system keeps what was
    /// written, and it is the same boot.
    #[must_use]
    pub fn kill(&self) -> Self {
        let mut state = locked(&self.state);
        state.life += 1;
        state.locks.clear();
        Self {
            state: Arc::clone(&self.state),
            life: state.life,
        }
    }

    /// Leaves `bytes` to allocate from now on.
    pub fn set_space(&self, bytes: Option<u64>) {
        locked(&self.state).space = bytes;
    }

    /// Lets `count` more syncs of files succeed and fails every later one.
    pub fn fail_syncs_after(&self, count: u64) {
        locked(&self.state).syncs_left = Some(count);
    }

    /// How many syncs of files there have been.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        locked(&self.state).syncs
    }

    /// The content of a file, as the page cache has it.
    #[must_use]
    pub fn content(&self, file: &Path) -> Option<Vec<u8>> {
        let state = locked(&self.state);
        let inode = *state.names.get(file)?;
        Some(state.inodes[inode].content.clone())
    }

    /// Changes bytes behind everyone's back, durably: what a failing disk does.
    ///
    /// # Panics
    /// If there is no such file or it is shorter.
    pub fn damage(&self, file: &Path, offset: usize, bytes: &[u8]) {
        let mut state = locked(&self.state);
        let inode = state.names[file];
        let inode = &mut state.inodes[inode];
        inode.content[offset..offset + bytes.len()].copy_from_slice(bytes);
        inode.durable.clone_from(&inode.content);
    }

    /// The paths of all files, in order.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        locked(&self.state).names.keys().cloned().collect()
    }

    /// The state, unless the power was cut meanwhile.
    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = locked(&self.state);
        if state.life == self.life {
            Ok(state)
        } else {
            Err(io::Error::other("the process is dead"))
        }
    }
}

fn apply_names(names: &mut BTreeMap<PathBuf, usize>, changes: Vec<(PathBuf, Option<usize>)>) {
    for (path, inode) in changes {
        match inode {
            Some(inode) => names.insert(path, inode),
            None => names.remove(&path),
        };
    }
}

impl State {
    fn rename(&mut self, changes: Vec<(PathBuf, Option<usize>)>) {
        apply_names(&mut self.names, changes.clone());
        self.pending.push(Renaming(changes));
    }

    fn inode(&self, file: &Path) -> io::Result<usize> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "no such file");
        self.names.get(file).copied().ok_or_else(missing)
    }
}

impl Inode {
    fn lose(&mut self, random: &mut StdRng, tear: Tear) {
        let mut survivor = self.durable.clone();
        // A changed length is metadata, which the journal may have kept or not.
        if random.random_bool(0.5) {
            survivor.resize(self.content.len(), 0);
        }
        let sectors = survivor.len().div_ceil(SECTOR_BYTES);
        let edge = random.random_range(0..=sectors);
        for sector in 0..sectors {
            let kept = match tear {
                Tear::InOrder => sector < edge,
                Tear::AnyOrder => random.random_bool(0.5),
            };
            let start = sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(survivor.len());
            if kept && end <= self.content.len() {
                survivor[start..end].copy_from_slice(&self.content[start..end]);
            }
        }
        self.content.clone_from(&survivor);
        self.durable = survivor;
    }
}

impl Disk for TestDisk {
    fn boot_id(&self) -> io::Result<BootId> {
        let boot = u128::from(self.alive()?.boot);
        Ok(BootId(boot.to_le_bytes()))
    }

    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, file: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.alive()?;
        if state.names.contains_key(file) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.rename(vec![(file.to_owned(), Some(inode))]);
        Ok(Box::new(TestFile {
            disk: self.clone(),
            inode,
        }))
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.alive()?;
        Ok(Box::new(TestFile {
            disk: self.clone(),
            inode: state.inode(file)?,
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.alive()?;
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        let inode = state.inode(from)?;
        state.rename(vec![(from.to_owned(), None), (to.to_owned(), Some(inode))]);
        Ok(())
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        state.inode(file)?;
        state.rename(vec![(file.to_owned(), None)]);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        let state = &mut *state;
        let pending = std::mem::take(&mut state.pending);
        for Renaming(changes) in pending {
            let here = |path: &Path| path.parent() == Some(dir);
            if changes.iter().any(|(path, _)| here(path)) {
                apply_names(&mut state.durable_names, changes);
            } else {
                state.pending.push(Renaming(changes));
            }
        }
        Ok(())
    }

    fn lock(&self, file: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        if !self.alive()?.locks.insert(file.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(TestLock {
            disk: self.clone(),
            path: file.to_owned(),
        })))
    }
}

impl DiskLock for TestLock {}

impl Drop for TestLock {
    fn drop(&mut self) {
        if let Ok(mut state) = self.disk.alive() {
            state.locks.remove(&self.path);
        }
    }
}

/// A length in memory as a length on disk and back; a file of a test fits into both.
fn here(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl DiskFile for TestFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.disk.alive()?;
        let rest = state.inodes[self.inode].content.get(here(offset)..);
        let rest = rest.unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.alive()?;
        let content = &mut state.inodes[self.inode].content;
        let (start, end) = (here(offset), here(offset) + bytes.len());
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.alive()?;
        if let Some(left) = &mut state.syncs_left {
            if *left == 0 {
                return Err(io::Error::other("the disk failed"));
            }
            *left -= 1;
        }
        state.syncs += 1;
        let inode = &mut state.inodes[self.inode];
        inode.durable.clone_from(&inode.content);
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.alive()?;
        let more = bytes.saturating_sub(state.inodes[self.inode].content.len() as u64);
        if let Some(space) = &mut state.space {
            if *space < more {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *space -= more;
        }
        let content = &mut state.inodes[self.inode].content;
        let length = content.len().max(here(bytes));
        content.resize(length, 0);
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.alive()?;
        state.inodes[self.inode].content.truncate(here(bytes));
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let state = self.disk.alive()?;
        Ok(state.inodes[self.inode].content.len() as u64)
    }
}
