//! Checkpoints: what memory pins goes to the store, then whole log segments may go.
//!
//! STORE-CHECKPOINT: between two applied records the active entries are frozen, with the
//! index A of the last one. Frozen entries and where the log stood at A are written in
//! one transaction, which this process's incarnation must still own. Only when that is
//! durable do the entries become evictable and the segments up to A removable. A
//! checkpoint that failed and may be tried again writes the same frozen entries again.

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

/// How many askers for an explicit checkpoint may wait in line.
pub(crate) const CHECKPOINT_ASKERS: usize = 64;

/// Entries set aside for the store, and where the log stood at them.
#[derive(Debug)]
struct Frozen {
    meta: StoreMeta,
    entries: Vec<FrozenEntries>,
    unstored: Unstored,
}

/// An explicit wish for a checkpoint.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) reply: oneshot::Sender<Result<(), StorageError>>,
    /// Whether it is the last one.
    pub(crate) last: bool,
}

/// The task that makes the checkpoints, one after the other. Nothing cancels it: it ends
/// after the last one asked for, or once all who could ask are gone.
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
        // After a failure that passes, memory's pressure alone asks in vain until the
        // next tick: the disk would be tried in a tight loop.
        let mut held = false;
        let core = Arc::clone(&self.core);
        loop {
            let done = tokio::select! {
                biased;
                ask = self.asks.recv() => match ask {
                    // Who closes has given up waiting: the log has it all.
                    Some(ask) if ask.last && ask.reply.is_closed() => return,
                    Some(ask) => {
                        let done = self.checkpoint().await;
                        // Whoever asked may have gone away meanwhile.
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
        // One that failed before comes first: until it is stored nothing can be frozen.
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

    /// Sets the active entries aside, if the store has not all of what was applied.
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
            // By the log alone: the clock of a process that ran ahead of it is lost with the
            // process, and then older ids count again.
            request_horizon: RequestId::horizon(frozen.meta.clock),
        };
        let count = batch.changes.len();
        let stored = self.core.store.checkpoint(self.incarnation, batch).await;
        let shortage = (stored.as_ref().err()).filter(|error| error.is_shortage());
        let is_short = shortage.is_some();
        let before = std::mem::replace(&mut *locked(&self.core.shortage), shortage.cloned());
        if before.is_some() != is_short {
            // Writers that wait for room are to be refused, or let on, at once.
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
