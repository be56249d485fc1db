//! The counters of this tier. Handles are created once: looking one up costs more than a hit.

use metrics::{Counter, counter};
use tierkv_rpc::{OperationTimes, Timed};
use tierkv_types::{Code, Error};
use tokio::time::Instant;

/// This tier, in metrics and in the path of a read.
pub(crate) const TIER: &str = "client-coordinator";

/// What is measured of one kind of operation.
pub(crate) struct OperationMeter {
    /// How many there were.
    pub(crate) count: Counter,
    /// How long each took.
    pub(crate) times: OperationTimes,
}

impl OperationMeter {
    fn of(operation: &'static str) -> Self {
        Self {
            count: counter!("tierkv_operations_total", "operation" => operation),
            times: OperationTimes::of(TIER, operation),
        }
    }

    /// Counts an operation, which lasts until what is returned is dropped.
    pub(crate) fn begin(&self) -> Timed {
        self.count.increment(1);
        self.times.begin()
    }

    /// Counts operations that arrived together and are answered together, now.
    pub(crate) fn ended(&self, arrived: Instant, count: usize) {
        self.count.increment(count as u64);
        self.times.ended(arrived, count);
    }
}

/// The counters of one client coordinator.
pub(crate) struct Meters {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) merged: Counter,
    pub(crate) fills: Counter,
    pub(crate) gets: OperationMeter,
    /// Their keys are counted as gets.
    pub(crate) batch_gets: OperationTimes,
    pub(crate) puts: OperationMeter,
    pub(crate) deletes: OperationMeter,
    pub(crate) increments: OperationMeter,
    pub(crate) touches: OperationMeter,
    pub(crate) writes: OperationMeter,
    pub(crate) watches: OperationMeter,
    pub(crate) scans: OperationMeter,
    pub(crate) counts: OperationMeter,
    errors: Vec<(Code, Counter)>,
}

impl Meters {
    pub(crate) fn new() -> Self {
        metrics::describe_counter!(
            "tierkv_cache_hits_total",
            "Reads answered by the cache tier."
        );
        metrics::describe_counter!(
            "tierkv_cache_misses_total",
            "Reads that went below, `LATEST` reads among them."
        );
        metrics::describe_counter!(
            "tierkv_cache_merged_total",
            "Misses that shared another miss's read."
        );
        metrics::describe_counter!(
            "tierkv_cache_fills_total",
            "Entries stored in the cache tier."
        );
        metrics::describe_counter!("tierkv_operations_total", "Operations of users, by kind.");
        metrics::describe_counter!("tierkv_errors_total", "Operations that failed, by code.");
        Self {
            hits: counter!("tierkv_cache_hits_total"),
            misses: counter!("tierkv_cache_misses_total"),
            merged: counter!("tierkv_cache_merged_total"),
            fills: counter!("tierkv_cache_fills_total"),
            gets: OperationMeter::of("get"),
            batch_gets: OperationTimes::of(TIER, "batch_get"),
            puts: OperationMeter::of("put"),
            deletes: OperationMeter::of("delete"),
            increments: OperationMeter::of("increment"),
            touches: OperationMeter::of("touch"),
            writes: OperationMeter::of("write"),
            watches: OperationMeter::of("watch"),
            scans: OperationMeter::of("scan"),
            counts: OperationMeter::of("count"),
            errors: Code::ALL
                .map(|code| (code, counter!("tierkv_errors_total", "code" => code.name())))
                .into(),
        }
    }

    /// Counts a failed operation.
    pub(crate) fn failed(&self, error: &Error) {
        if let Some((_, counter)) = self.errors.iter().find(|(code, _)| *code == error.code) {
            counter.increment(1);
        }
    }
}
