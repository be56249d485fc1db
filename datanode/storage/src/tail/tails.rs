//! [`Tails`]: the state that all tails of a storage share.

use std::sync::Arc;

use tierkv_types::Record;
use tokio::sync::{Semaphore, watch};

use super::{
    cursor::Cursor,
    history::{Chunk, History},
};
use crate::log::{LogPlace, Waypoints};

/// Most concurrent reads of the log's files for tails; more wait. Tails at the end of the log
/// read none.
pub(super) const MAX_FILE_READS: usize = 4;

/// The state that all tails of a storage share; `apply` publishes records here.
#[derive(Debug)]
pub(crate) struct Tails {
    pub(super) place: LogPlace,
    pub(super) history: History,
    pub(super) waypoints: Waypoints,
    /// The last record applied.
    applied: watch::Sender<Cursor>,
    pub(super) file_reads: Arc<Semaphore>,
}

impl Tails {
    pub(crate) fn new(place: LogPlace, applied: Cursor) -> Self {
        Self {
            place,
            history: History::default(),
            waypoints: Waypoints::default(),
            applied: watch::Sender::new(applied),
            file_reads: Arc::new(Semaphore::new(MAX_FILE_READS)),
        }
    }

    /// A receiver of the last record applied.
    pub(super) fn subscribe(&self) -> watch::Receiver<Cursor> {
        self.applied.subscribe()
    }

    /// The last record applied.
    pub(crate) fn applied(&self) -> Cursor {
        *self.applied.borrow()
    }

    /// Prepares the chunks for [`Tails::publish`]: copies of records, if there are tails.
    pub(crate) fn prepare<R: Clone + Into<Arc<Record>>>(&self, records: &[R]) -> Vec<Chunk> {
        self.history.prepare(records)
    }

    /// Publishes records up to `last`, whose effects are visible from now on.
    pub(crate) fn publish(&self, prepared: Vec<Chunk>, last: Cursor) {
        self.history.push(prepared);
        self.applied.send_replace(last);
    }

    #[cfg(test)]
    pub(crate) fn history_bytes(&self) -> usize {
        self.history.bytes()
    }
}
