//! Checkpoints: write pinned entries to the store, then let log segments be removed.
//!
//! STORE-CHECKPOINT: between two applied records the active entries are frozen; A is the
//! index of the last applied record. The frozen entries and the log's state at A are written
//! in one transaction, which fails if another incarnation has claimed the store. Only when it
//! is durable do the entries become evictable and the segments up to A removable. A retry
//! after a failed checkpoint writes the same frozen entries.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

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
/// Longest time between two looks whether a checkpoint is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of log that the store lacks over which a checkpoint is due: the next start reads them all.
const UNSTORED_LOG_BYTES: u64 = 256 << 20;
/// It is due earlier if they are this part of the log's limit, as they can't leave the log.
const UNSTORED_LOG_PART: u64 = 4;

/// Entries frozen for the store, and the log's state at that moment.
#[derive(Clone, Debug)]
struct Frozen {
    meta: StoreMeta,
    entries: Vec<FrozenEntries>,
    unstored: Arc<Unstored>,
}

impl Frozen {
    /// What the store is to write, in the order of the keys. May take some 100 ms.
    fn batch(&self) -> CheckpointBatch {
        let entries = self.entries.iter().flat_map(|shard| shard.iter());
        let mut changes: Vec<_> = entries
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect();
        changes.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        CheckpointBatch {
            meta: self.meta.clone(),
            changes,
            forgotten: self.unstored.forgotten,
            rows: self.unstored.rows(),
            outcomes: self.unstored.outcomes.clone(),
            // By the clock of the log alone: the clock of a process may be ahead of it, and is lost
            // with the process. Older ids would then be accepted again.
            request_horizon: RequestId::horizon(self.meta.clock),
        }
    }
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
    /// When the last one began.
    last: Instant,
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
            last: Instant::now(),
        }
    }

    pub(crate) async fn run(mut self) {
        let period = self.core.settings.checkpoint_interval.min(LOOK_INTERVAL);
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
                _ = interval.tick() => match held || self.is_due() {
                    true => self.checkpoint().await,
                    false => continue,
                },
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

    /// Whether it is time for one, or the store lacks much of the log.
    fn is_due(&self) -> bool {
        let settings = &self.core.settings;
        let bytes = UNSTORED_LOG_BYTES.min(settings.log_limit_bytes / UNSTORED_LOG_PART);
        let stored = locked(&self.core.stored).applied.index;
        self.last.elapsed() >= settings.checkpoint_interval
            || self.core.log.retention().bytes_after(stored) >= bytes
    }

    async fn checkpoint(&mut self) -> Result<(), StorageError> {
        self.last = Instant::now();
        if let Some(error) = self.core.failure.get() {
            return Err(error);
        }
        // The entries of a failed checkpoint first: no others can be frozen before they are stored.
        if let Some(frozen) = self.frozen.take() {
            self.finish(frozen).await?;
        }
        if let Some(frozen) = self.freeze() {
            self.finish(frozen).await?;
        }
        Ok(())
    }

    /// Stores the frozen entries, and keeps them for another attempt if that fails.
    async fn finish(&mut self, frozen: Frozen) -> Result<(), StorageError> {
        if let Err(error) = self.store(&frozen).await {
            self.frozen = Some(frozen);
            return Err(error);
        }
        // Freeing many entries takes long, too.
        let freeing = move || {
            drop(frozen);
            Ok(())
        };
        self.core.blocking.run(freeing).await
    }

    /// Freezes the active entries, unless the store has everything that was applied.
    fn freeze(&self) -> Option<Frozen> {
        let mut applying = locked(&self.core.applying);
        if applying.progress().position == locked(&self.core.stored).applied {
            return None;
        }
        // Under the lock, so that the expiries are those of what is frozen.
        (self.core.unstored_expiry).store(u64::MAX, Ordering::Relaxed);
        // What asked for a checkpoint until now gets this one.
        pin!(self.core.pressure.notified()).enable();
        Some(Frozen {
            meta: StoreMeta::at(self.core.log_id, applying.progress()),
            entries: self.core.memory.freeze(),
            unstored: Arc::new(applying.take_unstored()),
        })
    }

    async fn store(&self, frozen: &Frozen) -> Result<(), StorageError> {
        let began = Instant::now();
        let blocking = self.core.blocking;
        let taken = frozen.clone();
        let batch = blocking.run(move || Ok(taken.batch())).await?;
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
        let core = Arc::clone(&self.core);
        blocking
            .run(move || {
                core.memory.settle();
                Ok(())
            })
            .await?;
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
