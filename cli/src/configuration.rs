//! The configuration: one TOML file, overridden by the environment, overridden by flags.
//!
//! Reading order: [`keys`] declares every key once, with its default and its meaning;
//! [`setting`] parses and prints values, [`bounds`] checks them, [`layers`] collects them from
//! file, environment and flags, and [`reader`] reads each key from these layers. [`sample`]
//! prints the declarations as a file.

mod bounds;
mod byte_size;
mod keys;
mod layers;
mod reader;
mod sample;
mod setting;

use std::{fmt, path::PathBuf};

use serde_json::Value;

pub(crate) use self::{
    byte_size::ByteSize,
    keys::{Configuration, CoordinationKeys},
    layers::ConfigurationArguments,
    sample::sample,
    setting::{CacheKind, HostPort},
};

/// Where the value of a key came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The key is not set.
    Default,
    /// This file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// One key and its effective value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The full key, as in `wal.sync`.
    pub(crate) key: &'static str,
    /// Its documentation.
    pub(crate) meaning: String,
    /// Its value as TOML writes it.
    pub(crate) toml: String,
    /// Its value for programs: sizes are numbers of bytes.
    pub(crate) json: Value,
    /// Where the value came from.
    pub(crate) origin: Origin,
}

/// The key of a [`Problem`] with the file as a whole.
pub(crate) const THE_FILE: &str = "the file";

/// An invalid value, or another error of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The key, or [`THE_FILE`].
    pub(crate) key: String,
    /// Where it was set.
    pub(crate) origin: Origin,
    /// The error message: what is wrong and what would be valid.
    pub(crate) words: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::File(path) if self.key == THE_FILE => {
                write!(f, "{}: {}", path.display(), self.words)
            }
            origin => write!(f, "{} ({origin}): {}", self.key, self.words),
        }
    }
}

/// The loaded configuration, with everything that was wrong.
pub(crate) struct Loaded {
    /// The configuration; use it only if there are no problems.
    pub(crate) configuration: Configuration,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// All keys, in the order of their declaration.
    pub(crate) entries: Vec<Entry>,
    /// Settings that are ignored.
    pub(crate) warnings: Vec<String>,
    /// Errors; with any of them the platform does not start.
    pub(crate) problems: Vec<Problem>,
}

/// The help text of an option that sets `key`: its meaning and its default.
pub(crate) fn help(key: &str) -> String {
    let loaded = layers::load(&ConfigurationArguments::default(), &[], &[]);
    let entry = loaded.entries.into_iter().find(|entry| entry.key == key);
    entry.map_or_else(String::new, |entry| {
        let meaning = entry.meaning.trim_end_matches('.');
        format!(
            "{meaning}; sets {key} [default: {}]",
            entry.toml.trim_matches('"')
        )
    })
}

impl Loaded {
    /// What is wrong with the value of a key, if anything: it is then not in force.
    pub(crate) fn problem_of(&self, key: &str) -> Option<&Problem> {
        self.problems.iter().find(|problem| problem.key == key)
    }

    /// Returns the configuration and logs the warnings.
    ///
    /// # Errors
    /// All problems in one message.
    pub(crate) fn accept(self) -> Result<Configuration, String> {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
        if self.problems.is_empty() {
            if let Some(file) = &self.file {
                tracing::info!(file = %file.display(), "configuration read");
            }
            return Ok(self.configuration);
        }
        let problems: Vec<String> = self.problems.iter().map(Problem::to_string).collect();
        Err(format!(
            "the configuration can't be used\n  {}",
            problems.join("\n  ")
        ))
    }
}
