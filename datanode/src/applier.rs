//! Applies committed records, in the order of the log, and passes their keys to the invalidator.
//!
//! It is a task of its own, so that neither a slow cache nor a long apply delays the driver's
//! loop, which starts the heartbeat rounds:
//!
//! ```text
//!         ──frontier──►         ──terms, keys, rounds──►
//!  driver               applier                          invalidator
//!         ◄──applied───
//! ```
//!
//! A [`Frontier`] has only the newest of everything, so what waits for the applier stays small
//! however long the cache takes.

use std::{
    future::{Future, pending},
    sync::Arc,
};

use tierkv_storage::{Effects, Storage};
use tierkv_types::{Epoch, Index, Record, Round};
use tokio::{
    sync::{mpsc, watch},
    task::yield_now,
};

use crate::{
    invalidator::{ChangedKey, Message},
    ownership::{Owned, Ownership},
    rules::{Rule, Rules},
    sequencer::Sequencer,
};

/// Most records and changes that are applied at once, but for those of the last record. Writers
/// and the driver wait for the locks of one step, less than a millisecond. Bytes don't count, as
/// values are shared and not copied.
pub(crate) const STEP: usize = 1_024;
/// Seams before an ownership that a simulation applies too late.
const LATE_SEAMS: usize = 32;

/// How far the applier may go.
#[derive(Clone, Copy, Debug, Default)]
struct Frontier {
    /// The term this node holds.
    term: Option<Epoch>,
    /// Everything up to this index is committed.
    commit: Index,
    /// The newest vouched round, with its term and its commit index.
    vouched: Option<(Epoch, Round, Index)>,
}

/// The driver's side of the applier. Only [`ApplierHandle::applied`] waits.
pub(crate) struct ApplierHandle {
    frontier: watch::Sender<Frontier>,
    applied: watch::Receiver<Index>,
}

impl ApplierHandle {
    /// Begins a term; call it before the first commit of the term.
    pub(crate) fn begin_term(&self, epoch: Epoch) {
        self.frontier
            .send_modify(|frontier| frontier.term = Some(epoch));
    }

    /// Ends the term: another node is master, and deletes the keys of what follows.
    pub(crate) fn end_term(&self) {
        self.frontier.send_modify(|frontier| frontier.term = None);
    }

    /// Has everything up to `index` applied.
    pub(crate) fn commit(&self, index: Index) {
        self.frontier
            .send_modify(|frontier| frontier.commit = frontier.commit.max(index));
    }

    /// Passes a vouched round on, once the keys of everything applied until now are passed on.
    /// A newer round replaces one that still waits: marks become coarser while the cache is slow.
    pub(crate) fn vouched(&self, epoch: Epoch, round: Round, commit: Index) {
        let vouched = Some((epoch, round, commit));
        self.frontier
            .send_modify(|frontier| frontier.vouched = frontier.vouched.max(vouched));
    }

    /// Waits until more is applied, and returns the last applied index. Cancelling it loses
    /// nothing.
    pub(crate) async fn applied(&mut self) -> Index {
        match self.applied.changed().await {
            Ok(()) => *self.applied.borrow_and_update(),
            // The applier has failed, which stops the node.
            Err(_) => pending().await,
        }
    }
}

/// Applies what is committed.
pub(crate) struct Applier {
    sequencer: Arc<Sequencer>,
    storage: Arc<Storage>,
    owned: Arc<Owned>,
    invalidator: mpsc::Sender<Message>,
    rules: Rules,
    step: usize,
    /// How far it is.
    done: Frontier,
}

impl Applier {
    pub(crate) fn new(
        sequencer: Arc<Sequencer>,
        storage: Arc<Storage>,
        owned: Arc<Owned>,
        invalidator: mpsc::Sender<Message>,
    ) -> Self {
        Self {
            sequencer,
            storage,
            owned,
            invalidator,
            rules: Rules::default(),
            step: STEP,
            done: Frontier::default(),
        }
    }

    /// This applier under other rules, and with other steps.
    #[cfg(test)]
    pub(crate) fn under(self, rules: Rules, step: usize) -> Self {
        Self {
            rules,
            step,
            ..self
        }
    }

    /// Returns its handle and its task. The task ends when the handle is dropped, after
    /// everything that was handed over is applied; with it ends the invalidator.
    pub(crate) fn start(self) -> (ApplierHandle, impl Future<Output = ()> + Send) {
        let (frontier, newest) = watch::channel(Frontier::default());
        let (report, applied) = watch::channel(Index::ZERO);
        let handle = ApplierHandle { frontier, applied };
        (handle, self.run(newest, report))
    }

