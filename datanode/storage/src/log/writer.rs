//! The log's one thread: collects what is queued, writes it at once, syncs once, tells.

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
    segment::{LogPlace, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, Spare, in_allocated_space},
};
use crate::{StorageError, WalSync, blocking::Blocking, disk::DiskLock, failure::Failure};

/// How often a full disk is asked again.
const NO_SPACE_RETRY: Duration = Duration::from_millis(200);

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
    /// Kept until the writer is gone: nobody else may have the directory before.
    pub(crate) lock: Arc<dyn DiskLock>,
    /// Where the next segment is set aside.
    pub(crate) blocking: Blocking,
}

/// What a turn of the writer came to.
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

/// The thread's state. The last of `segments` is the one written to; there always is one.
#[derive(Debug)]
pub(crate) struct LogWriter {
    place: LogPlace,
    queue: Arc<Queue>,
    publisher: watch::Sender<Position>,
    failure: Arc<Failure>,
    _lock: Arc<dyn DiskLock>,
    older: VecDeque<Segment>,
    active: Segment,
    offset: u64,
    spare: Option<Spare>,
    /// The thread that sets the next spare aside.
    making: Option<JoinHandle<Result<Spare, StorageError>>>,
    no_space: bool,
    /// The last record written, and its version.
    last: Position,
    clock: Version,
    /// The store has everything up to here.
    released: Index,
    retention: Duration,
    limit_bytes: u64,
    /// Since when something is written that is not synced; only under `Interval`.
    unsynced: Option<Instant>,
    batch: Batch,
    /// The batch as it is written.
    encoded: Vec<u8>,
    blocking: Blocking,
}

/// A reused buffer that a burst has made larger than this is given back.
const KEPT_BUFFER_BYTES: usize = 4 << 20;

