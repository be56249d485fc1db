//! [`LogWork`]: the changes of the log's end that are not made yet.

use std::{collections::VecDeque, sync::Arc};

use tierkv_storage::StorageError;
use tierkv_types::{ClusterId, Position, Record, record::encoded_len};

/// Bytes of records that may wait. A master has less under way to a replica; several masters after
/// each other may send more while the disk is full.
const MAX_WAITING_BYTES: usize = 32 << 20;

/// A change of the log's end.
#[derive(Debug)]
pub(crate) enum LogChange {
    /// The record that opens a term (REP-NOOP).
    Noop(Position),
    /// Records of a master.
    Records(Vec<Arc<Record>>),
    /// Everything after this position is cut off (REP-JOIN).
    Cut(Position),
}

/// The changes of the log's end that the log could not take yet, in order: its disk is full, or its
/// queue is.
#[derive(Debug, Default)]
pub(crate) struct LogWork {
    changes: VecDeque<LogChange>,
    bytes: usize,
    is_cutting: bool,
    is_reported: bool,
}

impl LogWork {
    pub(crate) fn push(&mut self, change: LogChange) {
        self.bytes += bytes(&change);
        self.changes.push_back(change);
    }

    /// Whether no more records may be taken.
    pub(crate) const fn is_full(&self) -> bool {
        self.bytes >= MAX_WAITING_BYTES
    }

    /// The change to make now.
    pub(crate) fn next(&self) -> Option<&LogChange> {
        self.changes.front().filter(|_| !self.is_cutting)
    }

    /// The first change is made.
    pub(crate) fn done(&mut self) {
        if let Some(change) = self.changes.pop_front() {
            self.bytes -= bytes(&change);
        }
        self.is_reported = false;
    }

    /// The log is being cut. Nothing else is done meanwhile.
    pub(crate) const fn is_cutting(&mut self) {
        self.is_cutting = true;
    }

    /// The log is cut.
    pub(crate) fn is_cut(&mut self) {
        self.is_cutting = false;
        self.done();
    }

    /// Reports once that the log can't take the first change now. A full queue of a slow disk is
    /// nothing to report.
    pub(crate) fn report(&mut self, cluster: &ClusterId, error: &StorageError) {
        if self.is_reported || !error.is_shortage() {
            return;
        }
        self.is_reported = true;
        match self.changes.front() {
            Some(LogChange::Noop(_)) => tracing::warn!(
                %cluster,
                %error,
                "the log has no space for the record that opens the term, so the cluster serves \
                 nothing; it is tried again"
            ),
            _ => tracing::warn!(
                %cluster,
                %error,
                "the log can't take the master's records; they are tried again"
            ),
        }
    }
}

fn bytes(change: &LogChange) -> usize {
    match change {
        LogChange::Records(records) => records.iter().map(|record| encoded_len(record)).sum(),
        LogChange::Noop(_) | LogChange::Cut(_) => 0,
    }
}
