//! Carries out the replication machine's commands and reports the results back as events.
//!
//! One task runs the loop. It steps the machine and hands the commands over, and waits for nothing
//! but the next event, so no disk and no cache delays a heartbeat round. Slow commands (a promise,
//! a swap, a read of the record, a cut of the log) run concurrently and return an event; the applier
//! applies commits and reports how far it is. A command waits until its condition holds; it does not
//! wait for the commands before it. Only what changes the end of the log is done in order, and is
//! tried again while the log can't take it ([`LogWork`]).

use std::{collections::BTreeMap, fmt::Display, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::{
    FutureExt,
    stream::{FuturesUnordered, StreamExt},
};
use tierkv_coordination::{
    Coordination, CoordinationError, Revision, Swap, Versioned, Watched, directory,
};
use tierkv_protocol::replication::{
    ClusterState, Command, CommandQueue, Event, HEARTBEAT_INTERVAL, Message, Process, Seen,
    SwapOutcome,
};
use tierkv_storage::{Storage, StorageError, TruncateError};
use tierkv_types::{ClusterId, Epoch, NodeId, Position};
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, Interval, MissedTickBehavior, sleep},
};

use crate::{
    applier::ApplierHandle,
    log_work::{LogChange, LogWork},
    members::{Members, Received},
    noter::{NoteError, old_copy, read_note},
    orders::OrderBook,
    rules::{Rule, Rules},
    sequencer::Sequencer,
};

/// Pause before a failed request to coordination is retried.
const COORDINATION_PAUSE: Duration = Duration::from_millis(100);
/// Pause before a promise, or a cut of the log, that the disk had no space for is tried again.
const SPACE_PAUSE: Duration = Duration::from_millis(200);

type Work = Pin<Box<dyn Future<Output = Result<Event, String>> + Send>>;

/// A snapshot that a node needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotWanted {
    /// The master whose state it is.
    pub(crate) source: Process,
    /// Whether the node's own state is another history: the driver has ended then.
    pub(crate) contradicts: bool,
}

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
    /// What is still to be done with the end of the log, in order.
    pub(crate) log_work: LogWork,
    /// The links to the other nodes, and what arrives from them.
    pub(crate) members: Members,
    pub(crate) received: mpsc::Receiver<Received>,
    /// Set once the log was compared with its note.
    pub(crate) compared: watch::Sender<bool>,
    /// Set if this node needs a snapshot: its engine is then replaced.
    pub(crate) snapshot_wanted: watch::Sender<Option<SnapshotWanted>>,
    /// What operators want.
    pub(crate) orders: OrderBook,
}

