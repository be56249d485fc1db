//! [`Joiners`]: the nodes that got a snapshot, or get one, and the log that is kept for each.
//!
//! A node with a snapshot needs every record after the snapshot's last one. Until its own log is in
//! sync, a hold keeps these records in the master's log, up to twice `wal.max_bytes`; it follows
//! what the node acknowledges. Beyond that limit the records leave all the same, which the log
//! counts and warns of, and the node gets another snapshot.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tierkv_protocol::replication::Mastership;
use tierkv_rpc::{Pace, Worker};
use tierkv_storage::LogHold;
use tierkv_types::{Index, NodeId};
use tokio::time::Instant;

use crate::sequencer::Sequencer;

/// How often it is checked how far the nodes are.
const INTERVAL: Duration = Duration::from_secs(1);
/// A node with a snapshot whose log did not grow for so long is given up: the log that is kept for
/// it may leave.
const JOINER_PATIENCE: Duration = Duration::from_secs(600);

/// The holds for joining nodes. There are at most as many as the cluster has other nodes.
#[derive(Default)]
pub(crate) struct Joiners {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    nodes: BTreeMap<NodeId, Joiner>,
    /// The number of the last transfer.
    last: u64,
}

struct Joiner {
    /// Which transfer it is for: a later one of the same node replaces it.
    number: u64,
    hold: Arc<LogHold>,
    /// The snapshot's last record.
    cut: Index,
    /// When the transfer ended, or the node's log grew last; `None` while the transfer goes on.
    grown: Option<Instant>,
    durable: Index,
}

/// How far a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    /// Up to here its log is durable.
    durable: Index,
    is_in_sync: bool,
}

impl Joiners {
    fn lock(&self) -> MutexGuard<'_, Held> {
        // No code under the lock panics between two steps of a change.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a transfer to a node, of a state that ends with the record `cut`. It replaces an
    /// earlier one of that node.
    pub(super) fn begin(self: &Arc<Self>, node: NodeId, hold: LogHold, cut: Index) -> Sending {
        let hold = Arc::new(hold);
        let mut held = self.lock();
        held.last += 1;
        let number = held.last;
        let joiner = Joiner {
            number,
            hold: Arc::clone(&hold),
            cut,
            grown: None,
            durable: Index::ZERO,
        };
        let earlier = held.nodes.insert(node.clone(), joiner);
        drop(held);
        // It takes the log's lock.
        drop(earlier);
        Sending {
            joiners: Arc::clone(self),
            node,
            number,
            hold,
            is_sent: false,
        }
    }

    /// Moves holds on, and lets those go that are not needed any more.
    fn review(&self, now: Instant, standing: impl Fn(&NodeId) -> Option<Standing>) {
        let mut released = Vec::new();
        self.lock().nodes.retain(|node, joiner| {
            let is_kept = joiner.review(node, now, standing(node));
            if !is_kept {
                released.push(Arc::clone(&joiner.hold));
            }
            is_kept
        });
        // Dropped here, as that takes the log's lock.
        drop(released);
    }

    fn release_all(&self) {
        let released = std::mem::take(&mut self.lock().nodes);
        drop(released);
    }

    fn sent(&self, node: &NodeId, number: u64) {
        if let Some(joiner) = self.lock().nodes.get_mut(node)
            && joiner.number == number
        {
            joiner.hold.advance(joiner.cut);
            joiner.grown = Some(Instant::now());
        }
    }

    fn give_up(&self, node: &NodeId, number: u64) {
        let mut held = self.lock();
        let is_it = (held.nodes.get(node)).is_some_and(|joiner| joiner.number == number);
        let released = is_it.then(|| held.nodes.remove(node));
        drop(held);
        drop(released);
    }

    #[cfg(test)]
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.lock().nodes.keys().cloned().collect()
    }
}

impl Joiner {
    /// Whether it is still needed.
    fn review(&mut self, node: &NodeId, now: Instant, standing: Option<Standing>) -> bool {
        let Some(grown) = self.grown else {
            return true;
        };
        if self.hold.is_broken() {
            return false;
        }
        // What the node had before it installed the snapshot does not count.
        let standing = standing.filter(|standing| standing.durable >= self.cut);
        match standing {
            Some(standing) if standing.is_in_sync => return false,
            Some(standing) if standing.durable > self.durable => {
                self.durable = standing.durable;
                self.hold.advance(standing.durable);
                self.grown = Some(now);
            }
            Some(_) | None if now.duration_since(grown) > JOINER_PATIENCE => {
                tracing::warn!(
                    %node,
                    waited = ?JOINER_PATIENCE,
                    "a node that got a snapshot did not go on with the log; nothing is kept for it \
                     any more"
                );
                return false;
            }
            Some(_) | None => {}
        }
        true
    }
}

