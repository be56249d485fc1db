//! A disk in memory that loses unsynced writes on demand.
//!
//! Reading order: [`TestDisk`] and its switches, `inode` (bytes and lengths), `names`.

mod inode;
mod names;

use std::{
    collections::HashSet,
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use rand::{SeedableRng, rngs::StdRng};
use rustix::io::Errno;

use self::{inode::Inode, names::Names};
use super::{BootId, Disk, DiskDir, DiskFile, DiskId, DiskLock};
use crate::locked;

/// How a crash treats the sectors of a file that were written but not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tear {
    /// The sectors up to some point survive, the ones after it do not.
    InOrder,
    /// Each sector survives or not, independent of the others.
    AnyOrder,
}

/// A disk in memory. [`TestDisk::crash`] is a power cut: it returns the disk of the next boot,
/// with everything synced and an arbitrary part of the rest. All handles from before the cut
/// fail. Clones share the disk.
///
/// Bytes are lost by sector, lengths apart from bytes, names in the order of each
/// directory; between files and directories there is no order at all.
#[derive(Clone, Debug)]
pub struct TestDisk {
    state: Arc<Mutex<State>>,
    /// Which process of which disk this is.
    life: u64,
}

#[derive(Debug, Default)]
struct State {
    boot: u64,
    /// The life whose handles work.
    life: u64,
    inodes: Vec<Inode>,
    names: Names,
    locks: HashSet<PathBuf>,
    /// Bytes by which files may still grow; `None` is no bound.
    space: Option<u64>,
    /// How many syncs of files still succeed; `None` is all of them.
    syncs_left: Option<u64>,
    syncs: u64,
    /// How many calls still take effect; `None` is all of them.
    calls_left: Option<u64>,
    calls: u64,
    ignored_syncs: IgnoredSyncs,
    /// Files and directories that are open.
    open: usize,
    /// How many may be open; `None` is no bound.
    descriptors: Option<usize>,
}

/// Chooses files and directories by their path.
type Choice = dyn Fn(&Path) -> bool + Send + Sync;

/// The files and directories whose syncs succeed without syncing.
#[derive(Default)]
struct IgnoredSyncs(Option<Box<Choice>>);

impl fmt::Debug for IgnoredSyncs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IgnoredSyncs")
            .field(&self.0.is_some())
            .finish()
    }
}

impl IgnoredSyncs {
    fn matches(&self, path: Option<&Path>) -> bool {
        match (&self.0, path) {
            (Some(ignores), Some(path)) => ignores(path),
            _ => false,
        }
    }
}

#[derive(Debug)]
struct TestFile {
    descriptor: Descriptor,
    inode: usize,
}

#[derive(Debug)]
struct TestDir {
    descriptor: Descriptor,
    path: PathBuf,
}

/// The descriptor of an open file or directory.
#[derive(Debug)]
struct Descriptor {
    disk: TestDisk,
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        let mut state = locked(&self.disk.state);
        // Descriptors of an earlier life were closed with it.
        if state.life == self.disk.life {
            state.open -= 1;
        }
    }
}

#[derive(Debug)]
struct TestLock {
    disk: TestDisk,
    path: PathBuf,
}

/// A number that no boot or life of any disk in this process had before.
fn next_number() -> u64 {
    static BOOTS: AtomicU64 = AtomicU64::new(1);
    BOOTS.fetch_add(1, Ordering::Relaxed)
}

impl Default for TestDisk {
    fn default() -> Self {
        Self::booted(State::default())
    }
}

impl TestDisk {
    fn booted(state: State) -> Self {
        let life = next_number();
        let state = State {
            boot: next_number(),
            life,
            ..state
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            life,
        }
    }

    /// A disk with these files, all durable.
    pub fn holding(files: impl IntoIterator<Item = (PathBuf, Vec<u8>)>) -> Self {
        let mut state = State::default();
        for (path, content) in files {
            let dir = dir_of(&path).to_owned();
            let change = vec![(path, Some(state.inodes.len()))];
            state.inodes.push(Inode::settled(content));
            state.names.change(&dir, change);
            state.names.sync(&dir);
        }
        Self::booted(state)
    }

