//! Metrics of storage: waits and refusals at each limit, and times of log and checkpoint.

use crate::StorageError;

/// Limit names: the setting to change, or the resource to check.
pub(crate) const PINNED: &str = "pinned_limit_bytes";
pub(crate) const REQUESTS: &str = "remembered_requests";
pub(crate) const LOG_QUEUE: &str = "log_queue_bytes";
/// The next segment of the log is not allocated yet.
pub(crate) const LOG_SEGMENT: &str = "log_segment";
pub(crate) const MAX_RECORD: &str = "max_record_bytes";
/// Records wait to be committed: too few nodes of the cluster log them, or they are slow.
const UNCOMMITTED: &str = "uncommitted_bytes";
const DISK_SPACE: &str = "disk_space";
const DESCRIPTORS: &str = "descriptors";

const WAITS: &str = "tierkv_write_waits_total";
const REFUSALS: &str = "tierkv_write_refusals_total";
pub(crate) const EVICTIONS: &str = "tierkv_memory_evictions_total";
pub(crate) const SYNC_SECONDS: &str = "tierkv_log_sync_seconds";
pub(crate) const BATCH_RECORDS: &str = "tierkv_log_batch_records";
/// Holds of joining nodes that were broken because the log had twice its limit.
pub(crate) const HOLDS_BROKEN: &str = "tierkv_log_holds_broken_total";
pub(crate) const CHECKPOINT_SECONDS: &str = "tierkv_checkpoint_seconds";

/// Puts all of them on the metrics page, with nothing counted: a rate over a counter that
/// comes into being with its first event would miss that one.
pub(crate) fn show() {
    metrics::describe_counter!(
        WAITS,
        "Batches of writes that waited for room, by the limit that was reached."
    );
    metrics::describe_counter!(
        REFUSALS,
        "Batches of writes that were refused, or gave up waiting, by the limit that was reached."
    );
    metrics::describe_histogram!(SYNC_SECONDS, "Time to write and sync a log batch.");
    metrics::describe_histogram!(BATCH_RECORDS, "Records made durable together.");
    metrics::describe_histogram!(CHECKPOINT_SECONDS, "Time to store a checkpoint.");
    metrics::describe_counter!(EVICTIONS, "Clean entries evicted from memory.");
    metrics::counter!(EVICTIONS).increment(0);
    metrics::describe_counter!(
        HOLDS_BROKEN,
        "Joining nodes that have to start again, because the log had twice its limit."
    );
    metrics::counter!(HOLDS_BROKEN).increment(0);
    for name in [SYNC_SECONDS, BATCH_RECORDS, CHECKPOINT_SECONDS] {
        metrics::histogram!(name).record_many(0.0, 0);
    }
    for limit in [PINNED, REQUESTS, LOG_QUEUE, LOG_SEGMENT, UNCOMMITTED] {
        metrics::counter!(WAITS, "limit" => limit).increment(0);
        metrics::counter!(REFUSALS, "limit" => limit).increment(0);
    }
    for limit in [MAX_RECORD, DISK_SPACE, DESCRIPTORS] {
        metrics::counter!(REFUSALS, "limit" => limit).increment(0);
    }
}

/// Counts a refusal, if a limit was the reason.
pub(crate) fn refused(error: &StorageError) {
    let limit = match error {
        StorageError::Exhausted { limit, .. } => limit,
        StorageError::Growing => LOG_SEGMENT,
        StorageError::NoSpace { .. } => DISK_SPACE,
        StorageError::NoDescriptors { .. } => DESCRIPTORS,
        _ => return,
    };
    metrics::counter!(REFUSALS, "limit" => limit).increment(1);
}

/// A batch of writes that waits for room. If it is dropped without [`Waiting::done`], the writer
/// gave up, which counts as a refusal.
#[derive(Debug)]
pub struct Waiting {
    limit: &'static str,
    has_room: bool,
}

impl Waiting {
    /// Counts a new wait.
    pub(crate) fn on(limit: &'static str) -> Self {
        metrics::counter!(WAITS, "limit" => limit).increment(1);
        Self {
            limit,
            has_room: false,
        }
    }

    /// Counts a new wait for the commit of records.
    #[must_use]
    pub fn for_commits() -> Self {
        Self::on(UNCOMMITTED)
    }

    /// Ends the wait; whether the writes are then refused is storage's own result.
    pub fn done(mut self) {
        self.has_room = true;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.has_room {
            metrics::counter!(REFUSALS, "limit" => self.limit).increment(1);
        }
    }
}