    async fn run(mut self, mut newest: watch::Receiver<Frontier>, report: watch::Sender<Index>) {
        while newest.changed().await.is_ok() {
            loop {
                let frontier = *newest.borrow_and_update();
                self.advance(frontier, &report).await;
                if self.done.commit >= frontier.commit {
                    break;
                }
                // Others get the locks, and this thread, between two steps.
                yield_now().await;
            }
        }
    }

    /// Goes one step towards the frontier.
    async fn advance(&mut self, frontier: Frontier, report: &watch::Sender<Index>) {
        // Before the keys that the term changes.
        if self.done.term != frontier.term {
            if let Some(epoch) = frontier.term {
                self.send(Message::Term(epoch)).await;
            }
            self.done.term = frontier.term;
        }
        if self.done.commit < frontier.commit {
            self.apply_some(frontier.commit, report).await;
        }
        // Each term numbers its own rounds.
        if let Some((epoch, round, commit)) = frontier.vouched
            && self.done.vouched < frontier.vouched
            && self.done.term == Some(epoch)
        {
            self.send(Message::Vouched { round, commit }).await;
            self.done.vouched = frontier.vouched;
        }
    }

    /// Applies the next records, then sends their keys, each with the revision of its slot at
    /// its record, to the invalidator, which deletes them from the cache and then lets the writers
    /// be answered.
    async fn apply_some(&mut self, commit: Index, report: &watch::Sender<Index>) {
        let records = self.sequencer.release(commit, self.step);
        // None: the store had all of them at the start.
        let up_to = (records.last()).map_or(commit, |record| record.position.index);
        self.rules.seam().await;
        // A replica deletes none: its master does.
        let keys = match self.done.term {
            Some(_) => self.changed_keys(&records),
            None => Vec::new(),
        };
        let settling = if self.rules.lack(Rule::AppliedFirst) {
            let settling = self.sequencer.applied(&records, up_to);
            self.rules.seam().await;
            self.apply(&records).await;
            settling
        } else {
            self.apply(&records).await;
            self.rules.seam().await;
            self.sequencer.applied(&records, up_to)
        };
        self.done.commit = up_to;
        // Before the cache, which may be slow.
        report.send_replace(up_to);
        self.send(Message::Changed {
            keys,
            up_to,
            settling,
        })
        .await;
    }

    /// The keys that the records change.
    fn changed_keys(&self, records: &[Arc<Record>]) -> Vec<ChangedKey> {
        let mut owned = self.owned.now();
        let mut keys: Vec<ChangedKey> = Vec::new();
        for record in records {
            let effects = Effects::of(record);
            if let Some(slots) = effects.owned {
                owned = Arc::new(Ownership::of(slots));
                if self.rules.lack(Rule::DeletesAtTheirRevision) {
                    for changed in &mut keys {
                        changed.slot_revision = owned.revision(changed.key.slot());
                    }
                }
            }
            keys.extend(effects.changes.iter().map(|change| ChangedKey {
                slot_revision: owned.revision(change.key.slot()),
                key: change.key.clone(),
            }));
        }
        keys
    }

    /// Applies records. Ownership changes at its place among them: with it before an earlier
    /// change, a reader would fill the cache with the value before under the new revision; with it
    /// after a later one, the master would vouch for the old revision, where that change deletes
    /// nothing.
    async fn apply(&self, records: &[Arc<Record>]) {
        let is_change = |record: &Arc<Record>| Effects::of(record).owned.is_some();
        let mut late = None;
        for some in records.split_inclusive(is_change) {
            self.storage.apply(some);
            let Some(slots) = some.last().and_then(|record| Effects::of(record).owned) else {
                continue;
            };
            self.rules.seam().await;
            if self.rules.lack(Rule::OwnedAtItsPlace) {
                late = Some(slots);
                continue;
            }
            self.owned.apply(slots);
            self.rules.seam().await;
        }
        if let Some(slots) = late {
            // So late that some reader notices.
            for _ in 0..LATE_SEAMS {
                self.rules.seam().await;
            }
            self.owned.apply(slots);
        }
    }

    /// Waits while the invalidator's queue is full.
    async fn send(&self, message: Message) {
        // The invalidator ends only after this sender is dropped.
        drop(self.invalidator.send(message).await);
    }
}