    /// A copy of the disk, with unsynced writes, and with all switches reset.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = locked(&self.state);
        Self::booted(State {
            inodes: state.inodes.clone(),
            names: state.names.clone(),
            ..State::default()
        })
    }

    /// A copy of the disk for another process in the same boot of the machine, with unsynced
    /// writes, and with all switches reset.
    #[must_use]
    pub fn same_boot(&self) -> Self {
        let copy = self.fork();
        locked(&copy.state).boot = locked(&self.state).boot;
        copy
    }

    /// Cuts the power; `seed` decides which unsynced writes survive. Resets all switches.
    #[must_use]
    pub fn crash(&self, seed: u64, tear: Tear) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut state = locked(&self.state);
        let mut names = std::mem::take(&mut state.names);
        let mut inodes = std::mem::take(&mut state.inodes);
        names.lose(&mut random);
        for inode in &mut inodes {
            inode.lose(&mut random, tear);
        }
        let life = next_number();
        *state = State {
            boot: next_number(),
            life,
            inodes,
            names,
            ..State::default()
        };
        Self {
            state: Arc::clone(&self.state),
            life,
        }
    }

    /// Ends the process that uses the disk, as `kill -9` does: the system keeps what was
    /// written, and it is the same boot.
    #[must_use]
    pub fn kill(&self) -> Self {
        let life = next_number();
        let mut state = locked(&self.state);
        state.life = life;
        state.locks.clear();
        state.open = 0;
        Self {
            state: Arc::clone(&self.state),
            life,
        }
    }

    /// Whether the power was cut by [`TestDisk::cut_after`].
    #[must_use]
    pub fn is_cut(&self) -> bool {
        locked(&self.state).calls_left == Some(0)
    }

    /// Lets files grow by `bytes` in all from now on.
    pub fn set_space(&self, bytes: Option<u64>) {
        locked(&self.state).space = bytes;
    }

    /// Allows at most `count` open files and directories from now on; open ones stay open.
    pub fn set_descriptors(&self, count: Option<usize>) {
        locked(&self.state).descriptors = count;
    }

    /// How many files and directories are open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        locked(&self.state).open
    }

    /// Lets `count` more syncs of files succeed and fails every later one.
    pub fn fail_syncs_after(&self, count: u64) {
        locked(&self.state).syncs_left = Some(count);
    }

    /// Makes syncs of the files and directories selected by `ignores` succeed without making
    /// anything durable.
    pub fn ignore_syncs(&self, ignores: impl Fn(&Path) -> bool + Send + Sync + 'static) {
        locked(&self.state).ignored_syncs.0 = Some(Box::new(ignores));
    }

    /// Cuts the power after `calls` more calls that change something: every later call of any
    /// kind fails. [`TestDisk::crash`] then boots the remaining disk.
    pub fn cut_after(&self, calls: u64) {
        locked(&self.state).calls_left = Some(calls);
    }

    /// How many calls there have been that change something, since the boot.
    #[must_use]
    pub fn calls(&self) -> u64 {
        locked(&self.state).calls
    }

    /// How many syncs of files there have been, since the boot.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        locked(&self.state).syncs
    }

    /// The content of a file, as the page cache has it.
    #[must_use]
    pub fn content(&self, file: &Path) -> Option<Vec<u8>> {
        let state = locked(&self.state);
        let inode = state.names.get(file)?;
        Some(state.inodes[inode].content().to_vec())
    }

    /// Changes bytes durably without a write, like a failing disk.
    ///
    /// # Panics
    /// If there is no such file or it is shorter.
    pub fn damage(&self, file: &Path, offset: usize, bytes: &[u8]) {
        let mut state = locked(&self.state);
        let Some(inode) = state.names.get(file) else {
            panic!("there is no {}", file.display());
        };
        state.inodes[inode].damage(offset, bytes);
    }

    /// The paths of all files, in order.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        locked(&self.state).names.paths().cloned().collect()
    }

    /// The state, unless the power was cut meanwhile.
    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = locked(&self.state);
        if state.life == self.life && state.calls_left != Some(0) {
            Ok(state)
        } else {
            Err(io::Error::other("the power was cut"))
        }
    }

    /// Makes a call that changes something; the power may go with it.
    fn change<T>(&self, call: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.alive()?;
        state.calls += 1;
        let done = call(&mut state);
        if let Some(left) = &mut state.calls_left {
            *left -= 1;
        }
        done
    }

    /// What opening a file takes.
    fn descriptor(&self) -> io::Result<Descriptor> {
        let mut state = self.alive()?;
        if state.descriptors.is_some_and(|count| state.open >= count) {
            return Err(Errno::MFILE.into());
        }
        state.open += 1;
        drop(state);
        Ok(Descriptor { disk: self.clone() })
    }
}

