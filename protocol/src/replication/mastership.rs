//! [`Mastership`]: a master's state for its term: the acknowledgements that a commit needs, and
//! the heartbeat rounds that prove its freshness.

use std::collections::BTreeMap;

use tierkv_types::{BootTime, Epoch, Index, NodeId, Round};

use super::cluster_state::ClusterState;

/// One term of one master.
#[derive(Clone, Debug)]
pub struct Mastership {
    epoch: Epoch,
    /// The record that is certainly in coordination.
    installed: ClusterState,
    /// The index of the record that opened the term. Before it is committed the master vouches
    /// for nothing (REP-NOOP).
    opening: Index,
    /// The index up to which each log is known to be durable.
    durable: BTreeMap<NodeId, Index>,
    /// The latest round that was started, and the latest that all in sync acknowledged.
    started: Round,
    vouched: Round,
    /// The end of the term's waiting time (REP-WAIT).
    ready_at: BootTime,
}

impl Mastership {
    /// A term whose record is in coordination, to be opened by the log record at `opening`.
    pub(super) const fn new(installed: ClusterState, opening: Index, ready_at: BootTime) -> Self {
        Self {
            epoch: installed.epoch,
            installed,
            opening,
            durable: BTreeMap::new(),
            started: Round::ZERO,
            vouched: Round::ZERO,
            ready_at,
        }
    }

    /// The term.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The latest heartbeat round that was started.
    #[must_use]
    pub const fn started(&self) -> Round {
        self.started
    }

    /// The latest heartbeat round that was vouched.
    #[must_use]
    pub const fn vouched(&self) -> Round {
        self.vouched
    }

    /// Whether the term's waiting time still runs.
    pub(super) fn is_waiting(&self, now: BootTime) -> bool {
        now < self.ready_at
    }

    /// Whether the record that opened the term is committed.
    pub(super) const fn is_open(&self, commit: Index) -> bool {
        commit.0 >= self.opening.0
    }

    /// Records that a log is durable up to `index`.
    pub(super) fn acknowledge(&mut self, node: &NodeId, index: Index) {
        match self.durable.get_mut(node) {
            Some(known) => *known = (*known).max(index),
            None => {
                self.durable.insert(node.clone(), index);
            }
        }
    }

    /// The index up to which every log in sync is durable, if enough logs are in sync to commit
    /// (REP-MIN) and it is not below the term's first record.
    pub(super) fn committable(&self) -> Option<Index> {
        if self.installed.in_sync.len() < self.installed.min_in_sync() {
            return None;
        }
        let durable = |node| self.durable.get(node).copied().unwrap_or(Index::ZERO);
        let all = self
            .installed
            .in_sync
            .iter()
            .map(|listed| durable(&listed.node))
            .min()?;
        (all >= self.opening).then_some(all)
    }

    /// Starts the next round. If the master's own log is the only one in sync, the round is
    /// vouched at once (REP-ROUND).
    pub(super) fn start_round(&mut self, me: &NodeId) -> Option<Round> {
        self.started = self.started.next();
        let alone = self
            .installed
            .in_sync
            .iter()
            .all(|listed| listed.node == *me);
        if !alone {
            return None;
        }
        self.vouched = self.started;
        Some(self.vouched)
    }
}
