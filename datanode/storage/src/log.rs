//! The commit log: segments of checksummed records, made durable in groups.
//!
//! Reading order: `segment` (a file and its header), `scan` (reads the files at a start, cuts
//! a torn end, refuses damage), `search` (finds sound records after a damaged place), `queue`
//! (records that wait to be written; the API for callers), `writer` (the one thread that
//! writes), `records` and `reader` (read records back for tails).
//!
//! The files are in the directory `log/`. A segment's name is its number in twenty digits and
//! `.log`. `spare` is the space of the next segment, allocated early, so that a full disk is
//! noticed before a record is accepted.

mod queue;
mod reader;
mod records;
mod scan;
mod search;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use tierkv_types::{Index, Position, Record};
use tokio::sync::watch;

use self::queue::Queue;
pub use self::queue::Queued;
#[cfg(any(test, feature = "conformance"))]
pub(crate) use self::writer::Turn;
pub(crate) use self::{
    reader::{Spot, Waypoints, find, find_record, verify},
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
            ..Progress::default()
        };
        let segments = start.files.older.len() + 1;
        let queue = Arc::new(Queue::new(progress, &start.place, segments));
        let log = Self {
            queue: Arc::clone(&queue),
            durable,
            thread: Mutex::new(None),
        };
        (log, LogWriter::new(start, queue, publisher))
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
    pub(crate) fn append(&self, records: Vec<Arc<Record>>) -> Result<Queued, StorageError> {
        self.queue.append(records)
    }

    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    pub(crate) fn durable(&self) -> &watch::Receiver<Position> {
        &self.durable
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
