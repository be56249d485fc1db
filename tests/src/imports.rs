//! Finds circles of imports between the source files of a crate.
//!
//! ```text
//!   source (a file's modules, uses and paths) ─► modules (where a path leads) ─► here
//! ```
//!
//! Tests are left out: items under `#[cfg(test)]`, and files that only tests declare. A module
//! and its submodules count as one, so a use between them is no import. A use of a re-exported
//! name imports the file that defines the name, not the file that re-exports it.

mod modules;
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use modules::Modules;

/// The names that a file imports, by the file that they come from.
type ImportedNames = BTreeMap<PathBuf, BTreeSet<String>>;

/// The imports between the source files of one crate.
pub struct Imports(BTreeMap<PathBuf, ImportedNames>);

/// A group of files that import each other, directly or through others, and their imports.
#[derive(Debug, PartialEq, Eq)]
pub struct Circle {
    /// The importing file, the imported file, and the names imported.
    pub imports: Vec<(PathBuf, PathBuf, Vec<String>)>,
}

impl Imports {
    /// Reads a crate, beginning with its root file, `lib.rs` or `main.rs`. `source` returns the
    /// text of a file, or `None` if the file does not exist.
    ///
    /// # Panics
    /// If a file is not Rust, or a declared module has no file.
    #[must_use]
    pub fn of_crate(root: &Path, source: &dyn Fn(&Path) -> Option<String>) -> Self {
        let mut imports: BTreeMap<PathBuf, ImportedNames> = BTreeMap::new();
        for (importing, imported, name) in Modules::read(root, source).imports() {
            let names = imports.entry(importing).or_default();
            names.entry(imported).or_default().insert(name);
        }
        Self(imports)
    }

    /// All circles, each with all of its files.
    #[must_use]
    pub fn circles(&self) -> Vec<Circle> {
        let reached: BTreeMap<&Path, BTreeSet<&Path>> = (self.0.keys())
            .map(|file| (file.as_path(), self.reached_from(file)))
            .collect();
        let mut seen = BTreeSet::new();
        let mut circles = Vec::new();
        for (file, others) in &reached {
            if !others.contains(file) || seen.contains(file) {
                continue;
            }
            let back = |other: &&&Path| reached.get(**other).is_some_and(|it| it.contains(file));
            let members: BTreeSet<&Path> = others.iter().filter(back).copied().collect();
            circles.push(self.between(&members));
            seen.extend(members);
        }
        circles
    }

    fn reached_from(&self, file: &Path) -> BTreeSet<&Path> {
        let mut reached = BTreeSet::new();
        let mut open = vec![file];
        while let Some(at) = open.pop() {
            for next in self.0.get(at).into_iter().flat_map(BTreeMap::keys) {
                if reached.insert(next.as_path()) {
                    open.push(next);
                }
            }
        }
        reached
    }

    fn between(&self, members: &BTreeSet<&Path>) -> Circle {
        let mut imports = Vec::new();
        for importing in members {
            for (imported, names) in &self.0[*importing] {
                if members.contains(imported.as_path()) {
                    let names = names.iter().cloned().collect();
                    imports.push((importing.to_path_buf(), imported.clone(), names));
                }
            }
        }
        Circle { imports }
    }
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "a circle of imports:")?;
        for (importing, imported, names) in &self.imports {
            let (from, to) = (importing.display(), imported.display());
            writeln!(f, "  {from} imports {} of {to}", names.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
