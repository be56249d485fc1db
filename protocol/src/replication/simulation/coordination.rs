//! The metadata store in the simulation: one record, changed by compare-and-swap.

use tierkv_types::{Index, LogId};

use crate::replication::{ClusterState, Seen};

/// A node's note about its log (REP-LOGID).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) log_id: LogId,
    pub(super) commit: Index,
}

/// The store.
#[derive(Clone, Debug, Default)]
pub(super) struct Coordination {
    pub(super) revision: u64,
    pub(super) record: Option<Seen>,
    /// Each node's note.
    pub(super) notes: Vec<Option<Note>>,
    /// When each node's liveness key expires.
    pub(super) alive_until: Vec<u64>,
    /// Until then every request fails.
    pub(super) down_until: u64,
    /// Until then requests are slow.
    pub(super) slow_until: u64,
}

impl Coordination {
    /// Swaps the record if it has this revision. Returns the new revision.
    pub(super) fn swap(&mut self, expected: u64, state: ClusterState) -> Option<u64> {
        if self.record.as_ref().map(|it| it.revision) != Some(expected) {
            return None;
        }
        Some(self.put(state))
    }

    pub(super) fn put(&mut self, state: ClusterState) -> u64 {
        // Other keys of the store advance the revision, too.
        self.revision += 3;
        self.record = Some(Seen {
            revision: self.revision,
            state,
        });
        self.revision
    }
}
