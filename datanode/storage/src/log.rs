//! The commit log: segments of checksummed records, made durable in groups.
//!
//! Reading order: `segment` (a file and its header), `scan` (what a start finds in the
//! files, and what it cuts or refuses), `search` (sound records behind a damaged place),
//! `queue` (what waits to be written; the side that
//! callers see), `writer` (the one thread that writes), `reader` (records that are in the
//! files, for those who follow the log).
//!
//! The files live in a directory of their own, `log/`. A segment is named by its number,
//! twenty digits and `.log`; `spare` is the next one's space, set aside early so that a
//! full disk is noticed before a record was accepted.

mod queue;
mod reader;
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
    segment::{LogFiles, LogPlace, SEGMENT_HEADER_BYTES, SegmentHeader},
    writer::{LogStart, LogWriter},
};
use crate::{StorageError, locked, state::Progress};

/// Bytes of queued records over which writers wait (`Storage::room`).
pub(crate) const LOG_QUEUE_BYTES: usize = 16 << 20;
/// Bytes of queued records over which they are refused.
pub(crate) const LOG_QUEUE_LIMIT_BYTES: usize = 64 << 20;

/// A running log.
#[derive(Debug)]
pub(crate) struct Log {
    queue: Arc<Queue>,
    durable: watch::Receiver<Position>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Log {
    /// A log whose files are in order, and who writes it: nothing is written until
    /// [`Log::run`], or somebody else who steps the writer.
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

    /// Gives the writer a thread of its own.
    ///
    /// # Errors
    /// `Io` if the system gives no thread.
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

    /// Lets whole segments at or below `index` go.
    pub(crate) fn release(&self, index: Index) {
        self.queue.release(index);
    }

    /// Accepts no more records; those queued are still written.
    pub(crate) fn refuse(&self) {
        self.queue.refuse();
    }

    /// Writes out what is queued and ends the thread. Blocks.
    pub(crate) fn close(&self) {
        self.queue.close();
        if let Some(thread) = locked(&self.thread).take() {
            // A panic in the thread has been told already, and it ends the process.
            let _ = thread.join();
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}