impl Driver {
    /// Runs until `stop` is set or the node's state turns out to be another history than its
    /// master's (`Ok`), or it must halt (the reason).
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), String> {
        let key = directory::cluster_state(&self.cluster);
        let mut record = self
            .coordination
            .watch(&key)
            .await
            .map_err(|e| e.to_string())?;
        let nodes = self.coordination.observe(directory::DATA_NODES).await;
        let mut nodes = nodes.map_err(|error| error.to_string())?;
        let mut durable = self.storage.durable();
        let mut ticks = ticks(HEARTBEAT_INTERVAL);
        let mut work: FuturesUnordered<Work> = FuturesUnordered::new();
        work.push(self.compare_note());
        let present = self.present(&nodes);
        self.step(present, &mut work)?;
        self.step(observed(&record)?, &mut work)?;
        while !self.is_of_other_history() {
            let event = tokio::select! {
                // Rare events first, so that frequent ones can't starve them.
                biased;
                () = stopped(&mut stop) => return Ok(()),
                // The store can fail while the log is sound; `durable` would not report that.
                error = self.storage.failed() => return Err(error.to_string()),
                _ = ticks.tick() => {
                    let interval = self.sequencer.heartbeat_interval();
                    if interval != ticks.period() {
                        ticks = self::ticks(interval);
                    }
                    Event::Tick
                }
                changed = nodes.changed() => {
                    changed.map_err(|error| error.to_string())?;
                    self.present(&nodes)
                }
                changed = record.changed() => {
                    changed.map_err(|error| error.to_string())?;
                    observed(&record)?
                }
                Some(done) = work.next() => done?,
                order = self.orders.next() => order,
                applied = self.applier.applied() => Event::Applied(applied),
                changed = durable.changed() => match changed {
                    Ok(()) => Event::Durable(*durable.borrow_and_update()),
                    Err(_) => return Err(self.storage.failed().await.to_string()),
                },
                Some(received) = self.received.recv() => {
                    self.receive(received, &mut work)?;
                    continue;
                }
            };
            self.step(event, &mut work)?;
        }
        Ok(())
    }

    fn is_of_other_history(&self) -> bool {
        let wanted = self.snapshot_wanted.borrow();
        wanted.as_ref().is_some_and(|wanted| wanted.contradicts)
    }

    /// Follows the presences of the data nodes.
    fn present(&mut self, nodes: &Watched<BTreeMap<String, Bytes>>) -> Event {
        Event::Present(self.members.follow(&nodes.current()))
    }

    /// Handles a frame of another node.
    fn receive(
        &mut self,
        received: Received,
        work: &mut FuturesUnordered<Work>,
    ) -> Result<(), String> {
        let Received {
            from,
            time,
            messages,
        } = received;
        self.sequencer.notice_member(&time);
        for message in messages {
            if let Message::Append(append) = &message {
                if self.log_work.is_full() && !append.records.is_empty() {
                    // Lost, as far as the machine knows: the disk is full. It is sent again.
                    continue;
                }
                self.sequencer.merge(append.clock);
            }
            self.step(Event::Received(from.clone(), message), work)?;
        }
        self.sequencer.hear(&from, &time);
        Ok(())
    }

    fn step(&mut self, event: Event, work: &mut FuturesUnordered<Work>) -> Result<(), String> {
        match &event {
            Event::Observed(Some(seen)) if !seen.state.has(&self.node) => {
                work.push(self.check_removed());
            }
            Event::Promised(epoch) => self.commands.promised(*epoch),
            Event::Durable(position) => self.commands.durable(position.index),
            Event::Applied(index) => self.commands.applied(*index),
            Event::Cut(position) => {
                self.commands.cut(position.index);
                self.log_work.is_cut();
            }
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
        self.work_on_log(work)
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
                self.sequencer.took_over();
                self.applier.begin_term(position.epoch);
                self.log_work.push(LogChange::Noop(position));
            }
            Command::Append(records) => self.log_work.push(LogChange::Records(records)),
            Command::Cut(position) => self.log_work.push(LogChange::Cut(position)),
            Command::Commit(index) => self.applier.commit(index),
            Command::Vouched {
                epoch,
                round,
                commit,
            } => self.applier.vouched(epoch, round, commit),
            Command::Send { to, message } => self.members.send(&to, message),
            Command::GaveUp(epoch) => tracing::error!(
                cluster = %self.cluster,
                %epoch,
                "the log's disk took nothing for as long as a master may be silent, so this node \
                 gives mastership up, and another member takes over; look at this node's disk"
            ),
            Command::SteppedDown(epoch) => {
                tracing::warn!(cluster = %self.cluster, %epoch, "lost mastership");
                self.sequencer.stepped_down();
                self.applier.end_term();
            }
            Command::Install {
                source,
                contradicts,
            } => {
                let wanted = Some(SnapshotWanted {
                    source,
                    contradicts,
                });
                // It is repeated until there is a snapshot.
                self.snapshot_wanted.send_if_modified(|before| {
                    let is_new = *before != wanted;
                    *before = wanted;
                    is_new
                });
            }
            Command::Changed { id, result } => self.orders.changed(id, result),
            Command::HandedOver { id, result } => self.orders.handed_over(id, result),
            Command::Wait(epoch) => tracing::error!(
                cluster = %self.cluster,
                seen_epoch = %epoch,
                "coordination's record of the cluster is older than one that a node has seen: an old \
                 backup was restored. The node waits: bring the newest data of the coordination \
                 store back, or continue with the nodes' logs: `tierkv admin recover --cluster`"
            ),
            Command::Halt(why) => return Err(why),
        }
        Ok(())
    }

    /// Does what is to be done with the end of the log, in order. What the log can't take now is
    /// tried again at the next event: at the latest at the next heartbeat.
    fn work_on_log(&mut self, work: &mut FuturesUnordered<Work>) -> Result<(), String> {
        while let Some(change) = self.log_work.next() {
            let done = match change {
                LogChange::Noop(position) => self.sequencer.append_noop(*position),
                LogChange::Records(records) => match self.storage.room().now_or_never() {
                    Some(()) => self.sequencer.append_received(records),
                    // The disk is slow: neither memory nor the log's queue may grow.
                    None => return Ok(()),
                },
                LogChange::Cut(position) => {
                    let position = *position;
                    self.sequencer.cut(position);
                    work.push(self.cut(position));
                    self.log_work.is_cutting();
                    return Ok(());
                }
            };
            match done {
                Ok(()) => self.log_work.done(),
                Err(error) if error.is_passing() => {
                    self.log_work.report(&self.cluster, &error);
                    return Ok(());
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// Cuts the log after a position (REP-JOIN).
    fn cut(&self, position: Position) -> Work {
        let storage = Arc::clone(&self.storage);
        Box::pin(async move {
            let cut = || storage.truncate(position);
            let is_passing = |error: &TruncateError| match error {
                TruncateError::Storage(error) => error.is_passing(),
                _ => false,
            };
            let why = "the log could not be cut; it is tried again";
            once_there_is_space(why, cut, is_passing).await?;
            Ok(Event::Cut(position))
        })
    }

    /// Makes a promise durable, once there is space for it (REP-PROMISE).
    fn promise(&self, epoch: Epoch, seen: Option<Seen>) -> Work {
        let storage = Arc::clone(&self.storage);
        if self.rules.lack(Rule::PromisesKept) {
            return Box::pin(async move { Ok(Event::Promised(epoch)) });
        }
        Box::pin(async move {
            let seen = seen.map(|seen| seen.encode());
            let promise = || storage.promise(epoch, seen.clone());
            let why = "a promise could not be stored; it is retried";
            once_there_is_space(why, promise, StorageError::is_passing).await?;
            Ok(Event::Promised(epoch))
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

    /// Ends the node if the record does not list it any more. A watch may show an old record, so it
    /// is read.
    fn check_removed(&self) -> Work {
        let (cluster, node, reading) = (self.cluster.clone(), self.node.clone(), self.read());
        // A record from before the node was added shows that coordination went back.
        let newest = (self.sequencer).look(|replica, _| replica.seen().map(Seen::order));
        Box::pin(async move {
            match reading.await? {
                Event::Read(Some(seen))
                    if !seen.state.has(&node) && Some(seen.order()) >= newest =>
                {
                    Err(format!(
                        "node {node} was removed from cluster {cluster}, so its process stops; its data \
                     directory is not needed any more. `tierkv admin add-node --cluster {cluster} \
                     --node {node}` brings it back"
                    ))
                }
                // Not as an answer to the machine's own question, which may have been asked later.
                Event::Read(record) => Ok(Event::Observed(record)),
                other => Ok(other),
            }
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

/// Does work on the disk, again and again while there is no space for it: the machine acts only on
/// what is durable. `why` is logged then.
async fn once_there_is_space<E: Display, F: Future<Output = Result<(), E>>>(
    why: &str,
    work: impl Fn() -> F,
    is_passing: impl Fn(&E) -> bool,
) -> Result<(), String> {
    loop {
        match work().await {
            Ok(()) => return Ok(()),
            Err(error) if is_passing(&error) => {
                tracing::warn!(%error, "{why}");
                sleep(SPACE_PAUSE).await;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// A ticker for heartbeats.
fn ticks(interval: Duration) -> Interval {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
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
