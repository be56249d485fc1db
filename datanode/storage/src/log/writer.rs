//! The log's thread: collects queued records, writes them, syncs once, reports them durable.

use std::{
    collections::VecDeque,
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tierkv_types::{Index, Position, Version, record};
use tokio::sync::watch;

use super::{
    queue::{Batch, Queue, Work},
    segment::{
        ClosedSegment, LogFiles, LogPlace, Reserve, SEGMENT_HEADER_BYTES, Segment, SegmentHeader,
        Spare, in_allocated_space,
    },
};
use crate::{
    StorageError, WalSync,
    blocking::Blocking,
    disk::{DiskDir, DiskLock},
    failure::Failure,
    meters::{BATCH_RECORDS, SYNC_SECONDS},
};

/// Pause between retries while space or descriptors are short.
const SHORTAGE_RETRY: Duration = Duration::from_millis(200);

/// What a log needs to run.
pub(crate) struct LogStart {
    pub(crate) place: LogPlace,
    pub(crate) files: LogFiles,
    pub(crate) last: Position,
    /// At least the highest version in the log.
    pub(crate) clock: Version,
    /// How long records are kept once the store has them, by their versions.
    pub(crate) retention: Duration,
    /// Bytes over which they are removed earlier.
    pub(crate) limit_bytes: u64,
    pub(crate) failure: Arc<Failure>,
    /// Held until the writer is dropped, so that no other process uses the directory before.
    pub(crate) lock: Arc<dyn DiskLock>,
    /// Where the next segment's space is allocated.
    pub(crate) blocking: Blocking,
}

/// The result of one turn of the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It did something.
    Busy,
    /// There was nothing to do.
    #[cfg_attr(not(any(test, feature = "conformance")), allow(dead_code))]
    Idle,
    /// The log is closed or has failed.
    Over,
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct LogWriter {
    place: LogPlace,
    names: Box<dyn DiskDir>,
    queue: Arc<Queue>,
    publisher: watch::Sender<Position>,
    failure: Arc<Failure>,
    _lock: Arc<dyn DiskLock>,
    older: VecDeque<ClosedSegment>,
    active: Segment,
    offset: u64,
    spare: Option<Spare>,
    reserve: Reserve,
    /// The thread that allocates the next spare; it has the reserve meanwhile.
    making: Option<JoinHandle<Made>>,
    /// Why allocating the next spare failed.
    shortage: Option<StorageError>,
    /// The last record written, and its version.
    last: Position,
    clock: Version,
    /// The store has everything up to this index.
    released: Index,
    retention: Duration,
    limit_bytes: u64,
    /// Time of the first unsynced write; only under `Interval`.
    unsynced: Option<Instant>,
    batch: Batch,
    /// The encoded batch.
    encoded: Vec<u8>,
    blocking: Blocking,
}

/// A reused buffer larger than this is freed after a burst.
const KEPT_BUFFER_BYTES: usize = 4 << 20;

/// The result of the thread that allocates a spare.
#[derive(Debug)]
struct Made {
    spare: Result<Spare, StorageError>,
    reserve: Reserve,
}

impl LogWriter {
    pub(super) fn new(
        start: LogStart,
        queue: Arc<Queue>,
        publisher: watch::Sender<Position>,
    ) -> Self {
        let LogFiles {
            names,
            older,
            active,
            offset,
        } = start.files;
        let reserve = start.place.open_names().ok();
        let writer = Self {
            place: start.place,
            names,
            queue,
            publisher,
            failure: start.failure,
            _lock: start.lock,
            older: older.into(),
            active,
            offset,
            spare: None,
            reserve,
            making: None,
            shortage: None,
            last: start.last,
            clock: start.clock,
            released: Index::ZERO,
            retention: start.retention,
            limit_bytes: start.limit_bytes,
            unsynced: None,
            batch: Batch::default(),
            encoded: Vec::new(),
            blocking: start.blocking,
        };
        writer.progress(true);
        writer
    }

    /// The directory of the log's files.
    pub(super) fn dir(&self) -> &Path {
        &self.place.dir
    }

    /// Runs until the log is closed or has failed. A failure is final: after a failed write or
    /// sync the file's content is unknown, so nothing is retried.
    pub(super) fn run(mut self) {
        loop {
            let mut batch = std::mem::take(&mut self.batch);
            let work = self.queue.next(&mut batch, self.patience());
            self.batch = batch;
            if self.turn(work) == Turn::Over {
                return;
            }
        }
    }

    /// Does one turn of the thread's loop, if there is work.
    #[cfg(any(test, feature = "conformance"))]
    pub(crate) fn step(&mut self) -> Turn {
        let mut batch = std::mem::take(&mut self.batch);
        let work = self.queue.try_next(&mut batch);
        self.batch = batch;
        work.map_or(Turn::Idle, |work| self.turn(work))
    }

    /// Lets the log seem full, or lets it have space again.
    #[cfg(any(test, feature = "conformance"))]
    pub(crate) fn run_short(&self, is_short: bool) {
        self.queue.run_short(is_short);
    }

    fn turn(&mut self, work: Work) -> Turn {
        let done = match work {
            Work::Write => self.commit(),
            Work::Release(index) => {
                self.release(index);
                Ok(())
            }
            Work::Retry => self.sync_if_due().and_then(|()| self.prepare()),
            Work::End => {
                let ended = self.sync();
                return self.end(ended.err());
            }
        };
        match done {
            Ok(()) => Turn::Busy,
            Err(error) => self.end(Some(error)),
        }
    }

    fn end(&mut self, error: Option<StorageError>) -> Turn {
        if let Some(error) = error {
            self.failure.set(error);
        }
        // The directory must stay locked while this process still creates a file in it.
        drop(self.making.take().map(JoinHandle::join));
        self.queue.end();
        Turn::Over
    }

    /// Makes a batch durable, then reports it. It is written in one piece for each segment it
    /// needs, nearly always one.
    fn commit(&mut self) -> Result<(), StorageError> {
        let began = Instant::now();
        let batch = std::mem::take(&mut self.batch);
        let mut encoded = std::mem::take(&mut self.encoded);
        for record in &batch.records {
            let needed = self.offset + (encoded.len() + record::encoded_len(record)) as u64;
            if needed > self.place.segment_bytes {
                self.write(&encoded)?;
                encoded.clear();
                self.rotate()?;
            }
            record::encode(record, &mut encoded);
            (self.last, self.clock) = (record.position, record.version);
        }
        self.write(&encoded)?;
        self.progress(true);
        self.publisher.send_replace(self.last);
        metrics::histogram!(SYNC_SECONDS).record(began.elapsed());
        #[allow(clippy::cast_precision_loss)]
        metrics::histogram!(BATCH_RECORDS).record(batch.records.len() as f64);
        encoded.clear();
        encoded.shrink_to(KEPT_BUFFER_BYTES);
        (self.batch, self.encoded) = (batch, encoded);
        self.prepare()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Segment { file, path, .. } = &self.active;
        file.write_at(self.offset, bytes)
            .map_err(|error| in_allocated_space("write", path, error))?;
        self.offset += bytes.len() as u64;
        if let WalSync::Interval(_) = self.place.sync {
            self.unsynced.get_or_insert_with(Instant::now);
            return self.sync_if_due();
        }
        self.place
            .flush(&**file)
            .map_err(|error| in_allocated_space("sync", path, error))
    }

    /// How long to wait for work at most, until the next retry or sync is due.
    fn patience(&self) -> Option<Duration> {
        let sync = self.unsynced.map(|since| self.sync_in(since));
        let is_asking = self.shortage.is_some() || self.making.is_some();
        let retry = is_asking.then_some(SHORTAGE_RETRY);
        sync.into_iter().chain(retry).min()
    }

    fn sync_in(&self, since: Instant) -> Duration {
        match self.place.sync {
            WalSync::Interval(interval) => interval.saturating_sub(since.elapsed()),
            WalSync::Always | WalSync::Never => Duration::ZERO,
        }
    }

    fn sync_if_due(&mut self) -> Result<(), StorageError> {
        match self.unsynced {
            Some(since) if self.sync_in(since).is_zero() => self.sync(),
            _ => Ok(()),
        }
    }

    /// Syncs what was written and not synced yet.
    fn sync(&mut self) -> Result<(), StorageError> {
        if self.unsynced.take().is_none() {
            return Ok(());
        }
        let Segment { file, path, .. } = &self.active;
        self.place
            .flush(&**file)
            .map_err(|error| in_allocated_space("sync", path, error))
    }

    /// Continues in a new segment. The old one is durable before, so that a gap before a later
    /// segment can only be damage.
    fn rotate(&mut self) -> Result<(), StorageError> {
        self.sync()?;
        let spare = self.await_spare()?;
        let header = SegmentHeader {
            log_id: self.place.log_id,
            number: self.active.header.number + 1,
            first: self.last.index.next(),
            previous_epoch: self.last.epoch,
            clock: self.clock,
        };
        let fresh = self.place.begin(spare, header, &*self.names)?;
        let full = std::mem::replace(&mut self.active, fresh);
        self.older.push_back(full.close());
        if self.reserve.is_none() {
            self.reserve = self.place.open_names().ok();
        }
        self.offset = SEGMENT_HEADER_BYTES;
        Ok(())
    }

    /// The next segment's space. Waits until it can be allocated: accepted records can't be
    /// refused any more.
    fn await_spare(&mut self) -> Result<Spare, StorageError> {
        loop {
            if let Some(spare) = self.spare.take() {
                return Ok(spare);
            }
            let made = match self.making.take() {
                Some(making) => self.join(making),
                None => self.place.set_aside(&mut self.reserve),
            };
            match made {
                Ok(spare) => {
                    self.shortage = None;
                    return Ok(spare);
                }
                Err(error) if error.is_shortage() => {
                    if self.queue.is_closing() {
                        return Err(error);
                    }
                    self.refuse_more(error);
                    if let Some(index) = self.queue.pause(SHORTAGE_RETRY) {
                        self.release(index);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Allocates the next segment's space once the current one is half full, so that a full
    /// disk, or a lack of descriptors, is noticed before a record depends on it (LOG-SPACE). It
    /// writes a whole segment, so a separate thread does it, and a later batch collects its result.
    fn prepare(&mut self) -> Result<(), StorageError> {
        let is_late = self.offset >= self.place.segment_bytes / 4 * 3;
        let is_short = self.shortage.is_some();
        let is_early = self.offset < self.place.segment_bytes / 2 && !is_short;
        if self.spare.is_some() || (is_early && self.making.is_none()) {
            return Ok(());
        }
        let made = match self.making.take() {
            // The result must be known before the segment is full.
            Some(making) if making.is_finished() || is_late => self.join(making),
            Some(making) => {
                self.making = Some(making);
                return Ok(());
            }
            // A full disk mostly fails at once, and writers wait for the result.
            None if is_short || self.blocking == Blocking::Here => {
                self.place.set_aside(&mut self.reserve)
            }
            None => {
                let (place, mut reserve) = (self.place.clone(), self.reserve.take());
                let making = std::thread::Builder::new()
                    .name("tierkv-log-spare".into())
                    .spawn(move || {
                        let spare = place.set_aside(&mut reserve);
                        Made { spare, reserve }
                    });
                match making {
                    Ok(making) => {
                        self.making = Some(making);
                        return Ok(());
                    }
                    // No thread can be started now: writers wait meanwhile.
                    Err(_) => self.place.set_aside(&mut self.reserve),
                }
            }
        };
        match made {
            Ok(spare) => {
                self.spare = Some(spare);
                self.shortage = None;
                self.progress(false);
                Ok(())
            }
            Err(error) if error.is_shortage() => {
                self.refuse_more(error);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn join(&mut self, making: JoinHandle<Made>) -> Result<Spare, StorageError> {
        match making.join() {
            Ok(made) => {
                self.reserve = made.reserve;
                made.spare
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    fn refuse_more(&mut self, error: StorageError) {
        if self.shortage.is_none() {
            tracing::warn!(%error, "the log can't grow, writes are refused until it can");
        }
        self.shortage = Some(error);
        self.progress(false);
    }

    /// The store has everything up to `index`: removes segments past their retention.
    fn release(&mut self, index: Index) {
        self.released = self.released.max(index);
        self.trim();
    }

    /// Removes segments whose records the store has, oldest first, so that the log has no gaps:
    /// those whose last record is older than the retention, and more if the log is over its
    /// limit. The active segment stays.
    fn trim(&mut self) {
        while let Some(oldest) = self.older.front() {
            let next = self.older.get(1);
            let next = next.map_or(self.active.header, |segment| segment.header);
            if next.first > self.released.next() {
                break;
            }
            let age = (self.clock.millis()).saturating_sub(next.clock.millis());
            let is_old = u128::from(age) >= self.retention.as_millis();
            let bytes = (self.older.len() as u64 + 1) * self.place.segment_bytes;
            if !is_old && bytes <= self.limit_bytes {
                break;
            }
            if let Err(error) = self.place.remove(&oldest.path) {
                // Keeping it loses nothing; the next checkpoint retries.
                tracing::warn!(%error, "a log segment that is no longer needed could not be removed");
                break;
            }
            self.older.pop_front();
        }
        self.progress(false);
    }

    fn progress(&self, written: bool) {
        let left = self.place.segment_bytes.saturating_sub(self.offset);
        let (shortage, segments) = (self.shortage.clone(), self.older.len() + 1);
        self.queue.progress(left, shortage, segments, written);
    }
}
