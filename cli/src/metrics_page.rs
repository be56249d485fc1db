//! What `/metrics` shows: counters and gauges as the exporter keeps them, and histograms.
//!
//! The exporter's own histograms keep every value, 24 bytes each, until they are taken in:
//! at full load that is many megabytes a second. Ours count at once ([`FixedHistogram`]).

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SetRecorderError, SharedString,
    Unit,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use tierkv_client_coordinator::MetricsPage;

use crate::histogram::FixedHistogram;

/// Begins to gather the metrics of this process; those of before are lost.
///
/// # Errors
/// They are gathered already.
pub(crate) fn gather() -> Result<MetricsPage, SetRecorderError<Gatherer>> {
    let recorder = Gatherer {
        others: PrometheusBuilder::new().build_recorder(),
        histograms: Arc::default(),
    };
    let others = recorder.others.handle();
    let histograms = Arc::clone(&recorder.histograms);
    metrics::set_global_recorder(recorder)?;
    Ok(MetricsPage(Arc::new(move || {
        let mut page = others.render();
        // Writing to a string can't fail.
        let _ = histograms.render(&mut page);
        page
    })))
}

/// Where the code's metrics go.
pub(crate) struct Gatherer {
    others: PrometheusRecorder,
    histograms: Arc<Histograms>,
}

impl Recorder for Gatherer {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.others.describe_counter(name, unit, description);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.others.describe_gauge(name, unit, description);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, description: SharedString) {
        let mut gathered = self.histograms.gathered();
        (gathered.descriptions).insert(name.as_str().to_owned(), description);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.others.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.others.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let mut gathered = self.histograms.gathered();
        let histogram = match gathered.series.get(key) {
            Some(histogram) => Arc::clone(histogram),
            None => {
                let histogram = Arc::new(FixedHistogram::new(key.name()));
                (gathered.series).insert(key.clone(), Arc::clone(&histogram));
                histogram
            }
        };
        Histogram::from_arc(histogram)
    }
}

/// All histograms of the process.
#[derive(Default)]
struct Histograms(Mutex<Gathered>);

#[derive(Default)]
struct Gathered {
    descriptions: BTreeMap<String, SharedString>,
    /// Those of one name stand together.
    series: BTreeMap<Key, Arc<FixedHistogram>>,
}

impl Histograms {
    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        // Whoever panicked left a whole map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn render(&self, page: &mut String) -> fmt::Result {
        let gathered = self.gathered();
        let mut last = None;
        for (key, histogram) in &gathered.series {
            let name = key.name();
            if last.replace(name) != Some(name) {
                if let Some(description) = gathered.descriptions.get(name) {
                    writeln!(page, "# HELP {name} {description}")?;
                }
                writeln!(page, "# TYPE {name} histogram")?;
            }
            let labels = key.labels().map(|label| {
                let value = label.value().escape_default();
                format!("{}=\"{value}\"", label.key())
            });
            histogram.render(page, name, &labels.collect::<Vec<_>>().join(","))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_one_name_share_its_head_and_are_there_before_any_value() {
        let recorder = Gatherer {
            others: PrometheusBuilder::new().build_recorder(),
            histograms: Arc::default(),
        };
        metrics::with_local_recorder(&recorder, || {
            metrics::describe_histogram!("a_seconds", "How long.");
            metrics::histogram!("a_seconds", "of" => "x").record_many(0.0, 0);
            metrics::histogram!("a_seconds", "of" => "y").record(0.5);
            metrics::histogram!("a_seconds", "of" => "y").record(0.5);
            metrics::histogram!("b_records").record(2.0);
        });
        let mut page = String::new();
        recorder.histograms.render(&mut page).unwrap();
        let starting = |start: &str| page.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(starting("# HELP a_seconds How long."), 1, "{page}");
        assert_eq!(starting("# TYPE a_seconds histogram"), 1, "{page}");
        assert_eq!(starting("# TYPE b_records histogram"), 1, "{page}");
        assert_eq!(starting("a_seconds_count{of=\"x\"} 0"), 1, "{page}");
        assert_eq!(starting("a_seconds_count{of=\"y\"} 2"), 1, "{page}");
        assert_eq!(starting("a_seconds_sum{of=\"y\"} 1"), 1, "{page}");
    }
}
