//! [`Queue`]: the records that wait for the log's thread.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tierkv_types::{Epoch, Index, Payload, Position, Record, Version, record};
use tokio::sync::{Notify, oneshot};

use super::{
    LOG_QUEUE_BYTES, LOG_QUEUE_LIMIT_BYTES,
    batch::Batch,
    cut::TruncateError,
    segment::{LogPlace, SEGMENT_HEADER_BYTES},
    space::{LogRoom, Space},
};
use crate::{StorageError, locked, meters, state::Progress};

/// Queued records. Dropping it wakes the log's thread, so a caller that queues under a lock
/// releases the lock first. Never wait for the records while it is alive. As a temporary in the
/// head of a `match` it would live to the end of the arms: bind it to a variable and drop that.
#[derive(Debug)]
pub struct Queued(Option<Arc<Queue>>);

impl Drop for Queued {
    fn drop(&mut self) {
        if let Some(queue) = &self.0 {
            queue.work.notify_one();
        }
    }
}

/// The thread's next work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Write the batch.
    Write,
    /// Remove segments whose records are all at or below this index.
    Release(Index),
    /// Cut off every record after this one; all up to it are written.
    Truncate(Position),
    /// Check whether the next segment must be allocated, or is, and whether a sync is due.
    Check,
    /// End: everything is written.
    End,
}

/// Which space records are accepted into. Accepted records can't be refused any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Space that is allocated, so that they don't wait for space that there may never be.
    Allocated,
    /// Also space that is not allocated yet, unless it is known that there is none.
    Any,
}

#[derive(Debug)]
struct State {
    pending: Batch,
    /// The progress after the last accepted record.
    progress: Progress,
    release: Option<Index>,
    /// Records are refused from now on.
    refusing: bool,
    /// The thread ends once all accepted records are written.
    closing: bool,
    ended: bool,
    /// Bytes of the batch that the thread is writing.
    writing: u64,
    /// Bytes left in the segment that the thread writes to.
    left: u64,
    /// The space after the last accepted record.
    space: Space,
    /// Why there is no next segment: the shortage of space or descriptors.
    shortage: Option<StorageError>,
    /// A caller has records that need the next segment.
    is_spare_wanted: bool,
    /// The thread is to check the next segment.
    is_check_due: bool,
    /// A simulation refuses all records for want of space.
    #[cfg(any(test, feature = "conformance"))]
    is_full: bool,
    /// The truncation that waits or is carried out. Records are refused until it is done.
    truncation: Option<Truncation>,
}

/// A request to cut off every record after one.
#[derive(Debug)]
struct Truncation {
    after: Position,
    /// A version not above that record's, for the case that the log does not have its version.
    clock: Version,
    reply: oneshot::Sender<Result<(), TruncateError>>,
}

/// The result of a truncation, once there is one; an error if the log has failed.
pub(crate) type Truncated = oneshot::Receiver<Result<(), TruncateError>>;

/// The accepted records that are not written yet. The thread encodes them, so that callers do
/// not wait for that.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    /// Notified when the queue became shorter, or never will again.
    pub(crate) shorter: Notify,
    record_limit: u64,
    /// The index after which a truncation under way cuts; [`NO_TRUNCATION`] if there is none.
    cut_after: AtomicU64,
}

const NO_TRUNCATION: u64 = u64::MAX;

impl State {
    /// Checks that records of these sizes may be queued; returns the space after them.
    fn check_room(&self, sizes: &[u64], target: Target) -> Result<Space, StorageError> {
        if self.refusing || self.ended {
            return Err(StorageError::Closed);
        }
        if self.truncation.is_some() {
            return Err(StorageError::Truncating);
        }
        #[cfg(any(test, feature = "conformance"))]
        if self.is_full {
            return Err(StorageError::NoSpace {
                file: "the next segment".into(),
            });
        }
        let mut space = self.space;
        sizes.iter().for_each(|bytes| space.take(*bytes));
        if !space.is_allocated() {
            if let Some(shortage) = &self.shortage {
                return Err(shortage.clone());
            }
            if target == Target::Allocated {
                return Err(StorageError::Growing);
            }
        }
        let (queued, bytes) = (self.pending.bytes, sizes.iter().sum::<u64>());
        // An append over the limit is accepted when the queue is empty, else it never could be.
        if queued > 0 && queued + bytes > LOG_QUEUE_LIMIT_BYTES as u64 {
            return Err(StorageError::Exhausted {
                limit: "log_queue_limit_bytes",
                bytes: LOG_QUEUE_LIMIT_BYTES as u64,
            });
        }
        Ok(space)
    }

