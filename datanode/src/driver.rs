//! Carries out the replication machine's commands and reports the results back as events.
//!
//! One task runs the loop. Slow commands (a promise, a swap, a read of the record) run
//! concurrently and return an event, so commits never wait for coordination. A command waits
//! until its condition holds; it does not wait for the commands before it.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use tierkv_coordination::{
    Coordination, CoordinationError, Revision, Swap, Versioned, Watched, directory,
};
use tierkv_protocol::replication::{
    ClusterState, Command, CommandQueue, Event, HEARTBEAT_INTERVAL, SwapOutcome,
};
use tierkv_storage::{Effects, Storage};
use tierkv_types::{ClusterId, Epoch, Index, Position, Record};
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, MissedTickBehavior, interval, sleep},
};

use crate::{
    invalidator::{ChangedKey, Message},
    ownership::{Owned, Ownership},
    rules::{Rule, Rules},
    sequencer::Sequencer,
};

/// Pause before a failed request to coordination is retried.
const COORDINATION_PAUSE: Duration = Duration::from_millis(100);
/// Pause before a promise that the disk had no space for is retried.
const PROMISE_PAUSE: Duration = Duration::from_millis(200);

type Work = Pin<Box<dyn Future<Output = Result<Event, String>> + Send>>;

/// The driver of one node's machine.
pub(crate) struct Driver {
    pub(crate) cluster: ClusterId,
    pub(crate) sequencer: Arc<Sequencer>,
    pub(crate) storage: Arc<Storage>,
    pub(crate) coordination: Arc<dyn Coordination>,
    pub(crate) invalidator: mpsc::Sender<Message>,
    pub(crate) owned: Arc<Owned>,
    /// Commands that are not carried out yet.
    pub(crate) commands: CommandQueue,
    pub(crate) rules: Rules,
    /// The record that opens the term, while the log has no space for it (LOG-SPACE).
    pub(crate) unopened: Option<Position>,
}

