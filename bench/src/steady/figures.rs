//! The figures of a steady run: the worst cliffs, and whether resources stay bounded.

use serde::Serialize;
use tierkv_workload::{Failure, Window};

use super::{DURATION_SECONDS, sample::Sample};
use crate::rounds::median;

/// Samples in the window of a p99, for finding cliffs.
const CLIFF_SAMPLES: usize = 10;
/// With fewer samples, the end cannot be compared with the part before it.
const LEAST_SAMPLES: usize = 2 * CLIFF_SAMPLES;
/// The default limit of a data node's log, in bytes.
const LOG_LIMIT_BYTES: u64 = 8 << 30;
/// The size of its segments. One preallocated segment is not counted by the limit.
const LOG_SEGMENT_BYTES: u64 = 64 << 20;
/// Allowed growth (of 1) of memory and store at the end of the run, beyond the growth by new
/// keys.
const GROWTH_LIMIT: f64 = 0.10;
/// The end of a run: the last fifth, which is two minutes of ten.
const END_SHARE: f64 = 0.2;
/// The part that the end is compared with: the tenth before it, which is a minute of ten.
const BEFORE_SHARE: f64 = 0.1;
/// A second with less than this share of the median rate is a slow second.
const SLOW_SHARE: f64 = 0.5;

/// The figures of the cell.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SteadyFigures {
    /// Whether the run was too short for a valid figure.
    pub(crate) quick_look: bool,
    /// The median rate of all seconds, in writes a second.
    pub(crate) rate: f64,
    pub(crate) failures: u64,
    pub(crate) first_failure: Option<String>,
    /// Medians of windows of ten seconds.
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
    /// The p99 of the worst ten seconds, divided by the median p99.
    pub(crate) cliff_factor: f64,
    pub(crate) worst_p99_micros: f64,
    /// When those ten seconds ended.
    pub(crate) worst_p99_at: f64,
    pub(crate) max_micros: f64,
    /// The longest time without an acknowledged write.
    pub(crate) silence_micros: f64,
    pub(crate) silence_at: f64,
    /// Seconds with less than half the median rate.
    pub(crate) slow_seconds: usize,
    pub(crate) resident: Bound,
    pub(crate) log: Bound,
    pub(crate) store: Bound,
    pub(crate) details: String,
    pub(crate) samples: Vec<Sample>,
}

/// Whether something stays bounded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Bound {
    pub(crate) max_bytes: u64,
    /// The growth (of 1) at the end; for memory and store, beyond the growth by new keys.
    pub(crate) growth: f64,
    pub(crate) holds: bool,
}

impl SteadyFigures {
    /// `windows` belong to the `samples`.
    pub(crate) fn new(samples: Vec<Sample>, windows: &[Window]) -> Result<Self, Failure> {
        if samples.len() < LEAST_SAMPLES {
            return Err(Failure(format!(
                "{} samples are too few, {LEAST_SAMPLES} are needed",
                samples.len()
            )));
        }
        let first_failure = windows
            .iter()
            .find_map(|window| window.first_failure.clone());
        let operations: u64 = windows.iter().map(|window| window.operations).sum();
        if operations == 0 {
            let why = first_failure.unwrap_or_else(|| Failure("no answer".to_owned()));
            return Err(Failure(format!("no write was acknowledged: {why}")));
        }
        let cliffs = Cliffs::of(windows);
        let rate = median(samples.iter().map(|sample| sample.rate));
        let worst = |figure: fn(&Sample) -> f64| {
            let by = |a: &&Sample, b: &&Sample| figure(a).total_cmp(&figure(b));
            let sample = samples.iter().max_by(by);
            sample.map_or((0.0, 0.0), |sample| (figure(sample), sample.at))
        };
        let (silence_micros, silence_at) = worst(|sample| sample.silence_micros);
        #[allow(clippy::cast_precision_loss)]
        let full_seconds = DURATION_SECONDS as f64;
        let is_slow = |sample: &&Sample| sample.rate < rate * SLOW_SHARE;
        let mut figures = Self {
            quick_look: samples.last().is_none_or(|sample| sample.at < full_seconds),
            rate,
            failures: windows.iter().map(|window| window.failures).sum(),
            first_failure: first_failure.map(|failure| failure.0),
            p50_micros: cliffs.p50_micros,
            p99_micros: cliffs.p99_micros,
            cliff_factor: cliffs.worst_p99_micros / cliffs.p99_micros,
            worst_p99_micros: cliffs.worst_p99_micros,
            worst_p99_at: samples
                .get(cliffs.worst_end)
                .map_or(0.0, |sample| sample.at),
            max_micros: worst(|sample| sample.max_micros).0,
            silence_micros,
            silence_at,
            slow_seconds: samples.iter().filter(is_slow).count(),
            resident: Bound::of_growth(&samples, |sample| sample.resident_bytes),
            log: log_bound(&samples),
            store: Bound::of_growth(&samples, |sample| sample.store_bytes),
            details: String::new(),
            samples,
        };
        figures.details = figures.details();
        Ok(figures)
    }

