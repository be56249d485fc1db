//! How full a node's storage is: each queue beside its limit.

use std::time::Duration;

use tierkv_types::{Index, Position};

use crate::{Storage, locked, log::LOG_QUEUE_BYTES, state::REQUEST_LIMIT, store::OPEN_SNAPSHOTS};

/// How full storage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageReport {
    /// Bytes of entries that the store does not have yet.
    pub pinned_bytes: u64,
    /// The bytes over which writers wait.
    pub pinned_limit_bytes: u64,
    /// Bytes of clean entries in memory.
    pub clean_bytes: u64,
    /// The number of clean entries.
    pub clean_entries: usize,
    /// Bytes that the log takes on disk.
    pub log_bytes: u64,
    /// The bytes over which records leave the log early.
    pub log_limit_bytes: u64,
    /// Segments of the log.
    pub segments: usize,
    /// Bytes that wait to be written to the log, or are being written.
    pub log_queue_bytes: u64,
    /// The bytes of that queue over which writers wait.
    pub log_queue_limit_bytes: u64,
    /// Places taken by remembered outcomes of requests; nearly all take one.
    pub requests: usize,
    /// The places over which writers wait.
    pub requests_limit: usize,
    /// Open snapshots.
    pub open_snapshots: usize,
    /// The limit of open snapshots; more are refused.
    pub open_snapshots_limit: usize,
    /// The last record of the log that is durable.
    pub durable: Position,
    /// The last record whose effect is visible.
    pub applied: Index,
    /// The last record whose effect is in the store.
    pub stored: Index,
    /// How long ago the last checkpoint of this process ended.
    pub last_checkpoint: Option<Duration>,
}

impl Storage {
    /// How full storage is.
    #[must_use]
    pub fn report(&self) -> StorageReport {
        let core = &*self.core;
        let segments = core.log.retention().segments();
        let stored = locked(&core.stored);
        StorageReport {
            pinned_bytes: core.memory.pinned_bytes(),
            pinned_limit_bytes: core.settings.pinned_limit_bytes,
            clean_bytes: core.memory.clean_bytes(),
            clean_entries: core.memory.clean_entries(),
            log_bytes: segments as u64 * core.settings.segment_bytes,
            log_limit_bytes: core.settings.log_limit_bytes,
            segments,
            log_queue_bytes: core.log.queue().bytes(),
            log_queue_limit_bytes: LOG_QUEUE_BYTES as u64,
            requests: locked(&core.requests).places(),
            requests_limit: REQUEST_LIMIT,
            open_snapshots: core.open_snapshots.count(),
            open_snapshots_limit: OPEN_SNAPSHOTS,
            durable: *core.log.durable().borrow(),
            applied: self.applied().0,
            stored: stored.applied.index,
            last_checkpoint: stored.last_checkpoint.map(|at| at.elapsed()),
        }
    }
}
