//! The layers of values: the file, overridden by the environment, overridden by flags.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::ErrorKind,
    mem,
    path::{Path, PathBuf},
};

use clap::Args;
use figment::{
    Error, Figment, Metadata, Profile, Provider, Source,
    providers::{Format, Toml},
    util::nest,
    value::{Dict, Map, Value},
};
use strsim::{damerau_levenshtein, jaro_winkler};

use super::{
    Configuration, Loaded, Origin, Problem, THE_FILE, bounds,
    reader::{ENVIRONMENT, Reader},
};

/// All variables begin with this.
const PREFIX: &str = "TIERKV_";
/// A key is suggested for an unknown one that is at least this similar (Jaro-Winkler, 1: equal).
const ALIKE: f64 = 0.85;
/// An unknown variable within this edit distance of a key's is reported as a typo.
const SLIP_LETTERS: usize = 2;
/// Name of the layer of flags.
const FLAG: &str = "flag";

/// The options of every command that reads the configuration.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ConfigurationArguments {
    /// A TOML file; `tierkv config sample` prints one.
    #[arg(long, value_name = "FILE", env = "TIERKV_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Set a key, as in wal.sync=interval; repeat it for several. `tierkv config check` lists
    /// the keys.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) set: Vec<(String, String)>,
}

impl ConfigurationArguments {
    /// Loads the configuration. `flags` are the keys with options of their own.
    pub(crate) fn load(&self, flags: &[(&'static str, String)]) -> Loaded {
        let ours = |(name, _): &(OsString, OsString)| {
            name.to_str().is_some_and(|name| name.starts_with(PREFIX))
        };
        load(
            self,
            flags,
            &env::vars_os().filter(ours).collect::<Vec<_>>(),
        )
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("write it as KEY=VALUE, for example wal.sync=interval")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// The variable that sets `key`.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// One key set by the environment or a flag. The value is always text: one that looks like a
/// number may be the name of a folder.
struct Set {
    layer: &'static str,
    source: String,
    key: &'static str,
    value: String,
}

impl Provider for Set {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.layer).source(Source::Custom(self.source.clone()))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let nested = nest(self.key, self.value.as_str().into());
        let dict = nested.into_dict().unwrap_or_default();
        Ok(Map::from([(Profile::Default, dict)]))
    }
}

/// Loads `arguments.config`, the variables of `environment`, then `flags`.
pub(super) fn load(
    arguments: &ConfigurationArguments,
    flags: &[(&'static str, String)],
    environment: &[(OsString, OsString)],
) -> Loaded {
    let mut layers = Layers::none();
    if let Some(path) = &arguments.config {
        layers.add_file(path);
    }
    layers.add_environment(environment);
    layers.add_flags(&arguments.set, flags);
    let mut reader = Reader::new(&layers.values);
    let configuration = Configuration::read(&mut reader);
    let Reader {
        entries, problems, ..
    } = reader;
    layers.problems.extend(problems);
    (layers.problems).extend(bounds::check(&configuration, &entries));
    Loaded {
        configuration,
        file: arguments.config.clone(),
        entries,
        warnings: layers.warnings,
        problems: layers.problems,
    }
}

/// The merged layers, the lowest first, and what was wrong with them.
struct Layers {
    keys: Keys,
    values: Figment,
    warnings: Vec<String>,
    problems: Vec<Problem>,
}

impl Layers {
    fn none() -> Self {
        Self {
            keys: Keys::declared(),
            values: Figment::new(),
            warnings: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn add(&mut self, layer: impl Provider) {
        self.values = mem::take(&mut self.values).merge(layer);
    }

    fn add_file(&mut self, path: &Path) {
        match parsed(path) {
            Ok((file, data)) => {
                for name in data.values().flat_map(|dict| leaves("", dict)) {
                    (self.keys).judge(&name, path, &mut self.warnings, &mut self.problems);
                }
                self.add(file);
            }
            Err(words) => self.problems.push(Problem {
                key: THE_FILE.to_owned(),
                origin: Origin::File(path.to_owned()),
                words,
            }),
        }
    }

    fn add_environment(&mut self, variables: &[(OsString, OsString)]) {
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            let Some(key) = self.keys.of_variable(&name) else {
                self.warnings.extend(self.keys.slip(&name));
                continue;
            };
            match utf8(value) {
                Some(value) => self.add(Set {
                    layer: ENVIRONMENT,
                    source: name,
                    key,
                    value,
                }),
                None => self.problems.push(Problem {
                    key: key.to_owned(),
                    origin: Origin::Environment(name),
                    words: "its value is not UTF-8".to_owned(),
                }),
            }
        }
    }

    /// Adds the pairs of `--set`, and the keys with options of their own.
    fn add_flags(&mut self, set: &[(String, String)], own: &[(&'static str, String)]) {
        let problem = |key: &str, words: String| Problem {
            key: key.to_owned(),
            origin: Origin::Flag,
            words,
        };
        let mut by_flag: Vec<(&'static str, &String)> = Vec::new();
        for (name, value) in set {
            match self.keys.known(name) {
                Some(key) => by_flag.push((key, value)),
                None => {
                    let words = format!("there is no such key; {}", self.keys.suggestion(name));
                    self.problems.push(problem(name, words));
                }
            }
        }
        by_flag.extend(own.iter().map(|(key, value)| (*key, value)));
        for (at, (key, value)) in by_flag.iter().enumerate() {
            if by_flag[..at].iter().any(|(earlier, _)| earlier == key) {
                let words = "it is set twice; leave one out".to_owned();
                self.problems.push(problem(key, words));
            }
            self.add(Set {
                layer: FLAG,
                source: FLAG.to_owned(),
                key,
                value: (*value).clone(),
            });
        }
    }
}

/// Reads a file, and what it sets.
///
/// # Errors
/// What is wrong with it and what to do.
fn parsed(path: &Path) -> Result<(impl Provider, Map<Profile, Dict>), String> {
    fs::read_to_string(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!(
            "the file does not exist; `tierkv config sample >{}` writes one to start from",
            path.display()
        ),
        ErrorKind::InvalidData => "the file is not UTF-8 text; `tierkv config sample` prints one \
                                   that is valid"
            .to_owned(),
        _ => format!("the file can't be read: {error}"),
    })?;
    let file = Toml::file_exact(path);
    let data = file.data().map_err(|error| {
        let why = error.kind.to_string();
        let why = why.trim_end().replace('\n', "\n    ");
        format!("the file is not valid TOML; `tierkv config sample` prints one that is\n    {why}")
    })?;
    Ok((file, data))
}

fn utf8(text: &OsStr) -> Option<String> {
    text.to_str().map(str::to_owned)
}

/// The dotted keys of `dict` and its nested sections.
fn leaves(before: &str, dict: &Dict) -> Vec<String> {
    let mut names = Vec::new();
    for (name, value) in dict {
        let name = match before {
            "" => name.clone(),
            before => format!("{before}.{name}"),
        };
        match value {
            Value::Dict(_, inner) if !inner.is_empty() => names.extend(leaves(&name, inner)),
            Value::Dict(..) => {}
            _ => names.push(name),
        }
    }
    names
}

/// The declared keys.
struct Keys(Vec<&'static str>);

impl Keys {
    fn declared() -> Self {
        let nothing = Figment::new();
        let mut reader = Reader::new(&nothing);
        // Reading an empty configuration lists all keys.
        let _ = Configuration::read(&mut reader);
        Self(reader.entries.iter().map(|entry| entry.key).collect())
    }

    fn known(&self, name: &str) -> Option<&'static str> {
        self.0.iter().find(|key| **key == name).copied()
    }

    fn of_variable(&self, name: &str) -> Option<&'static str> {
        self.0.iter().find(|key| variable(key) == name).copied()
    }

    /// What to do about a name that is no key.
    fn suggestion(&self, name: &str) -> String {
        let alike = |key: &&&'static str| jaro_winkler(key, name);
        let nearest = (self.0.iter()).max_by(|a, b| alike(a).total_cmp(&alike(b)));
        match nearest.filter(|key| alike(key) >= ALIKE) {
            Some(nearest) => format!("did you mean {nearest}?"),
            None => "`tierkv config check` lists the keys".to_owned(),
        }
    }

    /// Checks a name in a file: adds a warning or a problem if it is not a key.
    fn judge(
        &self,
        name: &str,
        path: &Path,
        warnings: &mut Vec<String>,
        problems: &mut Vec<Problem>,
    ) {
        if self.known(name).is_some() {
            return;
        }
        let section = format!("{name}.");
        if self.0.iter().any(|key| key.starts_with(&section)) {
            problems.push(Problem {
                key: name.to_owned(),
                origin: Origin::File(path.to_owned()),
                words: format!("it is a section; write [{name}], and its keys below"),
            });
            return;
        }
        // A section instead of a key's value: reading the key reports that.
        let inside = |key: &&&str| {
            name.strip_prefix(**key)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        if self.0.iter().any(|key| inside(&key)) {
            return;
        }
        warnings.push(format!(
            "{} sets {name}, which is an unknown key and is ignored; {}",
            path.display(),
            self.suggestion(name)
        ));
    }

    /// The warning for a variable that is nearly that of a key, and so probably a typo.
    fn slip(&self, name: &str) -> Option<String> {
        let mut variables = self.0.iter().map(|key| variable(key));
        let near = variables.find(|known| damerau_levenshtein(known, name) <= SLIP_LETTERS)?;
        Some(format!(
            "the variable {name} is unknown and is ignored; did you mean {near}?"
        ))
    }
}

#[cfg(test)]
mod tests;
