//! How long operations take in a tier, for the metrics page.
//!
//! Each tier measures at its own door: from when a request arrived until its answer is
//! handed over, failures among them. One measurement is a look at the clock and an increment;
//! what is answered together is measured together.

use futures::{Stream, StreamExt};
use metrics::{Histogram, histogram};
use tierkv_proto::internal::request;
use tokio::time::Instant;

const NAME: &str = "tierkv_operation_seconds";

/// How long operations of one kind take in one tier. Cheap to clone.
#[derive(Clone)]
pub struct OperationTimes(Histogram);

impl OperationTimes {
    /// Those of `operation` in `tier`. From here on they are on the metrics page.
    #[must_use]
    pub fn of(tier: &'static str, operation: &'static str) -> Self {
        metrics::describe_histogram!(
            NAME,
            "Time from an operation's arrival at a tier to its answer, by tier and operation."
        );
        Self(histogram!(NAME, "tier" => tier, "operation" => operation))
    }

    /// Begins to measure one operation, which ends when what is returned is dropped.
    pub fn begin(&self) -> Timed {
        Timed {
            times: self.clone(),
            began: Instant::now(),
        }
    }

    /// Measures `count` operations that arrived together and are answered together, now.
    pub fn ended(&self, arrived: Instant, count: usize) {
        if count > 0 {
            self.0.record_many(arrived.elapsed(), count);
        }
    }
}

/// An operation under way. It ends when this is dropped: a caller that goes away ends it, too.
#[must_use = "the operation ends when this is dropped"]
pub struct Timed {
    times: OperationTimes,
    began: Instant,
}

impl Timed {
    /// Lets the operation last until the stream of its answers is dropped.
    pub fn until_dropped<T>(self, answers: impl Stream<Item = T>) -> impl Stream<Item = T> {
        answers.map(move |answer| {
            let _under_way = &self;
            answer
        })
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        self.times.ended(self.began, 1);
    }
}

/// How long each operation between tiers takes in one of them.
pub struct TierTimes {
    /// Reads of one key.
    pub reads: OperationTimes,
    /// Writes, whatever they change.
    pub writes: OperationTimes,
    /// Questions how far the cache may be believed.
    pub vouches: OperationTimes,
    /// Scans, until they ended.
    pub scans: OperationTimes,
    /// Counts.
    pub counts: OperationTimes,
    /// Watches, until they began.
    pub watches: OperationTimes,
}

impl TierTimes {
    /// Those of `tier`.
    #[must_use]
    pub fn of(tier: &'static str) -> Self {
        let times = |operation| OperationTimes::of(tier, operation);
        Self {
            reads: times("read"),
            writes: times("write"),
            vouches: times("vouch"),
            scans: times("scan"),
            counts: times("count"),
            watches: times("watch"),
        }
    }

    /// Those of a framed request.
    #[must_use]
    pub const fn of_kind(&self, kind: &request::Kind) -> &OperationTimes {
        match kind {
            request::Kind::Read(_) => &self.reads,
            request::Kind::Write(_) => &self.writes,
            request::Kind::Vouch(_) => &self.vouches,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };

    use futures::stream::iter;
    use metrics::HistogramFn;

    use super::*;

    #[derive(Default)]
    struct Samples(Mutex<Vec<f64>>);

    impl HistogramFn for Samples {
        fn record(&self, value: f64) {
            self.0.lock().unwrap().push(value);
        }
    }

    fn times() -> (OperationTimes, Arc<Samples>) {
        let samples = Arc::new(Samples::default());
        let times = OperationTimes(Histogram::from_arc(Arc::clone(&samples)));
        (times, samples)
    }

    fn millis(samples: &Samples) -> Vec<u128> {
        let samples = samples.0.lock().unwrap();
        let durations = samples.iter().map(|it| Duration::from_secs_f64(*it));
        durations.map(|it| it.as_millis()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_operation_is_measured_once_when_it_ends() {
        let (times, samples) = times();
        let timed = times.begin();
        tokio::time::advance(Duration::from_millis(30)).await;
        assert!(millis(&samples).is_empty());
        drop(timed);
        assert_eq!(millis(&samples), [30]);
        times.ended(Instant::now(), 0);
        assert_eq!(millis(&samples), [30]);
        times.ended(Instant::now(), 2);
        assert_eq!(millis(&samples), [30, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_measured_until_it_is_dropped() {
        let (times, samples) = times();
        let mut answers = times.begin().until_dropped(iter([1, 2]));
        assert_eq!(answers.next().await, Some(1));
        tokio::time::advance(Duration::from_millis(70)).await;
        assert!(millis(&samples).is_empty());
        drop(answers);
        assert_eq!(millis(&samples), [70]);
    }
}
