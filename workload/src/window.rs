//! The results of a load between two samples.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::{drive::latency_histogram, target::Failure};

/// The results of a load in a period of time.
#[derive(Clone, Debug)]
pub struct Window {
    /// Operations that were acknowledged in it, even if they began before.
    pub operations: u64,
    /// Operations that failed in it.
    pub failures: u64,
    /// The first failure that a task reported.
    pub first_failure: Option<Failure>,
    /// Latencies of the acknowledged operations, in nanoseconds.
    pub latencies: Histogram<u64>,
    /// The longest time without an acknowledgement that ended in this period, or still lasted at
    /// its end; it may have begun before.
    pub longest_silence: Duration,
}

impl Default for Window {
    /// An empty window.
    fn default() -> Self {
        Self {
            operations: 0,
            failures: 0,
            first_failure: None,
            latencies: latency_histogram(),
            longest_silence: Duration::ZERO,
        }
    }
}

impl Window {
    /// The latency quantile for this share (of 1) of the acknowledged operations.
    #[must_use]
    pub fn latency(&self, share: f64) -> Duration {
        Duration::from_nanos(self.latencies.value_at_quantile(share))
    }

    /// The longest latency.
    #[must_use]
    pub fn max_latency(&self) -> Duration {
        Duration::from_nanos(self.latencies.max())
    }

    /// Adds the results of the period `other`.
    pub fn merge(&mut self, other: &Self) {
        self.operations += other.operations;
        self.failures += other.failures;
        if self.first_failure.is_none() {
            self.first_failure.clone_from(&other.first_failure);
        }
        // Both have the same bounds, so every value fits.
        let _ = self.latencies.add(&other.latencies);
        self.longest_silence = self.longest_silence.max(other.longest_silence);
    }

    /// Resets everything but keeps the histogram's memory.
    pub(crate) fn clear(&mut self) {
        self.operations = 0;
        self.failures = 0;
        self.first_failure = None;
        self.latencies.reset();
        self.longest_silence = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_windows_are_merged_into_one() {
        let mut first = Window {
            operations: 1,
            ..Window::default()
        };
        first.latencies.record(1_000).unwrap();
        let mut second = Window {
            operations: 2,
            failures: 1,
            first_failure: Some(Failure("full".to_owned())),
            longest_silence: Duration::from_millis(7),
            ..Window::default()
        };
        second.latencies.record_n(3_000_000, 2).unwrap();
        first.merge(&second);
        assert_eq!((first.operations, first.failures), (3, 1));
        assert_eq!(first.first_failure, second.first_failure);
        assert_eq!(first.longest_silence, Duration::from_millis(7));
        assert!(first.latency(0.1) < Duration::from_micros(2));
        assert!(first.max_latency() >= Duration::from_millis(3));
        first.clear();
        assert_eq!((first.operations, first.latencies.len()), (0, 0));
        assert_eq!(first.longest_silence, Duration::ZERO);
    }
}
