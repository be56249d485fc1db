//! [`Sets`]: the sets of logs in sync that may be in force (REP-UNION).

use super::cluster_state::{ClusterState, Listed};

/// The record that is certainly installed, and one that a swap may install or has installed
/// already.
#[derive(Clone, Debug)]
pub(super) struct Sets {
    installed: ClusterState,
    revision: u64,
    pending: Option<ClusterState>,
}

impl Sets {
    pub(super) const fn new(revision: u64, installed: ClusterState) -> Self {
        Self {
            installed,
            revision,
            pending: None,
        }
    }

    pub(super) const fn installed(&self) -> &ClusterState {
        &self.installed
    }

    pub(super) const fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) const fn pending(&self) -> Option<&ClusterState> {
        self.pending.as_ref()
    }

    /// A swap to `next` is about to be sent.
    pub(super) fn propose(&mut self, next: ClusterState) {
        debug_assert!(self.pending.is_none(), "there is one swap at a time");
        self.pending = Some(next);
    }

    /// The record is installed at this revision, and no swap sent before can succeed any more.
    pub(super) fn settle(&mut self, revision: u64, installed: ClusterState) {
        self.revision = revision;
        self.installed = installed;
        self.pending = None;
    }

    /// Every log that has to acknowledge.
    pub(super) fn required(&self, is_union: bool) -> impl Iterator<Item = &Listed> {
        let pending = self.pending.as_ref();
        let installed = match (pending, is_union) {
            (Some(_), false) => None,
            _ => Some(&self.installed),
        };
        let both = installed.into_iter().chain(pending);
        both.flat_map(|state| &state.in_sync)
    }

    /// Whether each set has as many logs as a commit needs (REP-MIN).
    pub(super) fn may_commit(&self) -> bool {
        let both = [Some(&self.installed), self.pending.as_ref()];
        let mut both = both.into_iter().flatten();
        both.all(|state| state.in_sync.len() >= state.min_in_sync())
    }
}