    fn room(&self) -> LogRoom {
        match self.shortage {
            Some(_) => LogRoom::UNBOUNDED,
            None => LogRoom::new(
                (LOG_QUEUE_BYTES as u64).saturating_sub(self.pending.bytes),
                self.space,
            ),
        }
    }

    /// Whether the log may be cut after this record, as far as its epochs show.
    fn check_cut(&self, after: Position) -> Result<(), TruncateError> {
        if self.refusing || self.ended {
            return Err(StorageError::Closed.into());
        }
        if self.truncation.is_some() {
            return Err(StorageError::Truncating.into());
        }
        let end = self.progress.position;
        let epoch = match after.index == end.index {
            true => Some(end.epoch),
            false => self.progress.epochs.of(after.index),
        };
        let is_other = epoch.is_some_and(|epoch| epoch != after.epoch);
        if after.index > end.index || is_other {
            return Err(TruncateError::Unknown(after));
        }
        Ok(())
    }

    /// The work to do now; moves pending records into `batch`.
    fn work(&mut self, batch: &mut Batch) -> Option<Work> {
        // First: under load there are always records to write, and segments would never be
        // removed.
        if let Some(index) = self.release.take() {
            return Some(Work::Release(index));
        }
        if let Some(Truncation { after, .. }) = self.truncation {
            if self.pending.split_up_to(after.index, batch) {
                self.writing = batch.bytes;
                return Some(Work::Write);
            }
            return Some(Work::Truncate(after));
        }
        if !self.pending.records.is_empty() {
            std::mem::swap(&mut self.pending, batch);
            self.writing = batch.bytes;
            return Some(Work::Write);
        }
        if self.closing {
            return Some(Work::End);
        }
        std::mem::take(&mut self.is_check_due).then_some(Work::Check)
    }
}

impl Queue {
    /// An empty queue of a log whose next record goes to `offset` of its active segment.
    pub(super) fn new(progress: Progress, place: &LogPlace, offset: u64) -> Self {
        let left = place.segment_bytes.saturating_sub(offset);
        Self {
            state: Mutex::new(State {
                pending: Batch::default(),
                progress,
                release: None,
                refusing: false,
                closing: false,
                ended: false,
                writing: 0,
                left,
                space: Space::new(place.segment_bytes - SEGMENT_HEADER_BYTES, left),
                shortage: None,
                is_spare_wanted: false,
                // The segment may be nearly full.
                is_check_due: true,
                #[cfg(any(test, feature = "conformance"))]
                is_full: false,
                truncation: None,
            }),
            work: Condvar::new(),
            shorter: Notify::new(),
            record_limit: (place.segment_bytes - SEGMENT_HEADER_BYTES)
                .min(record::MAX_RECORD_BYTES as u64),
            cut_after: AtomicU64::new(NO_TRUNCATION),
        }
    }

    pub(super) fn append(
        self: &Arc<Self>,
        records: Vec<Arc<Record>>,
        target: Target,
    ) -> Result<Queued, StorageError> {
        if records.is_empty() {
            return Ok(Queued(None));
        }
        let sizes = records
            .iter()
            .map(|record| self.check_record(&record.payload));
        let sizes = sizes.collect::<Result<Vec<u64>, _>>()?;
        let mut state = locked(&self.state);
        let space = state.check_room(&sizes, target).inspect_err(|error| {
            if let StorageError::Growing = error {
                self.want_spare(&mut state);
            }
        })?;
        for record in records {
            let advanced = state.progress.advance(record.position, record.version);
            if let Err(broken) = advanced {
                panic!("a record does not follow the ones in the log: {broken}");
            }
            state.pending.records.push(record);
        }
        state.pending.bytes += sizes.iter().sum::<u64>();
        state.space = space;
        Ok(Queued(Some(Arc::clone(self))))
    }