    /// Whether everything stays bounded, and nothing failed.
    pub(crate) const fn holds(&self) -> bool {
        self.failures == 0 && self.resident.holds && self.log.holds && self.store.holds
    }

    fn details(&self) -> String {
        let millis = |micros: f64| micros / 1e3;
        let mut details = format!(
            "cliff factor {:.1} (p99 {:.1} ms in the worst 10 s, to {:.0} s; {:.1} ms in the \
             median ones, p50 {:.1}), longest write {:.0} ms, longest silence {:.0} ms (at {:.0} \
             s), {} of {} seconds under half the median rate; resident {}, log {}, store {}",
            self.cliff_factor,
            millis(self.worst_p99_micros),
            self.worst_p99_at,
            millis(self.p99_micros),
            millis(self.p50_micros),
            millis(self.max_micros),
            millis(self.silence_micros),
            self.silence_at,
            self.slow_seconds,
            self.samples.len(),
            self.resident.words(),
            self.log.words(),
            self.store.words(),
        );
        if let Some(failure) = &self.first_failure {
            details += &format!(
                "; {} writes failed, the first with: {failure}",
                self.failures
            );
        }
        if self.quick_look {
            details += &format!("; shorter than {DURATION_SECONDS} s: a quick look, no figure");
        }
        details
    }
}

