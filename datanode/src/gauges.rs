//! The node's queues and limits as gauges: a queue stands beside the bound it runs into.

use std::{sync::Arc, time::Duration};

use metrics::{Gauge, gauge};
use tierkv_storage::{MemoryLimits, Storage, StorageReport};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

/// How often the gauges are set.
const INTERVAL: Duration = Duration::from_secs(1);

/// Runs until `stop` says so.
pub(crate) async fn run(
    storage: Arc<Storage>,
    memory: watch::Receiver<MemoryLimits>,
    mut stop: watch::Receiver<bool>,
) {
    let gauges = Gauges::new();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        gauges.set(&storage.report(), *memory.borrow());
    }
}

/// Handles, looked up once.
struct Gauges {
    started: Instant,
    pinned_bytes: Gauge,
    pinned_limit_bytes: Gauge,
    clean_bytes: Gauge,
    clean_limit_bytes: Gauge,
    clean_records: Gauge,
    clean_limit_records: Gauge,
    log_bytes: Gauge,
    log_limit_bytes: Gauge,
    log_segments: Gauge,
    log_queue_bytes: Gauge,
    log_queue_limit_bytes: Gauge,
    remembered_requests: Gauge,
    remembered_requests_limit: Gauge,
    open_snapshots: Gauge,
    open_snapshots_limit: Gauge,
    durable_index: Gauge,
    applied_index: Gauge,
    stored_index: Gauge,
    checkpoint_age: Gauge,
}

impl Gauges {
    fn new() -> Self {
        let told = |name: &'static str, help: &'static str| {
            metrics::describe_gauge!(name, help);
            gauge!(name)
        };
        Self {
            started: Instant::now(),
            pinned_bytes: told(
                "tierkv_pinned_bytes",
                "Bytes of records in memory that the store does not have yet.",
            ),
            pinned_limit_bytes: told(
                "tierkv_pinned_limit_bytes",
                "The bound of tierkv_pinned_bytes, over which writers wait.",
            ),
            clean_bytes: told(
                "tierkv_clean_bytes",
                "Bytes of records that memory keeps though the store has them.",
            ),
            clean_limit_bytes: told(
                "tierkv_clean_limit_bytes",
                "The bound of tierkv_clean_bytes, over which records are evicted.",
            ),
            clean_records: told(
                "tierkv_clean_records",
                "Records that memory keeps though the store has them.",
            ),
            clean_limit_records: told(
                "tierkv_clean_limit_records",
                "The bound of tierkv_clean_records, over which records are evicted; 0: none.",
            ),
            log_bytes: told("tierkv_log_bytes", "Bytes that the log takes on disk."),
            log_limit_bytes: told(
                "tierkv_log_limit_bytes",
                "The bound of tierkv_log_bytes, over which records leave the log early.",
            ),
            log_segments: told("tierkv_log_segments", "Files of the log."),
            log_queue_bytes: told(
                "tierkv_log_queue_bytes",
                "Bytes that wait to be written to the log, or are being written.",
            ),
            log_queue_limit_bytes: told(
                "tierkv_log_queue_limit_bytes",
                "The bound of what waits for the log, over which writers wait.",
            ),
            remembered_requests: told(
                "tierkv_remembered_requests",
                "Requests whose outcomes are remembered, so that a retry is applied once.",
            ),
            remembered_requests_limit: told(
                "tierkv_remembered_requests_limit",
                "The bound of tierkv_remembered_requests, over which writers wait.",
            ),
            open_snapshots: told(
                "tierkv_open_snapshots",
                "Scans and counts under way, each with a snapshot of its own.",
            ),
            open_snapshots_limit: told(
                "tierkv_open_snapshots_limit",
                "The bound of tierkv_open_snapshots, over which more are refused.",
            ),
            durable_index: told(
                "tierkv_durable_index",
                "The last record of the log that is durable.",
            ),
            applied_index: told(
                "tierkv_applied_index",
                "The last record of the log whose effect is visible.",
            ),
            stored_index: told(
                "tierkv_stored_index",
                "The last record of the log whose effect is in the store.",
            ),
            checkpoint_age: told(
                "tierkv_checkpoint_age_seconds",
                "Time since the last checkpoint; before the first, since the start.",
            ),
        }
    }

    fn set(&self, report: &StorageReport, memory: MemoryLimits) {
        let limit_records = memory.said_records();
        let age = report.last_checkpoint;
        for (gauge, value) in [
            (&self.pinned_bytes, report.pinned_bytes),
            (&self.pinned_limit_bytes, report.pinned_limit_bytes),
            (&self.clean_bytes, report.clean_bytes),
            (&self.clean_limit_bytes, memory.max_bytes),
            (&self.clean_records, report.clean_entries as u64),
            (&self.clean_limit_records, limit_records),
            (&self.log_bytes, report.log_bytes),
            (&self.log_limit_bytes, report.log_limit_bytes),
            (&self.log_segments, report.segments as u64),
            (&self.log_queue_bytes, report.log_queue_bytes),
            (&self.log_queue_limit_bytes, report.log_queue_limit_bytes),
            (&self.remembered_requests, report.requests as u64),
            (
                &self.remembered_requests_limit,
                report.requests_limit as u64,
            ),
            (&self.open_snapshots, report.open_snapshots as u64),
            (
                &self.open_snapshots_limit,
                report.open_snapshots_limit as u64,
            ),
            (&self.durable_index, report.durable.index.0),
            (&self.applied_index, report.applied.0),
            (&self.stored_index, report.stored.0),
        ] {
            gauge.set(approximate(value));
        }
        let age = age.unwrap_or_else(|| self.started.elapsed());
        self.checkpoint_age.set(age.as_secs_f64());
    }
}

#[allow(clippy::cast_precision_loss)] // Past 2^53 nobody reads the last digit.
fn approximate(value: u64) -> f64 {
    value as f64
}