/// A transfer under way. If it is dropped before the end, nothing is kept for the node any more.
pub(super) struct Sending {
    joiners: Arc<Joiners>,
    node: NodeId,
    number: u64,
    hold: Arc<LogHold>,
    is_sent: bool,
}

impl Sending {
    /// Whether records that the node needs have left the log.
    pub(super) fn is_broken(&self) -> bool {
        self.hold.is_broken()
    }

    /// Everything is sent: from now on, the log after the snapshot is kept.
    pub(super) fn sent(&mut self) {
        self.is_sent = true;
        self.joiners.sent(&self.node, self.number);
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.is_sent {
            self.joiners.give_up(&self.node, self.number);
        }
    }
}

/// Reviews the holds in the background.
pub(crate) struct JoinersWorker {
    joiners: Arc<Joiners>,
    sequencer: Arc<Sequencer>,
}

impl JoinersWorker {
    pub(crate) const fn new(joiners: Arc<Joiners>, sequencer: Arc<Sequencer>) -> Self {
        Self { joiners, sequencer }
    }
}

impl Worker for JoinersWorker {
    fn name(&self) -> &'static str {
        "joiners"
    }

    async fn work(&mut self) -> Pace {
        let (_, _, term) = self.sequencer.standing();
        match &term {
            Some(term) => {
                let now = Instant::now();
                self.joiners.review(now, |node| standing_in(term, node));
            }
            // Another master has its own log.
            None => self.joiners.release_all(),
        }
        Pace::Idle(INTERVAL)
    }
}

fn standing_in(term: &Mastership, node: &NodeId) -> Option<Standing> {
    let (log_id, durable) = term.progress_of(node)?;
    Some(Standing {
        durable,
        is_in_sync: term.record().lists(node, log_id),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tierkv_storage::{RealDisk, Storage, StorageSettings};

    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    async fn storage(dir: &Path) -> Arc<Storage> {
        let opened = Storage::open(StorageSettings::new(dir), Arc::new(RealDisk)).await;
        opened.unwrap().0
    }

    fn at(durable: u64, is_in_sync: bool) -> Option<Standing> {
        Some(Standing {
            durable: Index(durable),
            is_in_sync,
        })
    }

    #[tokio::test]
    async fn the_log_is_kept_until_the_nodes_log_is_in_sync() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(dir.path()).await;
        let joiners = Arc::new(Joiners::default());
        let mut sending = joiners.begin(node("n2"), storage.hold_log(Index(0)), Index(5));
        let now = Instant::now();
        // While it is sent, nothing else counts: not how long it takes, nor the node's old log.
        joiners.review(now + 2 * JOINER_PATIENCE, |_| at(9, true));
        assert_eq!(joiners.nodes(), [node("n2")]);
        sending.sent();
        drop(sending);
        joiners.review(Instant::now(), |_| at(4, true));
        assert_eq!(
            joiners.nodes(),
            [node("n2")],
            "its old log was before the cut"
        );
        joiners.review(Instant::now(), |_| at(7, false));
        assert_eq!(joiners.nodes(), [node("n2")]);
        joiners.review(Instant::now(), |_| at(8, true));
        assert!(joiners.nodes().is_empty());
        storage.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_node_that_does_not_go_on_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(dir.path()).await;
        let joiners = Arc::new(Joiners::default());
        let mut sending = joiners.begin(node("n2"), storage.hold_log(Index(0)), Index(5));
        sending.sent();
        let sent = Instant::now();
        let soon = sent + JOINER_PATIENCE / 2;
        joiners.review(soon, |_| at(6, false));
        // Its log grew then, so its time begins anew.
        joiners.review(sent + JOINER_PATIENCE + JOINER_PATIENCE / 4, |_| {
            at(6, false)
        });
        assert_eq!(joiners.nodes(), [node("n2")]);
        joiners.review(soon + 2 * JOINER_PATIENCE, |_| None);
        assert!(joiners.nodes().is_empty());
        storage.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_transfer_that_breaks_off_keeps_nothing_and_a_later_one_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage(dir.path()).await;
        let joiners = Arc::new(Joiners::default());
        let first = joiners.begin(node("n2"), storage.hold_log(Index(0)), Index(5));
        let second = joiners.begin(node("n2"), storage.hold_log(Index(0)), Index(6));
        drop(first);
        assert_eq!(joiners.nodes(), [node("n2")]);
        drop(second);
        assert!(joiners.nodes().is_empty());
        let mut third = joiners.begin(node("n2"), storage.hold_log(Index(0)), Index(6));
        let other = joiners.begin(node("n3"), storage.hold_log(Index(0)), Index(6));
        third.sent();
        // Closing ends the log, which breaks all holds.
        storage.close().await.unwrap();
        assert!(third.is_broken() && other.is_broken());
        joiners.review(Instant::now(), |_| None);
        assert_eq!(joiners.nodes(), [node("n3")], "a transfer ends by itself");
        joiners.release_all();
        assert!(joiners.nodes().is_empty());
    }
}