impl Bound {
    fn of_growth(samples: &[Sample], bytes: fn(&Sample) -> u64) -> Self {
        let growth = growth(samples, bytes) - growth(samples, |sample| sample.keys);
        Self {
            max_bytes: samples.iter().map(bytes).max().unwrap_or(0),
            growth,
            holds: growth <= GROWTH_LIMIT,
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn words(self) -> String {
        format!(
            "{:.0} MiB at most ({}, {:+.0} % at the end)",
            self.max_bytes as f64 / f64::from(1 << 20),
            if self.holds { "bounded" } else { "NOT BOUNDED" },
            self.growth * 100.0
        )
    }
}

/// Checks only the limit, because the log may grow until it reaches it.
fn log_bound(samples: &[Sample]) -> Bound {
    let bytes = |sample: &Sample| sample.log_bytes;
    let max_bytes = samples.iter().map(bytes).max().unwrap_or(0);
    Bound {
        max_bytes,
        growth: growth(samples, bytes),
        holds: max_bytes <= LOG_LIMIT_BYTES + LOG_SEGMENT_BYTES,
    }
}

/// The growth (of 1) of the greatest value from the part before to the end. It compares greatest
/// values, because files are truncated and grow again.
#[allow(clippy::cast_precision_loss)]
fn growth(samples: &[Sample], value: fn(&Sample) -> u64) -> f64 {
    let total = samples.last().map_or(0.0, |sample| sample.at);
    let end = total * (1.0 - END_SHARE);
    let before = end - total * BEFORE_SHARE;
    let greatest = |from: f64, to: f64| {
        let part = samples
            .iter()
            .filter(|sample| sample.at > from && sample.at <= to);
        part.map(value).max().unwrap_or(0) as f64
    };
    greatest(end, total) / greatest(before, end).max(1.0) - 1.0
}

/// Quantiles of all windows of ten seconds.
#[derive(Clone, Copy, Debug)]
struct Cliffs {
    p50_micros: f64,
    p99_micros: f64,
    worst_p99_micros: f64,
    /// The last sample of the worst window.
    worst_end: usize,
}

impl Cliffs {
    fn of(windows: &[Window]) -> Self {
        let stretches: Vec<[f64; 2]> = windows.windows(CLIFF_SAMPLES).map(quantiles).collect();
        let p99 = |stretch: &[f64; 2]| stretch[1];
        let (worst, worst_p99_micros) = stretches
            .iter()
            .map(p99)
            .enumerate()
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .unwrap_or_default();
        Self {
            p50_micros: median(stretches.iter().map(|stretch| stretch[0])),
            p99_micros: median(stretches.iter().map(p99)),
            worst_p99_micros,
            worst_end: worst + CLIFF_SAMPLES - 1,
        }
    }
}

fn quantiles(windows: &[Window]) -> [f64; 2] {
    let mut windows = windows.iter();
    let Some(mut all) = windows.next().cloned() else {
        return [0.0; 2];
    };
    for window in windows {
        all.merge(window);
    }
    [0.5, 0.99].map(|share| all.latency(share).as_secs_f64() * 1e6)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run of this many seconds without growth, with 1,000 writes of 1 ms in each second.
    pub(crate) fn quiet(seconds: u32) -> (Vec<Sample>, Vec<Window>) {
        let sample = |at| Sample {
            at: f64::from(at),
            rate: 1_000.0,
            p50_micros: 1_000.0,
            p99_micros: 1_000.0,
            max_micros: 1_000.0,
            silence_micros: 900.0,
            keys: 1_000_000,
            resident_bytes: 1 << 30,
            log_bytes: 1 << 30,
            store_bytes: 1 << 29,
            store_wal_bytes: 1 << 26,
            ..Sample::default()
        };
        let window = |_| {
            let mut window = Window {
                operations: 1_000,
                ..Window::default()
            };
            window.latencies.record_n(1_000_000, 1_000).unwrap();
            window
        };
        (
            (1..=seconds).map(sample).collect(),
            (1..=seconds).map(window).collect(),
        )
    }

    #[test]
    fn a_quiet_run_has_no_cliff_and_stays_bounded() {
        let (samples, windows) = quiet(600);
        let figures = SteadyFigures::new(samples, &windows).unwrap();
        assert!(
            figures.holds() && !figures.quick_look,
            "{}",
            figures.details
        );
        assert_eq!((figures.cliff_factor, figures.slow_seconds), (1.0, 0));
        assert!(figures.details.starts_with("cliff factor 1.0 "));
        // A late sample makes fewer samples, not a shorter run.
        let (mut samples, mut windows) = quiet(600);
        samples.remove(300);
        windows.remove(300);
        assert!(!SteadyFigures::new(samples, &windows).unwrap().quick_look);
        let (samples, windows) = quiet(60);
        let quick = SteadyFigures::new(samples, &windows).unwrap();
        assert!(quick.details.ends_with("a quick look, no figure"));
        let (samples, windows) = quiet(19);
        assert!(SteadyFigures::new(samples, &windows).is_err());
    }

    #[test]
    fn a_cliff_is_found_with_its_time() {
        let (mut samples, mut windows) = quiet(100);
        windows[49].latencies.record_n(20_000_000, 500).unwrap();
        samples[49].rate = 100.0;
        samples[49].silence_micros = 800_000.0;
        let figures = SteadyFigures::new(samples, &windows).unwrap();
        assert!((19.0..21.0).contains(&figures.cliff_factor));
        assert!((50.0..60.0).contains(&figures.worst_p99_at));
        assert_eq!((figures.silence_at, figures.slow_seconds), (50.0, 1));
        assert!(figures.holds());
    }

    #[test]
    fn growth_at_the_end_is_reported_unless_new_keys_explain_it() {
        let (mut samples, windows) = quiet(100);
        for sample in &mut samples[85..] {
            sample.store_bytes += sample.store_bytes / 4;
            sample.keys += sample.keys / 5;
        }
        let figures = SteadyFigures::new(samples.clone(), &windows).unwrap();
        assert!(figures.holds(), "{:?}", figures.store);
        for sample in &mut samples[85..] {
            sample.keys = 1_000_000;
        }
        let figures = SteadyFigures::new(samples.clone(), &windows).unwrap();
        assert!(!figures.holds() && figures.resident.holds);
        assert!((figures.store.growth - 0.25).abs() < 0.001);
        assert!(figures.details.contains("NOT BOUNDED, +25 % at the end"));
    }

    #[test]
    fn the_log_may_grow_to_its_limit() {
        let (mut samples, windows) = quiet(100);
        samples[99].log_bytes = LOG_LIMIT_BYTES + LOG_SEGMENT_BYTES;
        assert!(
            SteadyFigures::new(samples.clone(), &windows)
                .unwrap()
                .holds()
        );
        samples[99].log_bytes += 1;
        assert!(!SteadyFigures::new(samples, &windows).unwrap().holds());
    }

    #[test]
    fn failures_are_reported_and_a_run_without_writes_is_an_error() {
        let (samples, mut windows) = quiet(30);
        windows[3].failures = 2;
        windows[3].first_failure = Some(Failure("full".to_owned()));
        let figures = SteadyFigures::new(samples.clone(), &windows).unwrap();
        assert!(!figures.holds());
        assert!(
            figures
                .details
                .contains("2 writes failed, the first with: full")
        );
        for window in &mut windows {
            window.operations = 0;
        }
        let error = SteadyFigures::new(samples, &windows).unwrap_err();
        assert_eq!(error.0, "no write was acknowledged: full");
    }
}
