//! The counters of this tier. Handles are made once: looking one up costs more than a hit.

use metrics::{Counter, counter};
use tierkv_types::{Code, Error};

/// The counters of one client coordinator.
pub(crate) struct Meters {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) merged: Counter,
    pub(crate) fills: Counter,
    pub(crate) gets: Counter,
    pub(crate) puts: Counter,
    pub(crate) deletes: Counter,
    pub(crate) increments: Counter,
    pub(crate) touches: Counter,
    pub(crate) writes: Counter,
    pub(crate) watches: Counter,
    pub(crate) scans: Counter,
    pub(crate) counts: Counter,
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
        let operations = |kind| counter!("tierkv_operations_total", "operation" => kind);
        Self {
            hits: counter!("tierkv_cache_hits_total"),
            misses: counter!("tierkv_cache_misses_total"),
            merged: counter!("tierkv_cache_merged_total"),
            fills: counter!("tierkv_cache_fills_total"),
            gets: operations("get"),
            puts: operations("put"),
            deletes: operations("delete"),
            increments: operations("increment"),
            touches: operations("touch"),
            writes: operations("write"),
            watches: operations("watch"),
            scans: operations("scan"),
            counts: operations("count"),
            errors: Code::ALL
                .map(|code| (code, counter!("tierkv_errors_total", "code" => code.name())))
                .into(),
        }
    }

    /// Counts a failure on its way to a user.
    pub(crate) fn failed(&self, error: &Error) {
        if let Some((_, counter)) = self.errors.iter().find(|(code, _)| *code == error.code) {
            counter.increment(1);
        }
    }
}
