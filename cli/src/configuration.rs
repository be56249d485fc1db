//! What an operator may configure: one TOML file, then the environment, then flags; the
//! later one wins.
//!
//! Reading order: [`keys`] declares every key once, with its default and its meaning;
//! [`setting`] is how the values are written, [`bounds`] which of them make sense,
//! [`layers`] where they come from, and [`reader`] reads them from there. [`sample`] prints the declarations as a file.

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
    keys::{Configuration, Places},
    layers::ConfigurationArguments,
    sample::sample,
};

/// Where the value of a key came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody said anything.
    Default,
    /// This file.
    File(PathBuf),
    /// This variable.
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

/// One key as it is set.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// The whole key, as in `wal.sync`.
    pub(crate) key: &'static str,
    /// What it means.
    pub(crate) meaning: String,
    /// Its value as TOML writes it.
    pub(crate) toml: String,
    /// Its value for programs: sizes are numbers of bytes.
    pub(crate) json: Value,
    /// Where the value came from.
    pub(crate) origin: Origin,
}

/// A value that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The key, or what stands in its place.
    pub(crate) key: String,
    /// Where it stands.
    pub(crate) origin: Origin,
    /// What is wrong and what would be right.
    pub(crate) words: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.key, self.origin, self.words)
    }
}

/// Everything that was found.
pub(crate) struct Loaded {
    /// What is to be used, if there are no problems.
    pub(crate) configuration: Configuration,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// All keys, in the order of their declaration.
    pub(crate) told: Vec<Told>,
    /// What is ignored.
    pub(crate) warnings: Vec<String>,
    /// What can't be used.
    pub(crate) problems: Vec<Problem>,
}

/// The help of an option that sets `key`: what it means, and its default.
pub(crate) fn help(key: &str) -> String {
    let loaded = layers::load(&ConfigurationArguments::default(), &[], &[]);
    let told = loaded.told.into_iter().find(|told| told.key == key);
    told.map_or_else(String::new, |told| {
        let meaning = told.meaning.trim_end_matches('.');
        format!(
            "{meaning}; sets {key} [default: {}]",
            told.toml.trim_matches('"')
        )
    })
}

impl Loaded {
    /// The configuration; warnings go to the log.
    ///
    /// # Errors
    /// All problems, in words.
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