impl Driver {
    /// Runs until `stop` is set (`Ok`) or the node must halt (the reason).
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), String> {
        let key = directory::cluster_state(&self.cluster);
        let mut record = self
            .coordination
            .watch(&key)
            .await
            .map_err(|e| e.to_string())?;
        let mut durable = self.storage.durable();
        let mut ticks = interval(HEARTBEAT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut work: FuturesUnordered<Work> = FuturesUnordered::new();
        let mut event = observed(&record)?;
        loop {
            self.step(event, &mut work).await?;
            event = tokio::select! {
                // Rare events first, so that frequent ones can't starve them.
                biased;
                () = stopped(&mut stop) => return Ok(()),
                // The store can fail while the log is sound; `durable` would not report that.
                error = self.storage.failed() => return Err(error.to_string()),
                _ = ticks.tick() => Event::Tick,
                changed = record.changed() => {
                    changed.map_err(|error| error.to_string())?;
                    observed(&record)?
                }
                Some(done) = work.next() => done?,
                changed = durable.changed() => match changed {
                    Ok(()) => Event::Durable(*durable.borrow_and_update()),
                    Err(_) => return Err(self.storage.failed().await.to_string()),
                },
            };
        }
    }

    async fn step(
        &mut self,
        event: Event,
        work: &mut FuturesUnordered<Work>,
    ) -> Result<(), String> {
        match &event {
            Event::Promised(epoch) => self.commands.promised(*epoch),
            Event::Durable(position) => self.commands.durable(position.index),
            Event::Tick => self.append_unopened()?,
            _ => {}
        }
        let mut commands = Vec::new();
        self.sequencer.step(event, &mut commands);
        self.commands.extend(commands);
        while let Some(command) = self.commands.take_ready() {
            self.carry_out(command, work).await?;
        }
        Ok(())
    }

    async fn carry_out(
        &mut self,
        command: Command,
        work: &mut FuturesUnordered<Work>,
    ) -> Result<(), String> {
        match command {
            Command::Promise { epoch, seen } => work.push(self.promise(epoch, seen)),
            Command::Swap { expected, state } => work.push(self.swap(expected, &state)),
            Command::Read => work.push(self.read()),
            Command::AppendNoop(position) => {
                self.open_term(position).await;
                self.append_unopened()?;
                if self.unopened.is_some() {
                    tracing::warn!(
                        cluster = %self.cluster,
                        "the log has no space for the record that opens the term, so the cluster \
                         serves nothing; it is tried again"
                    );
                }
            }
            Command::Commit(index) => self.commit(index).await,
            Command::Vouched { round, commit } => {
                self.send(Message::Vouched { round, commit }).await;
            }
            Command::Halt(why) => return Err(why),
        }
        Ok(())
    }

    async fn open_term(&mut self, position: Position) {
        tracing::info!(cluster = %self.cluster, epoch = %position.epoch, "took mastership");
        self.send(Message::Term(position.epoch)).await;
        self.unopened = Some(position);
    }

    /// Appends the record that opens the term, if that is still to be done. A log without space
    /// is tried again at each heartbeat.
    fn append_unopened(&mut self) -> Result<(), String> {
        let Some(position) = self.unopened else {
            return Ok(());
        };
        match self.sequencer.append_noop(position) {
            Ok(()) => self.unopened = None,
            Err(error) if error.is_passing() => {
                tracing::debug!(%error, "the record that opens the term is not logged yet");
            }
            Err(error) => return Err(error.to_string()),
        }
        Ok(())
    }

    /// Applies committed records, then sends their keys, each with the revision of its slot at
    /// its record, to the invalidator, which deletes them from the cache and then lets the writers
    /// be answered.
    async fn commit(&mut self, index: Index) {
        let records = self.sequencer.release(index);
        self.rules.seam().await;
        let keys = self.changed_keys(&records);
        let settling = if self.rules.lack(Rule::AppliedFirst) {
            let settling = self.sequencer.applied(&records, index);
            self.rules.seam().await;
            self.apply(&records).await;
            settling
        } else {
            self.apply(&records).await;
            self.rules.seam().await;
            self.sequencer.applied(&records, index)
        };
        self.send(Message::Changed {
            keys,
            up_to: index,
            settling,
        })
        .await;
        self.commands.applied(index);
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
            self.rules.seam().await;
            self.owned.apply(slots);
        }
    }

    async fn send(&self, message: Message) {
        // The invalidator ends only after this sender is dropped.
        drop(self.invalidator.send(message).await);
    }

    /// Makes a promise durable, once there is space for it (REP-PROMISE).
    fn promise(&self, epoch: Epoch, seen: Option<ClusterState>) -> Work {
        let storage = Arc::clone(&self.storage);
        if self.rules.lack(Rule::PromisesKept) {
            return Box::pin(async move { Ok(Event::Promised(epoch)) });
        }
        Box::pin(async move {
            let seen = seen.map(|state| state.encode());
            loop {
                match storage.promise(epoch, seen.clone()).await {
                    Ok(()) => return Ok(Event::Promised(epoch)),
                    // A full disk: wait for space. The machine acts only on a durable promise.
                    Err(error) if error.is_passing() => {
                        tracing::warn!(%error, "a promise could not be stored; it is retried");
                        sleep(PROMISE_PAUSE).await;
                    }
                    Err(error) => return Err(error.to_string()),
                }
            }
        })
    }

    fn swap(&self, expected: u64, state: &ClusterState) -> Work {
        let coordination = Arc::clone(&self.coordination);
        let key = directory::cluster_state(&self.cluster);
        let value: Bytes = state.encode();
        let rules = self.rules;
        Box::pin(async move {
            let swapped = coordination
                .compare_and_swap(&key, Revision(expected), value)
                .await;
            let outcome = match swapped {
                Ok(Swap::Won(revision)) => SwapOutcome::Won(revision.0),
                Ok(Swap::Lost) => SwapOutcome::Lost,
                Err(error @ CoordinationError::InvalidArgument(_)) => return Err(error.to_string()),
                Err(_) if rules.lack(Rule::UnknownIsUnknown) => SwapOutcome::Won(expected + 1),
                // `Unavailable` too: the machine swaps again after an unknown outcome.
                Err(error) => {
                    tracing::warn!(%error, "a swap of the cluster state failed; it is retried");
                    sleep(COORDINATION_PAUSE).await;
                    SwapOutcome::Unknown
                }
            };
            Ok(Event::Swapped(outcome))
        })
    }

    fn read(&self) -> Work {
        let coordination = Arc::clone(&self.coordination);
        let key = directory::cluster_state(&self.cluster);
        Box::pin(async move {
            loop {
                match coordination.get(&key).await {
                    Ok(record) => return decode(record.as_ref()).map(Event::Read),
                    Err(error) => {
                        tracing::warn!(%error, "reading the cluster state failed; it is retried");
                        sleep(COORDINATION_PAUSE).await;
                    }
                }
            }
        })
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A dropped sender: the node is gone.
    drop(stop.wait_for(|stop| *stop).await);
}

fn observed(record: &Watched<Option<Versioned>>) -> Result<Event, String> {
    decode(record.current().as_ref().as_ref()).map(Event::Observed)
}

fn decode(record: Option<&Versioned>) -> Result<Option<(u64, ClusterState)>, String> {
    let Some(Versioned { value, revision }) = record else {
        return Ok(None);
    };
    let state = ClusterState::decode(value).map_err(|error| error.to_string())?;
    Ok(Some((revision.0, state)))
}