impl State {
    fn inode(&self, file: &Path) -> io::Result<usize> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "no such file");
        self.names.get(file).ok_or_else(missing)
    }

    /// Takes up to `bytes` of free space; returns how many.
    fn take_space(&mut self, bytes: usize) -> usize {
        let Some(space) = &mut self.space else {
            return bytes;
        };
        let taken = bytes.min(here(*space));
        *space -= taken as u64;
        taken
    }
}

/// The directory that a file is in.
fn dir_of(file: &Path) -> &Path {
    file.parent().unwrap_or(file)
}

impl Disk for TestDisk {
    fn boot_id(&self) -> io::Result<BootId> {
        let boot = u128::from(self.alive()?.boot);
        Ok(BootId(boot.to_le_bytes()))
    }

    fn id(&self) -> DiskId {
        DiskId(self.life)
    }

    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        self.alive().map(|_| ())
    }

    fn create(&self, file: &Path) -> io::Result<Box<dyn DiskFile>> {
        let descriptor = self.descriptor()?;
        let inode = self.change(|state| {
            if state.names.get(file).is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let inode = state.inodes.len();
            state.inodes.push(Inode::default());
            let change = vec![(file.to_owned(), Some(inode))];
            state.names.change(dir_of(file), change);
            Ok(inode)
        })?;
        Ok(Box::new(TestFile { descriptor, inode }))
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn DiskFile>> {
        let descriptor = self.descriptor()?;
        let inode = self.alive().and_then(|state| state.inode(file))?;
        Ok(Box::new(TestFile { descriptor, inode }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let _descriptor = self.descriptor()?;
        let state = self.alive()?;
        let inside = state.names.paths().filter(|path| dir_of(path) == dir);
        Ok(inside
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state| {
            let inode = state.inode(from)?;
            let change = vec![(from.to_owned(), None), (to.to_owned(), Some(inode))];
            state.names.change(dir_of(to), change);
            Ok(())
        })
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        self.change(|state| {
            state.inode(file)?;
            let change = vec![(file.to_owned(), None)];
            state.names.change(dir_of(file), change);
            Ok(())
        })
    }

    fn dir(&self, dir: &Path) -> io::Result<Box<dyn DiskDir>> {
        Ok(Box::new(TestDir {
            descriptor: self.descriptor()?,
            path: dir.to_owned(),
        }))
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

impl DiskDir for TestDir {
    fn sync(&self) -> io::Result<()> {
        self.descriptor.disk.change(|state| {
            if !state.ignored_syncs.matches(Some(&self.path)) {
                state.names.sync(&self.path);
            }
            Ok(())
        })
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
        let state = self.descriptor.disk.alive()?;
        let rest = state.inodes[self.inode].content().get(here(offset)..);
        let rest = rest.unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.descriptor.disk.change(|state| {
            let start = here(offset);
            let length = state.inodes[self.inode].content().len();
            let growth = (start + bytes.len()).saturating_sub(length);
            let missing = growth - state.take_space(growth);
            // What fits is written, as it may be on a real disk.
            let fitting = bytes.len().saturating_sub(missing);
            if fitting > 0 {
                state.inodes[self.inode].write(start, &bytes[..fitting]);
            }
            match missing {
                0 => Ok(()),
                _ => Err(io::ErrorKind::StorageFull.into()),
            }
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.descriptor.disk.change(|state| {
            if let Some(left) = &mut state.syncs_left {
                if *left == 0 {
                    return Err(io::Error::other("the disk failed"));
                }
                *left -= 1;
            }
            state.syncs += 1;
            let path = state.names.of(self.inode);
            if !state.ignored_syncs.matches(path) {
                state.inodes[self.inode].sync();
            }
            Ok(())
        })
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.descriptor.disk.change(|state| {
            let length = state.inodes[self.inode].content().len();
            let growth = here(bytes).saturating_sub(length);
            if state.space.is_some_and(|space| here(space) < growth) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.take_space(growth);
            state.inodes[self.inode].set_length(length + growth);
            Ok(())
        })
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.descriptor.disk.change(|state| {
            state.inodes[self.inode].set_length(here(bytes));
            Ok(())
        })
    }

    fn size(&self) -> io::Result<u64> {
        let state = self.descriptor.disk.alive()?;
        Ok(state.inodes[self.inode].content().len() as u64)
    }
}
