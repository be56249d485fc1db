//! Keeps the cache tier consistent: deletes changed keys, then writes the marks.
//!
//! One task takes committed changes in log order. It waits at most
//! [`DataNodeSettings::invalidation_wait`] for the cache to confirm their deletes. After that
//! the writers are answered anyway, and the deletes are retried (CACHE-DELETE). No mark is
//! written past an undelivered delete (CACHE-MARK), so entries that a lost delete left behind
//! become too old to be used.
//!
//! [`DataNodeSettings::invalidation_wait`]: crate::DataNodeSettings::invalidation_wait

use std::{future::Future, sync::Arc, time::Duration};

use metrics::{Counter, counter};
use tierkv_cache::{Cache, CacheKey};
use tierkv_protocol::cache::{MarkWriter, REDELIVERY_WINDOW};
use tierkv_types::{BootTime, Clock, ClusterId, Epoch, Index, ItemKey, Round};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    rules::{Rule, Rules},
    sequencer::Settling,
};

/// Most messages in the invalidator's queue; when it is full, the applier waits.
const QUEUE: usize = 256;
/// Most messages handled together.
const BATCH: usize = 256;
/// Most keys whose deletes are to be retried. Over it all of them are dropped, and no mark is
/// written until every entry that they could have left behind is too old to be used.
const MAX_UNDELIVERED: usize = 1 << 20;
/// Most keys in one retry.
const KEYS_PER_DELIVERY: usize = 1_024;
/// Pause between two retries.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A key that a record changed.
#[derive(Clone, Debug)]
pub(crate) struct ChangedKey {
    pub(crate) key: ItemKey,
    /// The revision of its slot at that record. Cache entries that the change made outdated are
    /// kept under it, wherever the slot moved since (CACHE-KEY).
    pub(crate) slot_revision: u64,
}

/// A message to the invalidator.
pub(crate) enum Message {
    /// A term began.
    Term(Epoch),
    /// These keys changed; everything up to the index is applied.
    Changed {
        keys: Vec<ChangedKey>,
        up_to: Index,
        settling: Settling,
    },
    /// A round was vouched.
    Vouched { round: Round, commit: Index },
}

/// Deletes changed keys from the cache and writes the marks of one cluster.
pub(crate) struct Invalidator<C> {
    cache: Arc<C>,
    cluster: ClusterId,
    clock: Arc<dyn Clock>,
    wait: Duration,
    rules: Rules,
    /// The term this node holds, and its marks.
    epoch: Option<Epoch>,
    marks: Option<MarkWriter>,
    /// Keys whose deletes not every cache node confirmed.
    undelivered: Vec<ChangedKey>,
    late: Counter,
    applied: Index,
}

impl<C: Cache> Invalidator<C> {
    /// `wait`: how long it waits for the cache to confirm deletes before it lets writers be
    /// answered anyway.
    pub(crate) fn new(
        cache: Arc<C>,
        cluster: ClusterId,
        clock: Arc<dyn Clock>,
        wait: Duration,
    ) -> Self {
        metrics::describe_counter!(
            "tierkv_invalidations_undelivered_total",
            "Deletes that the cache tier did not confirm in time; they are delivered again."
        );
        Self {
            cache,
            cluster,
            clock,
            wait,
            rules: Rules::default(),
            epoch: None,
            marks: None,
            undelivered: Vec::new(),
            late: counter!("tierkv_invalidations_undelivered_total"),
            applied: Index::ZERO,
        }
    }

