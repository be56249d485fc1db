//! The modules of a crate, and the module that a path in it resolves to.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::source::{Scope, Use, Words, scopes};

/// How many re-exports a name may pass through.
const MAX_REEXPORTS: usize = 16;

/// A module of the crate.
struct Module {
    file: PathBuf,
    scope: Scope,
}

/// All modules of a crate, by their path from its root.
pub(super) struct Modules(BTreeMap<Words, Module>);

impl Modules {
    /// Reads the root file and all modules that are declared below it.
    pub(super) fn read(root: &Path, source: &dyn Fn(&Path) -> Option<String>) -> Self {
        let mut modules = BTreeMap::new();
        let folder = root.parent().unwrap_or(Path::new(""));
        let mut open = vec![(Words::new(), root.to_owned(), folder.to_owned())];
        while let Some((path, file, folder)) = open.pop() {
            let text = source(&file).unwrap_or_else(|| panic!("{} is missing", file.display()));
            for scope in scopes(&text) {
                let folder: PathBuf = folder.join(scope.inside.iter().collect::<PathBuf>());
                let path = [&path[..], &scope.inside].concat();
                for name in &scope.files {
                    let inner = folder.join(name);
                    let beside = folder.join(format!("{name}.rs"));
                    let file = match source(&beside) {
                        Some(_) => beside,
                        None => inner.join("mod.rs"),
                    };
                    let mut path = path.clone();
                    path.push(name.clone());
                    open.push((path, file, inner));
                }
                let file = file.clone();
                modules.insert(path, Module { file, scope });
            }
        }
        Self(modules)
    }

    /// Each import: the importing file, the imported file, and an imported name.
    pub(super) fn imports(&self) -> Vec<(PathBuf, PathBuf, String)> {
        let mut imports = Vec::new();
        for (path, module) in &self.0 {
            let uses = module.scope.uses.iter().map(|it| &it.path);
            for words in uses.chain(&module.scope.paths) {
                let Some(target) = self.target(path, words, MAX_REEXPORTS) else {
                    continue;
                };
                let is_below = target.starts_with(path) || path.starts_with(&target);
                let imported = &self.0[&target].file;
                if !is_below && *imported != module.file {
                    // Of `Log::open`, the imported name is `Log`.
                    let item = words
                        .iter()
                        .find(|word| word.starts_with(char::is_uppercase));
                    let name = item.or(words.last()).cloned().unwrap_or_default();
                    imports.push((module.file.clone(), imported.clone(), name));
                }
            }
        }
        imports
    }

    /// The module that defines the path `words`, as written in the module `from`; `None` if it
    /// is not in this crate. Follows at most `depth` re-exports.
    fn target(&self, from: &[String], words: &[String], depth: usize) -> Option<Words> {
        let depth = depth.checked_sub(1)?;
        let (first, _) = words.split_first()?;
        let (mut module, mut rest) = match first.as_str() {
            "crate" => (Words::new(), &words[1..]),
            "self" => (from.to_vec(), &words[1..]),
            "super" => (from.to_vec(), words),
            name if self.child(from, name).is_some() => (from.to_vec(), words),
            name => {
                let through = self.through(from, name, depth)?;
                let words = [&through.path[..], &words[1..]].concat();
                return self.target(from, &words, depth);
            }
        };
        while let Some((word, behind)) = rest.split_first() {
            rest = behind;
            if word == "*" {
                break;
            } else if word == "super" {
                module.pop()?;
            } else if let Some(child) = self.child(&module, word) {
                module = child;
            } else if let Some(through) = self.through(&module, word, depth) {
                let mut words = through.path.clone();
                if words.last().is_some_and(|last| last == "*") {
                    words.pop();
                    words.push(word.clone());
                }
                words.extend_from_slice(behind);
                return self.target(&module, &words, depth);
            } else {
                break;
            }
        }
        Some(module)
    }

    fn child(&self, module: &[String], name: &str) -> Option<Words> {
        let path = [module, &[name.to_owned()]].concat();
        self.0.contains_key(&path).then_some(path)
    }

    /// The `use` that brings the name into a module, if the module does not define it.
    fn through(&self, module: &[String], name: &str, depth: usize) -> Option<&Use> {
        let scope = &self.0[module].scope;
        if scope.items.contains(name) {
            return None;
        }
        let named = scope.uses.iter().find(|it| it.name == name);
        named.or_else(|| {
            scope.uses.iter().find(|it| {
                let is_all = it.path.last().is_some_and(|last| last == "*");
                let target = is_all
                    .then(|| self.target(module, &it.path, depth))
                    .flatten();
                target.is_some_and(|target| {
                    let scope = &self.0[&target].scope;
                    scope.items.contains(name) || scope.uses.iter().any(|it| it.name == name)
                })
            })
        })
    }
}
