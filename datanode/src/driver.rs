//! Carries out the replication machine's commands and reports the results back as events.
//!
//! One task runs the loop. It steps the machine and hands the commands over, and waits for nothing
//! but the next event, so no disk and no cache delays a heartbeat round. Slow commands (a promise,
//! a swap, a read of the record) run concurrently and return an event; the applier applies commits
//! and reports how far it is. A command waits until its condition holds; it does not wait for the
//! commands before it.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use tierkv_coordination::{
    Coordination, CoordinationError, Revision, Swap, Versioned, Watched, directory,
};
use tierkv_protocol::replication::{
    ClusterState, Command, CommandQueue, Event, HEARTBEAT_INTERVAL, Seen, SwapOutcome,
};
use tierkv_storage::Storage;
use tierkv_types::{ClusterId, Epoch, NodeId, Position};
use tokio::{
    sync::watch,
    time::{Duration, MissedTickBehavior, interval, sleep},
};

use crate::{
    applier::ApplierHandle,
    noter::{NoteError, old_copy, read_note},
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
    pub(crate) node: NodeId,
    pub(crate) sequencer: Arc<Sequencer>,
    pub(crate) storage: Arc<Storage>,
    pub(crate) coordination: Arc<dyn Coordination>,
    pub(crate) applier: ApplierHandle,
    /// Commands that are not carried out yet.
    pub(crate) commands: CommandQueue,
    pub(crate) rules: Rules,
    /// The record that opens the term, while the log has no space for it (LOG-SPACE).
    pub(crate) unopened: Option<Position>,
    /// Set once the log was compared with its note.
    pub(crate) compared: watch::Sender<bool>,
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
        work.push(self.compare_note());
        let mut event = observed(&record)?;
        loop {
            self.step(event, &mut work)?;
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
                applied = self.applier.applied() => Event::Applied(applied),
                changed = durable.changed() => match changed {
                    Ok(()) => Event::Durable(*durable.borrow_and_update()),
                    Err(_) => return Err(self.storage.failed().await.to_string()),
                },
            };
        }
    }

    fn step(&mut self, event: Event, work: &mut FuturesUnordered<Work>) -> Result<(), String> {
        match &event {
            Event::Observed(Some(seen)) | Event::Read(Some(seen)) => {
                self.check_members(&seen.state)?;
            }
            Event::Promised(epoch) => self.commands.promised(*epoch),
            Event::Durable(position) => self.commands.durable(position.index),
            Event::Applied(index) => self.commands.applied(*index),
            Event::Tick => self.append_unopened()?,
            Event::Compared => {
                self.compared.send_replace(true);
            }
            _ => {}
        }
        let mut commands = Vec::new();
        self.sequencer.step(event, &mut commands);
        self.commands.extend(commands);
        while let Some(command) = self.commands.take_ready() {
            self.carry_out(command, work)?;
        }
        Ok(())
    }

    /// Checks that this node is the cluster's only one: nodes do not talk to each other yet.
    fn check_members(&self, state: &ClusterState) -> Result<(), String> {
        let nodes = state.members.iter().chain(&state.learners);
        let nodes: Vec<&str> = nodes.map(NodeId::as_str).collect();
        match nodes[..] == [self.node.as_str()] {
            true => Ok(()),
            false => Err(format!(
                "the record names the members {}, and this node is {}; this release runs clusters \
                 of one member",
                nodes.join(", "),
                self.node
            )),
        }
    }

    fn carry_out(
        &mut self,
        command: Command,
        work: &mut FuturesUnordered<Work>,
    ) -> Result<(), String> {
        match command {
            Command::Promise { epoch, seen } => work.push(self.promise(epoch, seen)),
            Command::Swap {
                number,
                expected,
                state,
            } => work.push(self.swap(number, expected, &state)),
            Command::Read => work.push(self.read()),
            Command::AppendNoop(position) => {
                tracing::info!(cluster = %self.cluster, epoch = %position.epoch, "took mastership");
                self.applier.begin_term(position.epoch);
                self.unopened = Some(position);
                self.append_unopened()?;
                if self.unopened.is_some() {
                    tracing::warn!(
                        cluster = %self.cluster,
                        "the log has no space for the record that opens the term, so the cluster \
                         serves nothing; it is tried again"
                    );
                }
            }
            Command::Commit(index) => self.applier.commit(index),
            Command::Vouched { round, commit } => self.applier.vouched(round, commit),
            Command::SteppedDown(epoch) => {
                tracing::warn!(cluster = %self.cluster, %epoch, "lost mastership");
                self.sequencer.stepped_down();
            }
            // Nobody asks for these in a cluster of one member.
            Command::Append(_)
            | Command::Cut(_)
            | Command::Send { .. }
            | Command::Install(_)
            | Command::Changed { .. }
            | Command::HandedOver { .. } => {
                return Err(format!("{command:?} in a cluster of one member"));
            }
            Command::Halt(why) => return Err(why),
        }
        Ok(())
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

    /// Makes a promise durable, once there is space for it (REP-PROMISE).
    fn promise(&self, epoch: Epoch, seen: Option<Seen>) -> Work {
        let storage = Arc::clone(&self.storage);
        if self.rules.lack(Rule::PromisesKept) {
            return Box::pin(async move { Ok(Event::Promised(epoch)) });
        }
        Box::pin(async move {
            let seen = seen.map(|seen| seen.encode());
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

    fn swap(&self, number: u64, expected: u64, state: &ClusterState) -> Work {
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
            Ok(Event::Swapped(number, outcome))
        })
    }

    /// Compares the log with its note. A log that lacks what was noted is an old copy (REP-LOGID).
    fn compare_note(&self) -> Work {
        let coordination = Arc::clone(&self.coordination);
        let (cluster, node) = (self.cluster.clone(), self.node.clone());
        let (log_id, last) = (self.storage.log_id(), *self.storage.durable().borrow());
        Box::pin(async move {
            loop {
                match read_note(&*coordination, &cluster, &node).await {
                    Ok(Some(note)) if note.contradicts(log_id, last.index) => {
                        return Err(old_copy(&node, &note, last));
                    }
                    Ok(_) => return Ok(Event::Compared),
                    Err(error @ NoteError::Unreadable(_)) => return Err(error.to_string()),
                    Err(error) => {
                        tracing::warn!(%error, "reading the log's note failed; it is retried");
                        sleep(COORDINATION_PAUSE).await;
                    }
                }
            }
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

fn decode(record: Option<&Versioned>) -> Result<Option<Seen>, String> {
    let Some(Versioned { value, revision }) = record else {
        return Ok(None);
    };
    let state = ClusterState::decode(value).map_err(|error| error.to_string())?;
    Ok(Some(Seen {
        revision: revision.0,
        state,
    }))
}
