//! The results of a mix: rates, latencies, errors by code and reads by source.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use tierkv::Source;

use crate::{
    door::Refused,
    drive::{latency_histogram, nanos},
};

/// The results of one kind of operation.
#[derive(Clone, Debug)]
pub struct Operations {
    /// The number of successful operations.
    pub succeeded: u64,
    /// The number of failed operations, including reads of wrong values.
    pub failed: u64,
    latencies: Histogram<u64>,
}

/// The results of all operations.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Reads.
    pub reads: Operations,
    /// Writes.
    pub writes: Operations,
    /// Successful reads, by the name of the tier that answered.
    pub sources: BTreeMap<&'static str, u64>,
    /// Failed operations, by their code or by what was wrong with the value.
    pub errors: BTreeMap<&'static str, u64>,
    /// The message of the first failure that a task reported.
    pub first_error: Option<String>,
}

impl Default for Operations {
    fn default() -> Self {
        Self {
            succeeded: 0,
            failed: 0,
            latencies: latency_histogram(),
        }
    }
}

impl Operations {
    /// The latency quantile for this share (of 1) of the successful operations.
    #[must_use]
    pub fn latency(&self, share: f64) -> Duration {
        Duration::from_nanos(self.latencies.value_at_quantile(share))
    }

    /// The longest latency of the successful operations.
    #[must_use]
    pub fn max_latency(&self) -> Duration {
        Duration::from_nanos(self.latencies.max())
    }

    pub(crate) fn succeed(&mut self, took: Duration) {
        self.succeeded += 1;
        self.latencies.saturating_record(nanos(took));
    }

    fn merge(&mut self, other: &Self) {
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        // Both have the same bounds, so every value fits.
        let _ = self.latencies.add(&other.latencies);
    }

    fn clear(&mut self) {
        (self.succeeded, self.failed) = (0, 0);
        self.latencies.reset();
    }
}

impl Tally {
    /// Adds the results of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.reads.merge(&other.reads);
        self.writes.merge(&other.writes);
        for (name, count) in &other.sources {
            *self.sources.entry(name).or_default() += count;
        }
        for (name, count) in &other.errors {
            *self.errors.entry(name).or_default() += count;
        }
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
    }

    /// The number of failed operations.
    #[must_use]
    pub const fn failed(&self) -> u64 {
        self.reads.failed + self.writes.failed
    }

    pub(crate) fn answered_by(&mut self, source: Source) {
        let name = match source {
            Source::Cache => "cache",
            Source::Replica => "replica",
            Source::Master => "master",
            Source::Unknown => "unknown",
        };
        *self.sources.entry(name).or_default() += 1;
    }

    pub(crate) fn failed_read(&mut self, name: &'static str, words: impl FnOnce() -> String) {
        self.reads.failed += 1;
        self.error(name, words);
    }

    pub(crate) fn refused_read(&mut self, refused: &Refused) {
        self.failed_read(refused.code.name(), || refused.words.clone());
    }

    pub(crate) fn refused_write(&mut self, refused: &Refused) {
        self.writes.failed += 1;
        self.error(refused.code.name(), || refused.words.clone());
    }

    fn error(&mut self, name: &'static str, words: impl FnOnce() -> String) {
        *self.errors.entry(name).or_default() += 1;
        self.first_error
            .get_or_insert_with(|| format!("{name}: {}", words()));
    }

    /// Resets everything but keeps the histograms' memory.
    pub(crate) fn clear(&mut self) {
        self.reads.clear();
        self.writes.clear();
        self.sources.clear();
        self.errors.clear();
        self.first_error = None;
    }
}

#[cfg(test)]
mod tests {
    use tierkv::Code;

    use super::*;

    #[test]
    fn errors_are_counted_by_code_and_reads_by_source() {
        let mut first = Tally::default();
        first.reads.succeed(Duration::from_micros(5));
        first.answered_by(Source::Cache);
        let mut second = Tally::default();
        second.reads.succeed(Duration::from_millis(5));
        second.answered_by(Source::Master);
        let refused = Refused {
            code: Code::ResourceExhausted,
            words: "wait".to_owned(),
        };
        second.refused_write(&refused);
        second.failed_read("wrong value", || "of k".to_owned());
        first.merge(&second);
        assert_eq!((first.reads.succeeded, first.failed()), (2, 2));
        assert_eq!(first.sources, [("cache", 1), ("master", 1)].into());
        assert_eq!(
            first.errors,
            [("ResourceExhausted", 1), ("wrong value", 1)].into()
        );
        assert_eq!(
            first.first_error.as_deref(),
            Some("ResourceExhausted: wait")
        );
        assert!(first.reads.latency(0.5) < Duration::from_micros(6));
        assert!(first.reads.max_latency() >= Duration::from_millis(5));
        first.clear();
        assert_eq!((first.reads.succeeded, first.failed()), (0, 0));
        assert!(first.errors.is_empty() && first.first_error.is_none());
    }
}
