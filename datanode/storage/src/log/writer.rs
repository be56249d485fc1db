//! The log's thread: collects queued records, writes them, syncs once, reports them durable.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tierkv_types::{EpochTable, Index, Position, Version, record};
use tokio::sync::watch;

use super::{
    batch::Batch,
    cut::{Cut, TruncateError},
    queue::{Queue, Work},
    retention::{Retention, Rules},
    segment::{
        ClosedSegment, LogFiles, LogPlace, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, Spare,
        in_allocated_space,
    },
    spare::SpareSpace,
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
    /// The first index of each epoch, as far as it is known.
    pub(crate) epochs: EpochTable,
    /// When segments leave the log.
    pub(crate) rules: Rules,
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
    /// The segments; the last one is `active`.
    retention: Arc<Retention>,
    active: Segment,
    offset: u64,
    spare: SpareSpace,
    /// The last record written, and its version.
    last: Position,
    clock: Version,
    /// The store has everything up to this index.
    released: Index,
    /// Time of the first unsynced write; only under `Interval`.
    unsynced: Option<Instant>,
    batch: Batch,
    /// The encoded batch.
    encoded: Vec<u8>,
}

/// A reused buffer larger than this is freed after a burst.
const KEPT_BUFFER_BYTES: usize = 4 << 20;

