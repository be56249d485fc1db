//! How fresh a read must be.

use std::time::Duration;

use clap::{Args, ValueEnum};
use tierkv::{Consistency, ReadOptions};

use crate::number;

/// The options of every command that reads.
#[derive(Args)]
pub(super) struct FreshnessArguments {
    /// How fresh the answer must be [default: cached, or session with --min-version].
    #[arg(long, value_enum)]
    consistency: Option<Freshness>,
    /// The least version that the answer may reflect, from an earlier write or read.
    #[arg(long, value_parser = number::unsigned)]
    min_version: Option<u64>,
    /// The read's own staleness bound in milliseconds.
    #[arg(long, value_parser = number::unsigned)]
    max_staleness_ms: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Freshness {
    /// At most the platform's max_staleness old; from the cache if possible.
    Cached,
    /// Like cached, and at least --min-version.
    Session,
    /// The latest value (linearizable for a key).
    Latest,
}

impl FreshnessArguments {
    /// Combines the options.
    ///
    /// # Errors
    /// If one of them would be ignored.
    pub(super) fn options(&self) -> Result<ReadOptions, String> {
        let consistency = match (self.consistency, self.min_version) {
            (Some(Freshness::Latest), None) if self.max_staleness_ms.is_some() => {
                return Err(
                    "--consistency latest takes no --max-staleness-ms: leave it out, or read with \
                     session or cached"
                        .to_owned(),
                );
            }
            (None | Some(Freshness::Session), Some(version)) => Consistency::Session(version),
            (None | Some(Freshness::Cached), None) => Consistency::Cached,
            (Some(Freshness::Latest), None) => Consistency::Latest,
            (Some(Freshness::Session), None) => {
                return Err("--consistency session needs a --min-version".to_owned());
            }
            (Some(Freshness::Cached | Freshness::Latest), Some(_)) => {
                return Err("--min-version goes with --consistency session: use that, or leave --min-version out"
                    .to_owned());
            }
        };
        Ok(ReadOptions {
            consistency,
            max_staleness: self.max_staleness_ms.map(Duration::from_millis),
            explain: false,
        })
    }
}