/// What a thread that set space aside has to say.
fn join(making: JoinHandle<Result<Spare, StorageError>>) -> Result<Spare, StorageError> {
    match making.join() {
        Ok(made) => made,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl LogWriter {
    pub(super) fn new(
        mut start: LogStart,
        queue: Arc<Queue>,
        publisher: watch::Sender<Position>,
    ) -> Self {
        let Some(active) = start.segments.pop() else {
            unreachable!("a log is started with at least one segment");
        };
        let writer = Self {
            place: start.place,
            queue,
            publisher,
            failure: start.failure,
            _lock: start.lock,
            older: start.segments.into(),
            active,
            offset: start.offset,
            spare: None,
            making: None,
            no_space: false,
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

    /// Runs until the log is closed or has failed. A failure is final: what a file holds
    /// after a failed write or sync is unknown, so nothing is tried again.
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

    /// Does what there is to do, if anything; what the thread does in a loop.
    #[cfg(any(test, feature = "conformance"))]
    pub(crate) fn step(&mut self) -> Turn {
        let mut batch = std::mem::take(&mut self.batch);
        let work = self.queue.try_next(&mut batch);
        self.batch = batch;
        work.map_or(Turn::Idle, |work| self.turn(work))
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
        // Nobody may find the directory free while this process still makes a file in it.
        drop(self.making.take().map(JoinHandle::join));
        self.queue.end();
        Turn::Over
    }

    /// Makes a batch durable, then tells. It is written in as many pieces as it needs
    /// segments, nearly always one.
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
        metrics::histogram!("tierkv_log_sync_seconds").record(began.elapsed());
        #[allow(clippy::cast_precision_loss)]
        metrics::histogram!("tierkv_log_batch_records").record(batch.records.len() as f64);
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

    /// How long there may be nothing to do: the disk is to be asked again, or a sync is due.
    fn patience(&self) -> Option<Duration> {
        let sync = self.unsynced.map(|since| self.sync_in(since));
        let is_asking = self.no_space || self.making.is_some();
        let retry = is_asking.then_some(NO_SPACE_RETRY);
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

    /// Makes durable what is written and was only to be so after a while.
    fn sync(&mut self) -> Result<(), StorageError> {
        if self.unsynced.take().is_none() {
            return Ok(());
        }
        let Segment { file, path, .. } = &self.active;
        self.place
            .flush(&**file)
            .map_err(|error| in_allocated_space("sync", path, error))
    }

    /// Goes on in a new segment. All of the old one is durable by now, so that a gap
    /// before a later segment can only be damage.
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
        let fresh = self.place.begin(spare, header)?;
        self.older
            .push_back(std::mem::replace(&mut self.active, fresh));
        self.offset = SEGMENT_HEADER_BYTES;
        Ok(())
    }

    /// The next segment's space, waiting while the disk is full: records already accepted
    /// can't be refused any more.
    fn await_spare(&mut self) -> Result<Spare, StorageError> {
        loop {
            if let Some(spare) = self.spare.take() {
                return Ok(spare);
            }
            let made = match self.making.take() {
                Some(making) => join(making),
                None => self.place.set_aside(),
            };
            match made {
                Ok(spare) => {
                    self.no_space = false;
                    return Ok(spare);
                }
                Err(error @ StorageError::NoSpace { .. }) => {
                    if self.queue.is_closing() {
                        return Err(error);
                    }
                    self.refuse_more(&error);
                    if let Some(index) = self.queue.pause(NO_SPACE_RETRY) {
                        self.release(index);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sets the next segment's space aside once the current one is half full, so that a
    /// full disk is known before any record depends on it (LOG-SPACE). A thread of its own
    /// does it, for it writes as much as a segment holds; its end is looked at with a later
    /// batch.
    fn prepare(&mut self) -> Result<(), StorageError> {
        let is_late = self.offset >= self.place.segment_bytes / 4 * 3;
        let is_early = self.offset < self.place.segment_bytes / 2 && !self.no_space;
        if self.spare.is_some() || (is_early && self.making.is_none()) {
            return Ok(());
        }
        let made = match self.making.take() {
            // Before the segment is full it must be known whether another one follows.
            Some(making) if making.is_finished() || is_late => join(making),
            Some(making) => {
                self.making = Some(making);
                return Ok(());
            }
            // A disk that was full answers at once, mostly, and writers wait for the answer.
            None if self.no_space || self.blocking == Blocking::Here => self.place.set_aside(),
            None => {
                let place = self.place.clone();
                let making = std::thread::Builder::new()
                    .name("tierkv-log-spare".into())
                    .spawn(move || place.set_aside());
                let dir = &self.place.dir;
                let making = making
                    .map_err(|error| StorageError::io("start a thread for the log in", dir, error));
                self.making = Some(making?);
                return Ok(());
            }
        };
        match made {
            Ok(spare) => {
                self.spare = Some(spare);
                self.no_space = false;
                self.progress(false);
                Ok(())
            }
            Err(error @ StorageError::NoSpace { .. }) => {
                self.refuse_more(&error);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn refuse_more(&mut self, error: &StorageError) {
        if !self.no_space {
            tracing::warn!(%error, "the log can't grow, writes are refused until it can");
        }
        self.no_space = true;
        self.progress(false);
    }

    /// The store has everything up to `index`: what was kept long enough goes.
    fn release(&mut self, index: Index) {
        self.released = self.released.max(index);
        self.trim();
    }

    /// Removes segments that the store has whole, oldest first, so that what is left is
    /// always one run: those whose last record is older than the retention, and more if
    /// the log takes more than its limit. The one written to stays.
    fn trim(&mut self) {
        while let Some(oldest) = self.older.front() {
            let next = self.older.get(1).unwrap_or(&self.active);
            if next.header.first > self.released.next() {
                break;
            }
            let age = (self.clock.millis()).saturating_sub(next.header.clock.millis());
            let is_old = u128::from(age) >= self.retention.as_millis();
            let bytes = (self.older.len() as u64 + 1) * self.place.segment_bytes;
            if !is_old && bytes <= self.limit_bytes {
                break;
            }
            if let Err(error) = self.place.remove(&oldest.path) {
                // Nothing is lost by keeping it; the next checkpoint comes here again.
                tracing::warn!(%error, "a log segment that is no longer needed stays");
                break;
            }
            self.older.pop_front();
        }
        self.progress(false);
    }

    fn progress(&self, written: bool) {
        let left = self.place.segment_bytes.saturating_sub(self.offset);
        self.queue
            .progress(left, self.no_space, self.older.len() + 1, written);
    }
}