impl LogWriter {
    pub(super) fn new(
        start: LogStart,
        queue: Arc<Queue>,
        retention: Arc<Retention>,
        publisher: watch::Sender<Position>,
    ) -> Self {
        let LogFiles {
            names,
            active,
            offset,
            ..
        } = start.files;
        let writer = Self {
            spare: SpareSpace::new(start.place.clone(), start.blocking, Arc::clone(&queue)),
            place: start.place,
            names,
            queue,
            publisher,
            failure: start.failure,
            _lock: start.lock,
            retention,
            active,
            offset,
            last: start.last,
            clock: start.clock,
            released: Index::ZERO,
            unsynced: None,
            batch: Batch::default(),
            encoded: Vec::new(),
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
            Work::Truncate(after) => self.truncate(after).map(|_| ()),
            Work::Check => self.sync_if_due().and_then(|()| self.prepare()),
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
        self.spare.end();
        self.queue.end();
        self.retention.end();
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
                if !self.rotate()? {
                    break;
                }
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
        let retry = self.spare.is_awaited().then_some(SHORTAGE_RETRY);
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
    /// segment can only be damage. Returns `false` if the log was cut instead: the rest of the
    /// batch is gone.
    fn rotate(&mut self) -> Result<bool, StorageError> {
        self.sync()?;
        let Some(spare) = self.await_spare()? else {
            return Ok(false);
        };
        let header = SegmentHeader {
            log_id: self.place.log_id,
            number: self.active.header.number + 1,
            first: self.last.index.next(),
            previous_epoch: self.last.epoch,
            clock: self.clock,
        };
        self.active = self.place.begin(spare, header, &*self.names)?;
        self.queue.began_segment();
        self.retention.grow(header);
        self.spare.restore_descriptor();
        self.offset = SEGMENT_HEADER_BYTES;
        Ok(true)
    }

    /// The next segment's space. A client's records are accepted only into allocated space. For
    /// others, it waits until it can be allocated: accepted records can't be refused any more.
    /// `None` if the log was cut meanwhile, at or before its last record: no
    /// accepted record is left that needs the space.
    fn await_spare(&mut self) -> Result<Option<Spare>, StorageError> {
        loop {
            match self.spare.take() {
                Ok(spare) => return Ok(Some(spare)),
                Err(error) if error.is_shortage() => {
                    // Those before do not wait for the space.
                    self.publisher.send_replace(self.last);
                    self.wait_for_space(error)?;
                    let after = self.queue.truncation();
                    if let Some(after) = after.filter(|after| after.index <= self.last.index)
                        && self.truncate(after)?
                    {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Refuses more records and waits a while for space. Fails if the log is closing.
    fn wait_for_space(&mut self, shortage: StorageError) -> Result<(), StorageError> {
        if self.queue.is_closing() {
            return Err(shortage);
        }
        self.spare.run_short(shortage);
        self.progress(false);
        if let Some(index) = self.queue.pause(SHORTAGE_RETRY) {
            self.release(index);
        }
        Ok(())
    }

    /// Allocates the next segment's space, if it is time to.
    fn prepare(&mut self) -> Result<(), StorageError> {
        let is_wanted = self.queue.is_spare_wanted();
        if self.spare.prepare(self.offset, is_wanted)? {
            self.progress(false);
        }
        Ok(())
    }

    /// Cuts off every record after `after`, durably, and reports it. Returns whether it did;
    /// otherwise nothing was changed.
    fn truncate(&mut self, after: Position) -> Result<bool, StorageError> {
        match self.find_cut(after) {
            Ok(Some((before, cut))) => self.cut(before, &cut)?,
            Ok(None) => {}
            Err(reason) => {
                self.queue.refuse_truncation(reason);
                return Ok(false);
            }
        }
        self.progress(true);
        self.publisher.send_replace(self.last);
        // Only now: until then, nothing after the cut may be applied.
        self.queue.truncated(self.last, self.clock);
        Ok(true)
    }

    /// Finds the place to cut, and the number of segments before it. `None` if no record is after
    /// it.
    fn find_cut(&mut self, after: Position) -> Result<Option<(usize, Cut)>, TruncateError> {
        if after == self.last {
            return Ok(None);
        }
        let next = after.index.next();
        let segment = self.retention.segment_of(next);
        let (before, header) = segment
            .filter(|_| after.index < self.last.index)
            .ok_or(TruncateError::Unknown(after))?;
        if header.number == self.active.header.number {
            return Ok(Some((before, Cut::find(self.active.clone(), after)?)));
        }
        // An older segment is opened again, with the descriptor that is kept for the next one.
        self.spare.lend_descriptor();
        let path = self.place.path(header.number);
        let found = (self.place.open(ClosedSegment { path, header }))
            .map_err(TruncateError::from)
            .and_then(|segment| Cut::find(segment, after));
        if found.is_err() {
            self.spare.restore_descriptor();
        }
        Ok(Some((before, found?)))
    }

    /// Carries out a cut, in the order that `cut` explains.
    fn cut(&mut self, before: usize, cut: &Cut) -> Result<(), StorageError> {
        // Before the files are touched, so that a scrub notices it.
        let removed = self.retention.cut(before + 1);
        let written = removed.is_empty().then_some(self.offset);
        for segment in removed {
            let path = self.place.path(segment.number);
            let gone = self.place.disk.remove(&path);
            gone.map_err(|error| in_allocated_space("remove", &path, error))?;
        }
        if written.is_none() {
            self.place.flush_names_in(&*self.names)?;
        }
        cut.clear(&self.place, written)?;
        self.unsynced = None;
        tracing::info!(
            from = %self.last, to = %cut.last.position,
            "the end of the log was cut off: the cluster's master does not have these records"
        );
        (self.last, self.offset) = (cut.last.position, cut.offset);
        self.clock = cut.last.version;
        self.active = cut.segment.clone();
        self.spare.restore_descriptor();
        while let Err(error) = cut.fill(&self.place) {
            match error.is_shortage() {
                true => self.wait_for_space(error)?,
                false => return Err(error),
            }
        }
        Ok(())
    }

    /// The store has everything up to `index`: removes segments past their retention.
    fn release(&mut self, index: Index) {
        self.released = self.released.max(index);
        self.trim();
    }

    /// Removes segments that may leave the log, oldest first, so that it has no gaps.
    fn trim(&mut self) {
        while let Some(oldest) = self.retention.trim(self.released, self.clock) {
            if let Err(error) = self.place.remove(&self.place.path(oldest.number)) {
                // Keeping it loses nothing; the next checkpoint retries.
                tracing::warn!(%error, "a log segment that is no longer needed could not be removed");
                self.retention.untrim(oldest);
                break;
            }
        }
        self.progress(false);
    }

    fn progress(&self, written: bool) {
        let left = self.place.segment_bytes.saturating_sub(self.offset);
        let spare = &self.spare;
        let shortage = spare.shortage().cloned();
        self.queue
            .progress(left, spare.is_there(), shortage, written);
    }
}
