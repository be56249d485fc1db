//! The options of a read, checked.

use std::time::Duration;

use tierkv_protocol::cache::ReadBound;
use tierkv_rpc::proto::{
    convert,
    v1::{Consistency, ReadOptions},
};
use tierkv_types::{Error, Version};

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// From the cache, if within the bound.
    Bounded(ReadBound),
    /// From the master, bypassing the cache.
    Latest,
}

impl Level {
    /// The bound for an answer from below.
    pub(crate) const fn bound(self) -> ReadBound {
        match self {
            Self::Bounded(bound) => bound,
            Self::Latest => ReadBound {
                max_age: Duration::ZERO,
                min_version: Version::ZERO,
            },
        }
    }
}

/// The options of a read, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CheckedOptions {
    pub(crate) level: Level,
    /// Whether to return the read's path.
    pub(crate) explain: bool,
}

impl CheckedOptions {
    /// Checks the options of a request; without a bound, the answer is at most `max_staleness` old.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown consistency, or a `min_version` that would be ignored.
    pub(crate) fn new(
        options: Option<&ReadOptions>,
        max_staleness: Duration,
    ) -> Result<Self, Error> {
        let level = match options {
            Some(options) => level(options, max_staleness)?,
            None => Level::Bounded(ReadBound {
                max_age: max_staleness,
                min_version: Version::ZERO,
            }),
        };
        let explain = options.is_some_and(|options| options.explain);
        Ok(Self { level, explain })
    }
}

fn level(options: &ReadOptions, max_staleness: Duration) -> Result<Level, Error> {
    let consistency = convert::consistency(options.consistency)?;
    if consistency != Consistency::Session && options.min_version != 0 {
        return Err(Error::invalid(
            "min_version goes with SESSION consistency; set that, or leave min_version out",
        ));
    }
    if consistency == Consistency::Latest && options.max_staleness_ms.is_some() {
        return Err(Error::invalid(
            "LATEST takes no max_staleness_ms; leave it out",
        ));
    }
    Ok(match consistency {
        Consistency::Latest => Level::Latest,
        Consistency::Unspecified | Consistency::Cached | Consistency::Session => {
            Level::Bounded(ReadBound {
                max_age: options
                    .max_staleness_ms
                    .map_or(max_staleness, |ms| Duration::from_millis(ms.into())),
                min_version: Version::from_bits(options.min_version),
            })
        }
    })
}
