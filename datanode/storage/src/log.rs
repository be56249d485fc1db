//! The commit log: segments of checksummed records, made durable in groups.
//!
//! Reading order: `segment` (a file and its header), `scan` (reads the files at a start, cuts
//! a torn end, refuses damage), `search` (finds sound records after a damaged place), `queue`
//! (records that wait to be written; the API for callers), `writer` (the one thread that
//! writes), `spare` (the next segment's space), `space` (what accepted records take of it),
//! `retention` (which segments leave), `cut` (cuts
//! off the end), `records` and `reader` (read records back for tails).
//!
//! The files are in the directory `log/`. A segment's name is its number in twenty digits and
//! `.log`. `spare` is the space of the next segment, allocated early, so that a full disk is
//! noticed before a record is accepted.

mod batch;
mod cut;
mod queue;
mod reader;
mod records;
mod retention;
mod scan;
mod search;
mod segment;
mod space;
mod spare;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use tierkv_types::{Epoch, Index, Position, Record, Version};
use tokio::sync::watch;

pub(crate) use self::queue::Target;
use self::queue::{Queue, Truncated};
#[cfg(any(test, feature = "conformance"))]
pub(crate) use self::writer::Turn;
pub use self::{cut::TruncateError, queue::Queued, retention::LogHold, space::LogRoom};
pub(crate) use self::{
    reader::{Spot, Waypoints, find, find_record, verify},
    retention::{Retention, Rules},
    scan::{LogFound, inspect, salvage, scan},
    search::{FoundBehind, search},
    segment::{LogFiles, LogPlace, SEGMENT_HEADER_BYTES, SegmentHeader, in_allocated_space},
    writer::{LogStart, LogWriter},
};
use crate::{StorageError, locked, state::Progress};

/// Bytes of queued records over which writers wait (`Storage::room`).
pub(crate) const LOG_QUEUE_BYTES: usize = 16 << 20;
/// Bytes of queued records over which more are refused.
pub(crate) const LOG_QUEUE_LIMIT_BYTES: usize = 64 << 20;

/// A running log.
#[derive(Debug)]
pub(crate) struct Log {
    queue: Arc<Queue>,
    retention: Arc<Retention>,
    durable: watch::Receiver<Position>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Log {
    /// The log over recovered files, and its writer. Nothing is written before [`Log::run`],
    /// or before a simulation steps the writer.
    pub(crate) fn new(start: LogStart) -> (Self, LogWriter) {
        let (publisher, durable) = watch::channel(start.last);
        let progress = Progress {
            position: start.last,
            clock: start.clock,
            epochs: start.epochs.clone(),
        };
        let queue = Arc::new(Queue::new(progress, &start.place, start.files.offset));
        let older = start.files.older.iter().map(|segment| segment.header);
        let segments = older.chain([start.files.active.header]);
        let retention = Arc::new(Retention::new(segments, start.rules));
        let log = Self {
            queue: Arc::clone(&queue),
            retention: Arc::clone(&retention),
            durable,
            thread: Mutex::new(None),
        };
        (log, LogWriter::new(start, queue, retention, publisher))
    }

    /// Starts the writer's thread.
    ///
    /// # Errors
    /// `Io` if the thread can't be started.
    pub(crate) fn run(&self, writer: LogWriter) -> Result<(), StorageError> {
        let dir = writer.dir().to_owned();
        let thread = std::thread::Builder::new()
            .name("tierkv-log".into())
            .spawn(move || writer.run())
            .map_err(|error| StorageError::io("start the thread of the log in", &dir, error))?;
        *locked(&self.thread) = Some(thread);
        Ok(())
    }

    /// Queues records for the writer; see `Storage::append`.
    #[cfg(test)]
    pub(crate) fn append(&self, records: Vec<Arc<Record>>) -> Result<Queued, StorageError> {
        self.append_into(records, Target::Any)
    }

    /// Queues records for the writer; see `Storage::append` and `Storage::append_allocated`.
    pub(crate) fn append_into(
        &self,
        records: Vec<Arc<Record>>,
        target: Target,
    ) -> Result<Queued, StorageError> {
        self.queue.append(records, target)
    }

    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    pub(crate) fn durable(&self) -> &watch::Receiver<Position> {
        &self.durable
    }

    pub(crate) fn retention(&self) -> &Retention {
        &self.retention
    }

    /// Cuts off every record after this one, whose version is at least `clock`. See `Storage::truncate`.
    pub(crate) fn truncate(
        &self,
        after: Position,
        clock: Version,
    ) -> Result<Truncated, TruncateError> {
        self.queue.truncate(after, clock)
    }

    /// The last record that may be applied: it is durable, and is not being cut off.
    pub(crate) fn applicable(&self) -> Index {
        // In this order: a truncation publishes its end before it is over.
        let cut_after = self.queue.cut_after();
        let durable = self.durable.borrow().index;
        cut_after.map_or(durable, |after| after.min(durable))
    }

    /// The epoch of a record of the log; `None` if it is unknown.
    pub(crate) fn epoch_of(&self, index: Index) -> Option<Epoch> {
        self.queue.epoch_of(index)
    }

    /// Keeps the records after `from` in the log.
    pub(crate) fn hold(&self, from: Index) -> LogHold {
        LogHold::after(from, &self.retention, &self.queue)
    }

    /// Keeps the records from a version on, after a position at or before the record `up_to`.
    pub(crate) fn hold_since(&self, since: Version, up_to: Index) -> (LogHold, Position) {
        LogHold::since(since, up_to, &self.retention, &self.queue)
    }

    /// Lets segments whose records are all at or below `index` be removed.
    pub(crate) fn release(&self, index: Index) {
        self.queue.release(index);
    }

    /// Refuses more records; queued ones are still written.
    pub(crate) fn refuse(&self) {
        self.queue.refuse();
    }

    /// Writes out what is queued and ends the thread. Blocks.
    pub(crate) fn close(&self) {
        self.queue.close();
        if let Some(thread) = locked(&self.thread).take() {
            // A panic in the thread was already reported, and it ends the process.
            let _ = thread.join();
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}