    /// This invalidator under other rules.
    #[cfg(test)]
    pub(crate) fn under(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// Returns its sender and its task, which ends when the sender is dropped.
    pub(crate) fn start(self) -> (mpsc::Sender<Message>, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (sender, self.run(receiver))
    }

    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut batch = Vec::with_capacity(BATCH);
        // An interval, not a sleep in the loop: each heartbeat would restart the sleep.
        let mut retry = interval(RETRY_PAUSE);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let owing = !self.undelivered.is_empty();
            tokio::select! {
                // First: ticks are rare, so messages do not wait long for them.
                biased;
                _ = retry.tick(), if owing => self.deliver_again().await,
                count = messages.recv_many(&mut batch, BATCH) => match count {
                    0 => return,
                    _ => self.take(&mut batch).await,
                },
            }
            self.write_mark().await;
        }
    }

    async fn take(&mut self, batch: &mut Vec<Message>) {
        let (mut changed, mut waiting, mut rounds) = (Vec::new(), Vec::new(), Vec::new());
        for message in batch.drain(..) {
            match message {
                Message::Term(epoch) => self.begin_term(epoch).await,
                Message::Changed {
                    keys,
                    up_to,
                    settling,
                } => {
                    changed.extend(keys);
                    waiting.push(settling);
                    self.applied = self.applied.max(up_to);
                }
                Message::Vouched { round, commit } => rounds.push((round, commit)),
            }
        }
        if self.rules.lack(Rule::DeletesBeforeAnswers) {
            waiting.drain(..).for_each(Settling::done);
        }
        if !self.delete(&changed).await && !self.rules.lack(Rule::DeletesRepeated) {
            self.owe(changed);
        }
        waiting.into_iter().for_each(Settling::done);
        self.report_delivered();
        if let Some(marks) = &mut self.marks {
            rounds
                .into_iter()
                .for_each(|(round, commit)| marks.vouched(round, commit));
        }
    }

    /// Earlier masters may have failed to deliver deletes, and a new master can't retry these.
    /// So it withholds its marks until every entry they left behind is too old to be used. An
    /// empty cache has no such entries, so there nothing is withheld (CACHE-REDELIVER).
    async fn begin_term(&mut self, epoch: Epoch) {
        let marks = match timeout(self.wait, self.cache.holds_anything()).await {
            Ok(false) => MarkWriter::new(epoch),
            _ if self.rules.lack(Rule::MarksWithheld) => MarkWriter::new(epoch),
            Ok(true) | Err(_) => MarkWriter::withheld(epoch, self.after_redelivery_window()),
        };
        self.epoch = Some(epoch);
        self.marks = Some(marks);
    }

    fn after_redelivery_window(&self) -> BootTime {
        self.clock.boot_time().after(REDELIVERY_WINDOW)
    }

    /// Deletes keys from the cache; returns whether every owner confirmed in time.
    async fn delete(&self, keys: &[ChangedKey]) -> bool {
        if keys.is_empty() {
            return true;
        }
        let keys: Vec<CacheKey<'_>> = (keys.iter())
            .map(|changed| CacheKey {
                item: changed.key.as_bytes(),
                slot_revision: changed.slot_revision,
            })
            .collect();
        matches!(
            timeout(self.wait, self.cache.delete(&keys)).await,
            Ok(Ok(()))
        )
    }

    /// Retries some of the undelivered deletes, outside of the writers' path.
    async fn deliver_again(&mut self) {
        let rest = self.undelivered.len().saturating_sub(KEYS_PER_DELIVERY);
        if self.delete(&self.undelivered[rest..]).await {
            self.undelivered.truncate(rest);
            self.report_delivered();
        }
    }

    fn owe(&mut self, keys: Vec<ChangedKey>) {
        self.late.increment(keys.len() as u64);
        self.undelivered.extend(keys);
        if self.undelivered.len() > MAX_UNDELIVERED {
            tracing::warn!(
                keys = self.undelivered.len(),
                "the cache tier confirms no deletes; its entries are not used for a while"
            );
            self.undelivered = Vec::new();
            let until = self.after_redelivery_window();
            self.marks = self.epoch.map(|epoch| MarkWriter::withheld(epoch, until));
        }
    }

    /// If no delete is undelivered, reports to the marks that everything applied is deleted.
    fn report_delivered(&mut self) {
        if let Some(marks) = &mut self.marks
            && (self.undelivered.is_empty() || self.rules.lack(Rule::MarksAfterDeletes))
        {
            marks.delivered(self.applied);
        }
    }

    async fn write_mark(&mut self) {
        let now = self.clock.boot_time();
        let Some(marks) = &mut self.marks else { return };
        let Some(mark) = marks.due(now) else { return };
        // A mark that was not written is due again with the next round.
        if let Ok(Ok(())) = timeout(self.wait, self.cache.write_mark(&self.cluster, mark)).await {
            marks.written(&mark);
        }
    }
}
