//! Histograms for the metrics page, of fixed buckets.

use std::{
    fmt::{self, Write},
    sync::atomic::{AtomicU64, Ordering},
};

use metrics::HistogramFn;

/// Upper bounds of the buckets for durations, in seconds: from what the cache takes to what
/// nobody waits for.
const SECONDS: [f64; 19] = [
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Those for everything else, which is counted.
const SIZES: [f64; 13] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0,
];
/// How the names of durations end.
const SECONDS_SUFFIX: &str = "_seconds";

/// Counts values by size. It takes the same memory whatever it has counted, and a value costs
/// two additions that wait for nobody.
#[derive(Debug)]
pub(crate) struct FixedHistogram {
    bounds: &'static [f64],
    /// Values per bucket; the last one takes what is over all bounds.
    buckets: Box<[AtomicU64]>,
    /// In parts of a unit, so that it can be added to at once. Of nanoseconds there is room
    /// for 584 years.
    sum: AtomicU64,
    parts_per_unit: f64,
}

impl FixedHistogram {
    /// An empty one for the values of `name`.
    pub(crate) fn new(name: &str) -> Self {
        let (bounds, parts_per_unit): (&[f64], f64) = match name.ends_with(SECONDS_SUFFIX) {
            true => (&SECONDS, 1e9),
            false => (&SIZES, 1.0),
        };
        Self {
            bounds,
            buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
            parts_per_unit,
        }
    }

    /// Writes its lines in Prometheus' text format; `labels` are written already, without
    /// braces.
    pub(crate) fn render(&self, page: &mut String, name: &str, labels: &str) -> fmt::Result {
        // Before the buckets, so that these have whatever is in it.
        let sum = self.sum.load(Ordering::Acquire);
        let comma = if labels.is_empty() { "" } else { "," };
        let bounds = self.bounds.iter().map(ToString::to_string);
        let mut count = 0;
        for (bound, bucket) in bounds.chain(["+Inf".to_owned()]).zip(&self.buckets) {
            count += bucket.load(Ordering::Relaxed);
            writeln!(
                page,
                "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"
            )?;
        }
        let labels = match labels {
            "" => String::new(),
            labels => format!("{{{labels}}}"),
        };
        #[allow(clippy::cast_precision_loss)] // The last digits of years are of no use.
        let sum = sum as f64 / self.parts_per_unit;
        writeln!(page, "{name}_sum{labels} {sum}")?;
        writeln!(page, "{name}_count{labels} {count}")
    }
}

impl HistogramFn for FixedHistogram {
    fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        // The cast makes 0 of what is below it, or no number.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let parts = (value * self.parts_per_unit) as u64;
        let count = count as u64;
        self.buckets[bucket].fetch_add(count, Ordering::Relaxed);
        self.sum
            .fetch_add(parts.saturating_mul(count), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(histogram: &FixedHistogram, labels: &str) -> Vec<String> {
        let mut page = String::new();
        histogram.render(&mut page, "x", labels).unwrap();
        page.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_value_is_in_every_bucket_whose_bound_it_does_not_exceed() {
        let histogram = FixedHistogram::new("x_seconds");
        histogram.record(0.000_01);
        histogram.record(0.000_011);
        histogram.record_many(0.3, 2);
        histogram.record(11.0);
        let page = page(&histogram, "");
        assert_eq!(page.len(), SECONDS.len() + 3);
        for line in [
            "x_bucket{le=\"0.00001\"} 1",
            "x_bucket{le=\"0.000025\"} 2",
            "x_bucket{le=\"0.25\"} 2",
            "x_bucket{le=\"0.5\"} 4",
            "x_bucket{le=\"10\"} 4",
            "x_bucket{le=\"+Inf\"} 5",
            "x_sum 11.600021",
            "x_count 5",
        ] {
            assert!(page.iter().any(|told| told == line), "{line}\n{page:?}");
        }
    }

    #[test]
    fn labels_stand_in_every_line_and_sizes_have_bounds_of_their_own() {
        let histogram = FixedHistogram::new("x_records");
        histogram.record(3.0);
        histogram.record_many(7.0, 0);
        let page = page(&histogram, "a=\"b\"");
        assert_eq!(page.len(), SIZES.len() + 3);
        for line in [
            "x_bucket{a=\"b\",le=\"2\"} 0",
            "x_bucket{a=\"b\",le=\"5\"} 1",
            "x_bucket{a=\"b\",le=\"+Inf\"} 1",
            "x_sum{a=\"b\"} 3",
            "x_count{a=\"b\"} 1",
        ] {
            assert!(page.iter().any(|told| told == line), "{line}\n{page:?}");
        }
    }

    #[test]
    fn what_is_no_duration_adds_nothing_to_the_sum() {
        let histogram = FixedHistogram::new("x_seconds");
        histogram.record(-1.0);
        histogram.record(f64::NAN);
        let page = page(&histogram, "");
        assert!(page.contains(&"x_sum 0".to_owned()), "{page:?}");
        assert!(page.contains(&"x_count 2".to_owned()), "{page:?}");
    }
}
