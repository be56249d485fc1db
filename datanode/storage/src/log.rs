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

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use tierkv_types::{Index, Position, Record, Version};
use tokio::sync::watch;

use self::{queue::Queue, segment::Segment, writer::Writer};
pub(crate) use self::{
    reader::{Spot, Waypoints, find},
    scan::{LogFound, inspect, salvage, scan},
    search::{FoundBehind, search},
    segment::{LogPlace, SEGMENT_HEADER_BYTES, SegmentHeader},
};
use crate::{StorageError, disk::DiskLock, failure::Failure, locked};

/// Bytes of queued records over which writers wait (`Storage::room`).
pub(crate) const LOG_QUEUE_BYTES: usize = 16 << 20;
/// Bytes of queued records over which they are refused.
pub(crate) const LOG_QUEUE_LIMIT_BYTES: usize = 64 << 20;

/// A running log.
#[derive(Debug)]
pub(crate) struct Log {
    queue: Arc<Queue>,
    durable: watch::Receiver<Position>,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

/// What a log needs to run.
pub(crate) struct LogStart {
    pub(crate) place: LogPlace,
    pub(crate) segments: Vec<Segment>,
    /// Where the next record goes in the last segment.
    pub(crate) offset: u64,
    pub(crate) last: Position,
    /// At least the highest version in the log.
    pub(crate) clock: Version,
    /// How long records stay once the store has them, by their versions.
    pub(crate) retention: Duration,
    /// Bytes over which they go sooner.
    pub(crate) limit_bytes: u64,
    pub(crate) failure: Arc<Failure>,
    /// Kept until the thread has ended: nobody else may have the directory before.
    pub(crate) lock: Arc<dyn DiskLock>,
}

impl Log {
    /// Starts the thread of a log whose files are in order.
    ///
    /// # Errors
    /// `Io` if the system gives no thread.
    pub(crate) fn start(start: LogStart) -> Result<Self, StorageError> {
        let (publisher, durable) = watch::channel(start.last);
        let queue = Arc::new(Queue::new(
            start.last,
            start.clock,
            &start.place,
            start.segments.len(),
        ));
        let dir = start.place.dir.clone();
        let writer = Writer::new(start, Arc::clone(&queue), publisher);
        let thread = std::thread::Builder::new()
            .name("tierkv-log".into())
            .spawn(move || writer.run())
            .map_err(|error| StorageError::io("start the thread of the log in", &dir, error))?;
        Ok(Self {
            queue,
            durable,
            thread: std::sync::Mutex::new(Some(thread)),
        })
    }

    /// Queues records for the thread; see `Storage::append`.
    pub(crate) fn append(&self, records: &[Record]) -> Result<(), StorageError> {
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