    /// What the log takes now without a wait. Without bound if there can be no next segment:
    /// writers then get an error instead of waiting forever.
    pub(crate) fn room(&self) -> LogRoom {
        locked(&self.state).room()
    }

    /// The name of the limit for which a record of so many bytes has to wait; `None` if it need
    /// not. If that is the next segment, it is allocated now.
    pub(crate) fn reached(&self, bytes: u64) -> Option<&'static str> {
        let mut state = locked(&self.state);
        let reached = state.room().reached(bytes);
        if reached == Some(meters::LOG_SEGMENT) {
            self.want_spare(&mut state);
        }
        reached
    }

    /// Lets the thread allocate the next segment, if it did not begin to.
    fn want_spare(&self, state: &mut State) {
        if !state.is_spare_wanted {
            state.is_spare_wanted = true;
            state.is_check_due = true;
            self.work.notify_one();
        }
    }

    /// Whether a caller has records that need the next segment.
    pub(super) fn is_spare_wanted(&self) -> bool {
        locked(&self.state).is_spare_wanted
    }

    /// Lets the thread check the next segment.
    pub(super) fn check(&self) {
        locked(&self.state).is_check_due = true;
        self.work.notify_one();
    }

    /// The bytes that a record with this payload adds to the queue.
    ///
    /// # Errors
    /// `Exhausted` if that is more than a record may have.
    pub(crate) fn check_record(&self, payload: &Payload) -> Result<u64, StorageError> {
        let bytes = record::encoded_len_with(payload) as u64;
        if bytes > self.record_limit {
            return Err(StorageError::Exhausted {
                limit: meters::MAX_RECORD,
                bytes: self.record_limit,
            });
        }
        Ok(bytes)
    }

    /// Whether no more records are accepted.
    pub(crate) fn is_over(&self) -> bool {
        let state = locked(&self.state);
        state.refusing || state.ended
    }

    /// Why there is no next segment.
    #[cfg(test)]
    pub(super) fn shortage(&self) -> Option<StorageError> {
        locked(&self.state).shortage.clone()
    }

    /// Bytes that wait to be written, or are being written.
    pub(crate) fn bytes(&self) -> u64 {
        let state = locked(&self.state);
        state.pending.bytes + state.writing
    }

    pub(super) fn release(&self, index: Index) {
        locked(&self.state).release = Some(index);
        self.work.notify_one();
    }

    /// Lets segments be removed that nothing needs any more.
    pub(super) fn trim(&self) {
        locked(&self.state).release.get_or_insert(Index::ZERO);
        self.work.notify_one();
    }

    /// Asks the thread to cut off every record after this one, whose version is at least `clock`.
    /// Refuses records until that is done.
    pub(super) fn truncate(
        &self,
        after: Position,
        clock: Version,
    ) -> Result<Truncated, TruncateError> {
        let mut state = locked(&self.state);
        state.check_cut(after)?;
        let (reply, truncated) = oneshot::channel();
        state.truncation = Some(Truncation {
            after,
            clock,
            reply,
        });
        self.cut_after.store(after.index.0, Ordering::SeqCst);
        self.work.notify_one();
        Ok(truncated)
    }

    /// Where the truncation that waits cuts, if there is one.
    pub(super) fn truncation(&self) -> Option<Position> {
        let state = locked(&self.state);
        state.truncation.as_ref().map(|truncation| truncation.after)
    }

    /// The log ends at `last` now, a record of version `clock`, 0 if that is unknown: ends the
    /// truncation.
    pub(super) fn truncated(&self, last: Position, clock: Version) {
        let mut state = locked(&self.state);
        let truncation = state.truncation.take();
        let least = truncation
            .as_ref()
            .map_or(Version::ZERO, |asked| asked.clock);
        state.pending.clear();
        let left = state.left;
        state.space.reset(left);
        (state.progress.position, state.progress.clock) = (last, clock.max(least));
        state.progress.epochs.truncate(last.index);
        self.end_truncation(truncation, Ok(()));
    }

    /// Nothing was cut: ends the truncation with the reason.
    pub(super) fn refuse_truncation(&self, reason: TruncateError) {
        let truncation = locked(&self.state).truncation.take();
        self.end_truncation(truncation, Err(reason));
    }

    fn end_truncation(&self, truncation: Option<Truncation>, done: Result<(), TruncateError>) {
        self.cut_after.store(NO_TRUNCATION, Ordering::SeqCst);
        if let Some(Truncation { reply, .. }) = truncation {
            // The caller may have stopped waiting.
            let _ = reply.send(done);
        }
        self.shorter.notify_waiters();
    }

    /// The index after which records are being cut off, if any are.
    pub(super) fn cut_after(&self) -> Option<Index> {
        let after = self.cut_after.load(Ordering::SeqCst);
        (after != NO_TRUNCATION).then_some(Index(after))
    }

    /// The epoch of a record of the log; `None` if it is unknown.
    pub(super) fn epoch_of(&self, index: Index) -> Option<Epoch> {
        locked(&self.state).progress.epochs.of(index)
    }

    /// Refuses more records.
    pub(super) fn refuse(&self) {
        locked(&self.state).refusing = true;
        self.shorter.notify_waiters();
    }

    /// Refuses more records, and lets the thread end.
    pub(super) fn close(&self) {
        self.refuse();
        locked(&self.state).closing = true;
        self.work.notify_one();
    }

    /// Waits for work. For `Write`, the pending records were swapped into `batch`, whose
    /// buffers are reused. With `check_after`, returns `Check` after that time at the latest.
    pub(super) fn next(&self, batch: &mut Batch, check_after: Option<Duration>) -> Work {
        batch.clear();
        let mut state = locked(&self.state);
        loop {
            if let Some(work) = state.work(batch) {
                return work;
            }
            state = match check_after {
                None => self
                    .work
                    .wait(state)
                    .unwrap_or_else(std::sync::PoisonError::into_inner),
                Some(after) => {
                    let waited = self.work.wait_timeout(state, after);
                    let (state, timeout) =
                        waited.unwrap_or_else(std::sync::PoisonError::into_inner);
                    if timeout.timed_out() {
                        return Work::Check;
                    }
                    state
                }
            };
        }
    }

    /// The work to do now, as [`Queue::next`] returns it.
    #[cfg(any(test, feature = "conformance"))]
    pub(super) fn try_next(&self, batch: &mut Batch) -> Option<Work> {
        batch.clear();
        locked(&self.state).work(batch)
    }

    /// Lets the log seem full, so that all records are refused from now on; or lets it have space
    /// again.
    #[cfg(any(test, feature = "conformance"))]
    pub(crate) fn run_short(&self, is_short: bool) {
        locked(&self.state).is_full = is_short;
        self.shorter.notify_waiters();
    }

    /// Waits for a release, another change, or `pause` at most.
    pub(super) fn pause(&self, pause: Duration) -> Option<Index> {
        let state = locked(&self.state);
        let waited = self.work.wait_timeout(state, pause);
        let (mut state, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        state.release.take()
    }

    /// Publishes the thread's progress to callers: whether everything it took is `written`, the
    /// bytes `left` in its segment, whether the next segment's space `is_spare_there`, and why not.
    pub(super) fn progress(
        &self,
        left: u64,
        is_spare_there: bool,
        shortage: Option<StorageError>,
        written: bool,
    ) {
        let mut state = locked(&self.state);
        state.left = left;
        state.space.set_spare(is_spare_there);
        state.shortage = shortage;
        if is_spare_there {
            state.is_spare_wanted = false;
        }
        if written {
            state.writing = 0;
        }
        drop(state);
        self.shorter.notify_waiters();
    }

    /// The thread began the next segment.
    pub(super) fn began_segment(&self) {
        locked(&self.state).space.began_segment();
    }

    pub(super) fn is_closing(&self) -> bool {
        locked(&self.state).closing
    }

    /// The thread ended: refuses more records.
    pub(super) fn end(&self) {
        let mut state = locked(&self.state);
        state.ended = true;
        // Its caller gets the failure of the log.
        drop(state.truncation.take());
        drop(state);
        self.shorter.notify_waiters();
    }
}
