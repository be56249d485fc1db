//! Checkpoints: write pinned entries to the store, then let log segments be removed.
//!
//! STORE-CHECKPOINT: between two applied records the active entries are frozen; A is the
//! index of the last applied record. The frozen entries and the log's state at A are written
//! in one transaction, which fails if another incarnation has claimed the store. Only when it
//! is durable do the entries become evictable and the segments up to A removable. A retry
//! after a failed checkpoint writes the same frozen entries.

use std::sync::{Arc, atomic::Ordering};

use tierkv_types::{Incarnation, RequestId};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};

use crate::{
    StorageError,
    core::Core,
    locked,
    memory::FrozenEntries,
    meters::CHECKPOINT_SECONDS,
    state::Unstored,
    store::{CheckpointBatch, StoreMeta},
};

/// Most requests for an explicit checkpoint that may wait.
pub(crate) const CHECKPOINT_ASKERS: usize = 64;

/// Entries frozen for the store, and the log's state at that moment.
#[derive(Debug)]
struct Frozen {
    meta: StoreMeta,
    entries: Vec<FrozenEntries>,
    unstored: Unstored,
}

/// A request for a checkpoint.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) reply: oneshot::Sender<Result<(), StorageError>>,
    /// Whether it is the last one.
    pub(crate) last: bool,
}

/// The task that takes the checkpoints, one after the other. Nothing cancels it: it ends
/// after the request marked `last`, or once all senders of requests are dropped.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    core: Arc<Core>,
    incarnation: Incarnation,
    asks: mpsc::Receiver<Ask>,
    frozen: Option<Frozen>,
}

impl Checkpointer {
    pub(crate) fn new(
        core: Arc<Core>,
        incarnation: Incarnation,
        asks: mpsc::Receiver<Ask>,
    ) -> Self {
        Self {
            core,
            incarnation,
            asks,
            frozen: None,
        }
    }

    pub(crate) async fn run(mut self) {
        let period = self.core.settings.checkpoint_interval;
        let mut interval = tokio::time::interval_at(Instant::now() + period, period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Set after a failure that may pass. Until the next tick or request, memory pressure is
        // then ignored, so that the disk is not retried in a tight loop.
        let mut held = false;
        let core = Arc::clone(&self.core);
        loop {
            let done = tokio::select! {
                biased;
                ask = self.asks.recv() => match ask {
                    // The closing caller has stopped waiting; the log has everything.
                    Some(ask) if ask.last && ask.reply.is_closed() => return,
                    Some(ask) => {
                        let done = self.checkpoint().await;
                        // The receiver may be dropped.
                        let _ = ask.reply.send(done.clone());
                        if ask.last {
                            return;
                        }
                        done
                    }
                    None => return,
                },
                () = core.pressure.notified(), if !held => self.checkpoint().await,
                _ = interval.tick() => self.checkpoint().await,
            };
            held = match done {
                Ok(()) => false,
                Err(error) if error.is_passing() => {
                    tracing::warn!(%error, "a checkpoint failed and will be tried again");
                    true
                }
                Err(error) => {
                    core.fail(error);
                    true
                }
            };
        }
    }

    async fn checkpoint(&mut self) -> Result<(), StorageError> {
        if let Some(error) = self.core.failure.get() {
            return Err(error);
        }
        // The entries of a failed checkpoint first: no others can be frozen before they are stored.
        if let Some(frozen) = self.frozen.take()
            && let Err(error) = self.store(&frozen).await
        {
            self.frozen = Some(frozen);
            return Err(error);
        }
        if let Some(frozen) = self.freeze()
            && let Err(error) = self.store(&frozen).await
        {
            self.frozen = Some(frozen);
            return Err(error);
        }
        Ok(())
    }

    /// Freezes the active entries, unless the store has everything that was applied.
    fn freeze(&self) -> Option<Frozen> {
        let mut applying = locked(&self.core.applying);
        if applying.progress().position == locked(&self.core.stored).applied {
            return None;
        }
        Some(Frozen {
            meta: StoreMeta::at(self.core.log_id, applying.progress()),
            entries: self.core.memory.freeze(),
            unstored: applying.take_unstored(),
        })
    }

    async fn store(&self, frozen: &Frozen) -> Result<(), StorageError> {
        let began = Instant::now();
        let entries = frozen.entries.iter().flat_map(|shard| shard.iter());
        let batch = CheckpointBatch {
            meta: frozen.meta.clone(),
            changes: entries
                .map(|(key, entry)| (key.clone(), entry.clone()))
                .collect(),
            forgotten: frozen.unstored.forgotten,
            rows: frozen.unstored.rows(),
            outcomes: frozen.unstored.outcomes.clone(),
            // By the clock of the log alone: the clock of a process may be ahead of it, and is lost
            // with the process. Older ids would then be accepted again.
            request_horizon: RequestId::horizon(frozen.meta.clock),
        };
        let count = batch.changes.len();
        let stored = self.core.store.checkpoint(self.incarnation, batch).await;
        let shortage = (stored.as_ref().err()).filter(|error| error.is_shortage());
        let is_short = shortage.is_some();
        let before = std::mem::replace(&mut *locked(&self.core.shortage), shortage.cloned());
        if before.is_some() != is_short {
            // Writers that wait for room must be refused, or continue, at once.
            self.core.room.notify_waiters();
        }
        stored?;
        self.core.open_snapshots.checkpointed();
        self.core.memory.settle();
        self.core
            .unstored_places
            .fetch_sub(frozen.unstored.outcome_places, Ordering::Relaxed);
        let applied = frozen.meta.applied;
        {
            let mut stored = locked(&self.core.stored);
            stored.applied = applied;
            stored.last_checkpoint = Some(Instant::now());
        }
        self.core.log.release(applied.index);
        self.core.room.notify_waiters();
        metrics::histogram!(CHECKPOINT_SECONDS).record(began.elapsed());
        tracing::debug!(%applied, entries = count, took = ?began.elapsed(), "checkpoint stored");
        Ok(())
    }
}
