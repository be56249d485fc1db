//! What a replica and a node that joins its cluster need of the log (REP-JOIN).
//!
//! A replica whose log ends with records that a new master does not have cuts them off. A master
//! sends its log to a joining node: from a position that both have, or after a snapshot, with the
//! log of the last minutes, which it holds back meanwhile.

use std::sync::Arc;

use tierkv_types::{Index, Position, Version};

use crate::{LogHold, Storage, StorageError, Tail, TailError, TruncateError, locked};

impl Storage {
    /// Cuts off every record after `after`: queued, written and durable ones. On return the cut is
    /// durable, [`Storage::durable`] shows `after`, and the log continues there: with records of an
    /// epoch not below that of `after`, and versions above those that are left. At the log's end it
    /// only waits until all records are durable.
    ///
    /// Meanwhile `append` returns `Truncating`. The truncation is carried out even if the caller is
    /// dropped. A power cut meanwhile leaves a log that ends at `after`, or at a later record that
    /// was to be cut off. While the disk is full, records up to `after` that are accepted and not
    /// written wait for space, and so does the truncation.
    ///
    /// # Errors
    /// `Unknown` if no record of the log has this position; then nothing was cut, as with every
    /// error that [is passing](crate::StorageError::is_passing). `Truncating` if a truncation is
    /// under way, `NoDescriptors` if no file can be opened, `Damaged`, `Closed`, and failures of
    /// the disk, which fail the storage.
    ///
    /// # Panics
    /// If it would cut off an applied record (I1, REP-APPLY).
    pub async fn truncate(&self, after: Position) -> Result<(), TruncateError> {
        let core = &self.core;
        if let Some(error) = core.failure.get() {
            return Err(error.into());
        }
        let truncated = {
            // No record is applied until the log knows where it is cut.
            let applying = locked(&core.applying);
            let applied = applying.progress();
            let (clock, applied) = (applied.clock, applied.position);
            assert!(
                after.index >= applied.index,
                "I1, REP-APPLY: record {applied} is applied, so the log can't be cut after {after}"
            );
            core.log.truncate(after, clock)?
        };
        match truncated.await {
            Ok(done) => done,
            // The log's thread has ended.
            Err(_) => Err(core.failure.get().unwrap_or(StorageError::Closed).into()),
        }
    }

    /// Follows the log after `after`, an applied record of it, named by its position alone: for a
    /// master that sends its log. The default position is the log's beginning. It returns applied
    /// records only; the sequencer has those that are not.
    ///
    /// If the record itself has left the log and only those after it are there, the version of the
    /// tail's first cursor may be unknown, 0.
    ///
    /// # Errors
    /// `Unknown` if the log has another record of that index, or none that is applied; `Trimmed` if
    /// the records after it left the log; failures of the disk.
    pub async fn tail_after(&self, after: Position) -> Result<Tail, TailError> {
        Tail::open_after(Arc::clone(&self.core.tails), after).await
    }

    /// The position before the first record that the log still has.
    #[must_use]
    pub fn log_begin(&self) -> Position {
        self.core.log.retention().begin()
    }

    /// A position after which the log has all of its records with versions from `since` on, at or
    /// before the last applied record: up to a segment earlier than necessary. If the log does not
    /// reach back so far, this is [`Storage::log_begin`]. The records may leave the log at any time:
    /// see [`Storage::hold_log_since`].
    #[must_use]
    pub fn log_since(&self, since: Version) -> Position {
        let applied = self.core.tails.applied().position.index;
        self.core.log.retention().since(since, applied)
    }

    /// Keeps the records after `from` in the log for a joining node, beyond retention and
    /// `log_limit_bytes`, until the log has twice that many bytes. See [`LogHold`].
    #[must_use]
    pub fn hold_log(&self, from: Index) -> LogHold {
        self.core.log.hold(from)
    }

    /// [`Storage::log_since`], and a hold on the records after that position.
    #[must_use]
    pub fn hold_log_since(&self, since: Version) -> (LogHold, Position) {
        let applied = self.core.tails.applied().position.index;
        self.core.log.hold_since(since, applied)
    }
}
