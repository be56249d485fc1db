//! What waits for the log's thread.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use tierkv_types::{Index, Position, Record, Version, record};
use tokio::sync::Notify;

use super::{LOG_QUEUE_BYTES, LOG_QUEUE_LIMIT_BYTES, LogPlace, segment::SEGMENT_HEADER_BYTES};
use crate::{StorageError, locked};

/// Encoded records, back to back.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    /// Length, position and version of each record in `bytes`.
    pub(crate) records: Vec<(usize, Position, Version)>,
}

/// A reused buffer that a burst has made larger than this is given back.
const KEPT_BUFFER_BYTES: usize = 4 << 20;

impl Batch {
    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BUFFER_BYTES);
        self.records.clear();
    }
}

/// What the thread is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Write the batch.
    Write,
    /// Let segments at or below this index go.
    Release(Index),
    /// Look again whether there is space.
    Retry,
    /// Everything is written: end.
    End,
}

#[derive(Debug)]
struct State {
    pending: Batch,
    /// The last record that was accepted.
    last: Position,
    /// Its version, or a higher one that was seen before.
    clock: Version,
    release: Option<Index>,
    /// Nothing more is accepted.
    refusing: bool,
    /// The thread ends once everything accepted is written.
    closing: bool,
    ended: bool,
    /// Bytes of the batch that the thread is writing.
    writing: u64,
    /// Bytes left in the segment that the thread writes to, before `writing`.
    left: u64,
    /// No segment follows the current one, because the disk is full.
    no_space: bool,
    segments: usize,
}

/// The records that were accepted and are not written yet, encoded where they wait: the
/// thread has nothing to do but to write them.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    /// Told whenever the queue became shorter, or will never do so again.
    pub(crate) shorter: Notify,
    record_limit: u64,
    dir: std::path::PathBuf,
}

impl Queue {
    pub(super) fn new(last: Position, clock: Version, place: &LogPlace, segments: usize) -> Self {
        Self {
            state: Mutex::new(State {
                pending: Batch::default(),
                last,
                clock,
                release: None,
                refusing: false,
                closing: false,
                ended: false,
                writing: 0,
                left: 0,
                no_space: false,
                segments,
            }),
            work: Condvar::new(),
            shorter: Notify::new(),
            record_limit: (place.segment_bytes - SEGMENT_HEADER_BYTES)
                .min(record::MAX_RECORD_BYTES as u64),
            dir: place.dir.clone(),
        }
    }

    pub(super) fn append(&self, records: &[Record]) -> Result<(), StorageError> {
        if records.is_empty() {
            return Ok(());
        }
        let mut bytes = 0;
        for record in records {
            let length = record::encoded_len(record) as u64;
            if length > self.record_limit {
                return Err(StorageError::Exhausted {
                    limit: "max_record_bytes",
                    bytes: self.record_limit,
                });
            }
            bytes += length;
        }
        let mut state = locked(&self.state);
        if state.refusing || state.ended {
            return Err(StorageError::Closed);
        }
        let queued = state.pending.bytes.len() as u64;
        if state.no_space && queued + state.writing + bytes > state.left {
            return Err(StorageError::NoSpace {
                file: self.dir.clone(),
            });
        }
        // An oversized append is let through when nothing waits, else it never could be.
        if queued > 0 && queued + bytes > LOG_QUEUE_LIMIT_BYTES as u64 {
            return Err(StorageError::Exhausted {
                limit: "log_queue_limit_bytes",
                bytes: LOG_QUEUE_LIMIT_BYTES as u64,
            });
        }
        for record in records {
            let (last, next) = (state.last, record.position);
            assert!(
                next.index == last.index.next() && next.epoch >= last.epoch,
                "record {next} does not follow {last} in the log"
            );
            assert!(
                record.version > state.clock,
                "record {next} does not raise the version of the log"
            );
            let start = state.pending.bytes.len();
            record::encode(record, &mut state.pending.bytes);
            let length = state.pending.bytes.len() - start;
            state.pending.records.push((length, next, record.version));
            state.last = next;
            state.clock = record.version;
        }
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Whether writers may add to the queue without waiting. On a full disk they may try:
    /// they are refused in words, where they would wait for ever.
    pub(crate) fn has_room(&self) -> bool {
        let state = locked(&self.state);
        state.pending.bytes.len() < LOG_QUEUE_BYTES || state.no_space
    }

    /// Whether nothing is accepted any more.
    pub(crate) fn is_over(&self) -> bool {
        let state = locked(&self.state);
        state.refusing || state.ended
    }

    /// Whether records are refused because the disk is full.
    #[cfg(test)]
    pub(super) fn is_out_of_space(&self) -> bool {
        locked(&self.state).no_space
    }

    /// Bytes that wait to be written, or are being written.
    pub(crate) fn bytes(&self) -> u64 {
        let state = locked(&self.state);
        state.pending.bytes.len() as u64 + state.writing
    }

    pub(crate) fn segments(&self) -> usize {
        locked(&self.state).segments
    }

    pub(super) fn release(&self, index: Index) {
        locked(&self.state).release = Some(index);
        self.work.notify_one();
    }

    /// Accepts nothing more.
    pub(super) fn refuse(&self) {
        locked(&self.state).refusing = true;
        self.shorter.notify_waiters();
    }

    /// Accepts nothing more and lets the thread end.
    pub(super) fn close(&self) {
        self.refuse();
        locked(&self.state).closing = true;
        self.work.notify_one();
    }

    /// Waits for work. For `Write` the pending records have been swapped into `batch`,
    /// whose buffers serve the next ones. With `retry_after`, `Retry` comes at the latest
    /// then.
    pub(super) fn next(&self, batch: &mut Batch, retry_after: Option<Duration>) -> Work {
        batch.clear();
        let mut state = locked(&self.state);
        loop {
            // First, for under load there is always something to write, and the log would
            // never become shorter.
            if let Some(index) = state.release.take() {
                return Work::Release(index);
            }
            if !state.pending.records.is_empty() {
                std::mem::swap(&mut state.pending, batch);
                state.writing = batch.bytes.len() as u64;
                return Work::Write;
            }
            if state.closing {
                return Work::End;
            }
            state = match retry_after {
                None => self
                    .work
                    .wait(state)
                    .unwrap_or_else(std::sync::PoisonError::into_inner),
                Some(after) => {
                    let waited = self.work.wait_timeout(state, after);
                    let (state, timeout) =
                        waited.unwrap_or_else(std::sync::PoisonError::into_inner);
                    if timeout.timed_out() {
                        return Work::Retry;
                    }
                    state
                }
            };
        }
    }

    /// Waits for space to be freed, or for anything else that may have changed.
    pub(super) fn pause(&self, pause: Duration) -> Option<Index> {
        let state = locked(&self.state);
        let waited = self.work.wait_timeout(state, pause);
        let (mut state, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        state.release.take()
    }

    /// Tells callers where the thread stands.
    pub(super) fn progress(&self, left: u64, no_space: bool, segments: usize, written: bool) {
        let mut state = locked(&self.state);
        state.left = left;
        state.no_space = no_space;
        state.segments = segments;
        if written {
            state.writing = 0;
        }
        drop(state);
        self.shorter.notify_waiters();
    }

    pub(super) fn is_closing(&self) -> bool {
        locked(&self.state).closing
    }

    /// The thread ends: nothing more is accepted.
    pub(super) fn end(&self) {
        locked(&self.state).ended = true;
        self.shorter.notify_waiters();
    }
}
