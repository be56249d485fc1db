//! Names of files: in the page cache, and on the medium.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use rand::{Rng, rngs::StdRng};

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    now: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    /// Changes since their directory was synced, oldest first, by directory: a file
    /// system's journal keeps their order within one, and promises nothing between two.
    pending: BTreeMap<PathBuf, Vec<Change>>,
}

/// An atomic change of names: each path now leads to that file, or to none.
type Change = Vec<(PathBuf, Option<usize>)>;

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: Change) {
    for (path, inode) in change {
        match inode {
            Some(inode) => names.insert(path, inode),
            None => names.remove(&path),
        };
    }
}

impl Names {
    pub(super) fn get(&self, path: &Path) -> Option<usize> {
        self.now.get(path).copied()
    }

    /// A name of a file.
    pub(super) fn of(&self, inode: usize) -> Option<&Path> {
        let mut names = self.now.iter();
        let found = names.find(|(_, named)| **named == inode);
        found.map(|(path, _)| path.as_path())
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.now.keys()
    }

    /// Changes names of one directory.
    pub(super) fn change(&mut self, dir: &Path, change: Change) {
        apply(&mut self.now, change.clone());
        self.pending.entry(dir.to_owned()).or_default().push(change);
    }

    pub(super) fn sync(&mut self, dir: &Path) {
        for change in self.pending.remove(dir).unwrap_or_default() {
            apply(&mut self.durable, change);
        }
    }

    /// Loses, in each directory, the last of the changes that were not synced.
    pub(super) fn lose(&mut self, random: &mut StdRng) {
        for (_, pending) in std::mem::take(&mut self.pending) {
            let kept = random.random_range(0..=pending.len());
            for change in pending.into_iter().take(kept) {
                apply(&mut self.durable, change);
            }
        }
        self.now = self.durable.clone();
    }
}
