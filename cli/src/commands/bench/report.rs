//! The results of a bench, as text and as JSON.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use tierkv_workload::{Tally, tally::Operations};

use crate::output::Table;

/// The reported latencies: their names, and the share (of 1) of operations within them.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// The results.
pub(super) struct Report {
    pub(super) total: Tally,
    pub(super) elapsed: Duration,
    pub(super) is_interrupted: bool,
    pub(super) keys: u64,
    pub(super) value_bytes: usize,
}

/// A line with the rates since the last one.
pub(super) fn rates(tally: &Tally, since_start: Duration, since_last: Duration) -> String {
    let part = |name: &str, operations: &Operations| {
        format!(
            "{:.0} {name}/s (p99 {})",
            rate(operations, since_last),
            latency(operations.latency(0.99))
        )
    };
    let seconds = since_start.as_secs_f64();
    let failed = tally.failed();
    format!(
        "{seconds:.0} s: {}, {}, {failed} failed",
        part("reads", &tally.reads),
        part("writes", &tally.writes)
    )
}

#[allow(clippy::cast_precision_loss)] // Far from where it would matter.
fn rate(operations: &Operations, time: Duration) -> f64 {
    operations.succeeded as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// In milliseconds with three decimals.
fn latency(duration: Duration) -> String {
    format!("{:.3} ms", duration.as_secs_f64() * 1_000.0)
}

impl Report {
    pub(super) const fn has_failed(&self) -> bool {
        self.total.failed() > 0
    }

    pub(super) fn as_text(&self) -> String {
        let mut table = Table::new([
            "",
            "COUNT",
            "PER SECOND",
            "FAILED",
            "P50",
            "P90",
            "P99",
            "P99.9",
            "MAX",
        ]);
        for (name, operations) in [("reads", &self.total.reads), ("writes", &self.total.writes)] {
            let [p50, p90, p99, p999] =
                QUANTILES.map(|(_, share)| latency(operations.latency(share)));
            table.push([
                name.to_owned(),
                operations.succeeded.to_string(),
                format!("{:.0}", rate(operations, self.elapsed)),
                operations.failed.to_string(),
                p50,
                p90,
                p99,
                p999,
                latency(operations.max_latency()),
            ]);
        }
        let mut text = format!(
            "{} keys, values of {} bytes, {:.1} s{}\n{}",
            self.keys,
            self.value_bytes,
            self.elapsed.as_secs_f64(),
            if self.is_interrupted {
                " (interrupted)"
            } else {
                ""
            },
            table.take()
        );
        let sources = self.sources();
        let shares: Vec<String> = (sources.iter())
            .map(|(name, share)| format!("{name} {:.1} %", share * 100.0))
            .collect();
        if !shares.is_empty() {
            text.push_str(&format!("reads answered by: {}\n", shares.join(", ")));
        }
        let errors: Vec<String> = (self.total.errors.iter())
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        if let Some(first) = &self.total.first_error {
            text.push_str(&format!(
                "failed: {}; the first: {first}\n",
                errors.join(", ")
            ));
        }
        text
    }

    pub(super) fn as_json(&self) -> Value {
        let of = |operations: &Operations| {
            let mut latencies = serde_json::Map::new();
            for (name, share) in QUANTILES {
                latencies.insert(name.to_owned(), micros(operations.latency(share)));
            }
            latencies.insert("max".to_owned(), micros(operations.max_latency()));
            json!({
                "succeeded": operations.succeeded,
                "failed": operations.failed,
                "per_second": rate(operations, self.elapsed),
                "latency_us": latencies,
            })
        };
        json!({
            "keys": self.keys,
            "value_bytes": self.value_bytes,
            "seconds": self.elapsed.as_secs_f64(),
            "interrupted": self.is_interrupted,
            "reads": of(&self.total.reads),
            "writes": of(&self.total.writes),
            "sources": self.sources().into_iter().collect::<BTreeMap<_, _>>(),
            "errors": self.total.errors,
            "first_error": self.total.first_error,
        })
    }

    /// The share (of 1) of the reads that each tier answered.
    #[allow(clippy::cast_precision_loss)]
    fn sources(&self) -> Vec<(String, f64)> {
        let all = self.total.reads.succeeded.max(1) as f64;
        let shares = self.total.sources.iter();
        shares
            .map(|(name, count)| ((*name).to_owned(), *count as f64 / all))
            .collect()
    }
}

fn micros(duration: Duration) -> Value {
    (duration.as_secs_f64() * 1_000_000.0).into()
}
