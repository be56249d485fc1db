//! The node's queues as gauges, each beside a gauge of its limit.

use std::{sync::Arc, time::Duration};

use metrics::{Gauge, gauge};
use tierkv_rpc::{Pace, Worker};
use tierkv_storage::{MemoryLimits, Storage, StorageReport};
use tokio::{sync::watch, time::Instant};

/// How often the gauges are set.
const INTERVAL: Duration = Duration::from_secs(1);

/// A gauge: its name, its description, and its value.
type Shown = (
    &'static str,
    &'static str,
    fn(&StorageReport, &MemoryLimits) -> u64,
);

/// Every gauge but the checkpoint's age.
const SHOWN: &[Shown] = &[
    (
        "tierkv_pinned_bytes",
        "Bytes of records in memory that the store does not have yet.",
        |report, _| report.pinned_bytes,
    ),
    (
        "tierkv_pinned_limit_bytes",
        "The bound of tierkv_pinned_bytes, over which writers wait.",
        |report, _| report.pinned_limit_bytes,
    ),
    (
        "tierkv_clean_bytes",
        "Bytes of records that memory keeps though the store has them.",
        |report, _| report.clean_bytes,
    ),
    (
        "tierkv_clean_limit_bytes",
        "The bound of tierkv_clean_bytes, over which records are evicted.",
        |_, memory| memory.max_bytes,
    ),
    (
        "tierkv_clean_records",
        "Records that memory keeps though the store has them.",
        |report, _| report.clean_entries as u64,
    ),
    (
        "tierkv_clean_limit_records",
        "The bound of tierkv_clean_records, over which records are evicted; 0: none.",
        |_, memory| memory.said_records(),
    ),
    (
        "tierkv_log_bytes",
        "Bytes that the log takes on disk.",
        |report, _| report.log_bytes,
    ),
    (
        "tierkv_log_limit_bytes",
        "The bound of tierkv_log_bytes, over which records leave the log early.",
        |report, _| report.log_limit_bytes,
    ),
    ("tierkv_log_segments", "Files of the log.", |report, _| {
        report.segments as u64
    }),
    (
        "tierkv_log_queue_bytes",
        "Bytes that wait to be written to the log, or are being written.",
        |report, _| report.log_queue_bytes,
    ),
    (
        "tierkv_log_queue_limit_bytes",
        "The bound of what waits for the log, over which writers wait.",
        |report, _| report.log_queue_limit_bytes,
    ),
    (
        "tierkv_remembered_requests",
        "Requests whose outcomes are remembered, so that a retry is applied once.",
        |report, _| report.requests as u64,
    ),
    (
        "tierkv_remembered_requests_limit",
        "The bound of tierkv_remembered_requests, over which writers wait.",
        |report, _| report.requests_limit as u64,
    ),
    (
        "tierkv_open_snapshots",
        "Scans and counts under way, each with a snapshot of its own.",
        |report, _| report.open_snapshots as u64,
    ),
    (
        "tierkv_open_snapshots_limit",
        "The bound of tierkv_open_snapshots, over which more are refused.",
        |report, _| report.open_snapshots_limit as u64,
    ),
    (
        "tierkv_durable_index",
        "The last record of the log that is durable.",
        |report, _| report.durable.index.0,
    ),
    (
        "tierkv_applied_index",
        "The last record of the log whose effect is visible.",
        |report, _| report.applied.0,
    ),
    (
        "tierkv_stored_index",
        "The last record of the log whose effect is in the store.",
        |report, _| report.stored.0,
    ),
];

/// Sets the gauges of one data node.
pub(crate) struct Gauges {
    storage: Arc<Storage>,
    memory: watch::Receiver<MemoryLimits>,
    started: Instant,
    /// Handles of [`SHOWN`], looked up once.
    shown: Vec<Gauge>,
    checkpoint_age: Gauge,
}

impl Gauges {
    pub(crate) fn new(storage: Arc<Storage>, memory: watch::Receiver<MemoryLimits>) -> Self {
        let described = |name: &'static str, help: &'static str| {
            metrics::describe_gauge!(name, help);
            gauge!(name)
        };
        let shown = SHOWN.iter().map(|(name, help, _)| described(name, help));
        Self {
            storage,
            memory,
            started: Instant::now(),
            shown: shown.collect(),
            checkpoint_age: described(
                "tierkv_checkpoint_age_seconds",
                "Time since the last checkpoint; before the first, since the start.",
            ),
        }
    }
}

impl Worker for Gauges {
    fn name(&self) -> &'static str {
        "gauges"
    }

    async fn work(&mut self) -> Pace {
        let (report, memory) = (self.storage.report(), *self.memory.borrow());
        for (gauge, (_, _, value)) in self.shown.iter().zip(SHOWN) {
            gauge.set(approximate(value(&report, &memory)));
        }
        let age = report.last_checkpoint;
        let age = age.unwrap_or_else(|| self.started.elapsed());
        self.checkpoint_age.set(age.as_secs_f64());
        Pace::Idle(INTERVAL)
    }
}

#[allow(clippy::cast_precision_loss)] // Exact below 2^53, which is enough.
fn approximate(value: u64) -> f64 {
    value as f64
}
