//! [`Engine`]: everything of a data node that is made from its data directory.
//!
//! A node whose log can't continue the master's replaces its whole state by a snapshot. Nothing
//! that was made from the old state may go on then: not the storage, nor the clock, the machine,
//! the applier, the workers, the watches, or an open stream of requests. So all of it is one value,
//! which is started from the directory, ended as a whole, and started again:
//!
//! ```text
//!  data directory ──open──► Opened ──start──► Engine ──end──► data directory
//!                                               │
//!                                       (interface) ◄── requests, readiness
//! ```
//!
//! What stays is in [`DataNode`](crate::DataNode): the listener, the address, the presence and the
//! process name.

#[cfg(test)]
mod tests;

use std::{future::pending, sync::Arc};

use futures::FutureExt;
use tierkv_cache::Cache;
use tierkv_coordination::{Coordination, CoordinationError, directory::Presence};
use tierkv_protocol::replication::{CommandQueue, Process, Replica, Restored, Seen};
use tierkv_rpc::{Background, ProcessName, TierTimes};
use tierkv_storage::{Disk, MemoryLimits, Storage, StorageError};
use tierkv_types::{Clock, LogId, Position, TimeReading};
use tokio::sync::{mpsc, watch};

use crate::{
    applier::{Applier, ApplierHandle},
    commit_index::CommitIndex,
    confirming::Confirming,
    driver::{Driver, SnapshotWanted},
    failure::Failure,
    gauges::Gauges,
    interface::Interface,
    invalidator::{Invalidator, Message},
    log_work::LogWork,
    members::{Members, Peers, Received, inbox},
    memory_settings::MemorySettingsFollower,
    noter::Noter,
    orders::{OrderBook, Orders, orders},
    ownership::{Owned, PlacementFollower},
    platform_clock::PlatformClock,
    reads::TIER,
    reclaimer::Reclaimer,
    rules::Rules,
    scrubber::Scrubber,
    sequencer::Sequencer,
    service::Service,
    settings::DataNodeSettings,
    standing::Standing,
    start_error::StartError,
    timekeeper::Timekeeper,
    transfer::{Joiners, JoinersWorker, Relief, SnapshotSource},
    watches::Watches,
};

/// What outlives an engine, and what each engine of the node is started with.
pub(crate) struct Surroundings<C> {
    pub(crate) settings: DataNodeSettings,
    /// The full name of this process, and its presence in coordination.
    pub(crate) name: ProcessName,
    pub(crate) presence: Presence,
    pub(crate) coordination: Arc<dyn Coordination>,
    pub(crate) cache: Arc<C>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Has the data directory.
    pub(crate) disk: Arc<dyn Disk>,
    /// Gets the reason when any task fails that the node can't do without.
    pub(crate) failure: Failure,
}

/// What is recovered from the data directory. No task runs yet but those of the storage.
pub(crate) struct Opened {
    storage: Arc<Storage>,
    time: Arc<PlatformClock>,
    owned: Arc<Owned>,
    sequencer: Arc<Sequencer>,
    /// Empty at the start.
    commands: CommandQueue,
}

impl Opened {
    /// Recovers the data directory on `disk`. Platform time goes on from `time`, else from what is stored.
    ///
    /// # Errors
    /// [`StartError::Storage`] and [`StartError::State`].
    pub(crate) async fn open(
        settings: &DataNodeSettings,
        name: &ProcessName,
        clock: Arc<dyn Clock>,
        disk: Arc<dyn Disk>,
        time: Option<TimeReading>,
    ) -> Result<Self, StartError> {
        let started_at = clock.boot_time();
        let storage = Storage::open(settings.storage.clone(), disk);
        let (storage, recovered) = storage.await?;
        let seen = recovered.cluster_state.as_deref();
        let restored = Restored {
            log_id: recovered.log_id,
            last: recovered.last,
            epochs: recovered.epochs,
            commit: recovered.commit,
            applied: recovered.applied,
            promised: recovered.promised,
            seen: seen.map(Seen::decode).transpose()?,
        };
        let time = PlatformClock::start(
            settings.cluster.clone(),
            clock,
            time.or(recovered.time),
            recovered.clock,
            Rules::default(),
        );
        let time = Arc::new(time.await);
        let commands = CommandQueue::new(restored.promised, restored.last.index, restored.applied);
        let process = Process {
            node: name.node.clone(),
            incarnation: name.incarnation,
        };
        let replica = Replica::start(process, restored, started_at);
        let owned = Arc::new(Owned::new(settings.cluster.clone(), &recovered.owned));
        let sequencer = Sequencer::new(
            replica,
            recovered.clock,
            recovered.tail,
            Arc::clone(&storage),
            Arc::clone(&time),
            Arc::clone(&owned),
        );
        Ok(Self {
            storage,
            time,
            owned,
            sequencer: Arc::new(sequencer),
            commands,
        })
    }

    /// The log's id and its last record.
    pub(crate) fn log(&self) -> (LogId, Position) {
        let last = *self.storage.durable().borrow();
        (self.storage.log_id(), last)
    }

    /// Closes the directory.
    pub(crate) async fn close(self) {
        // Nothing was written that could be lost.
        drop(self.storage.close().await);
    }
}

/// What follows records of coordination.
struct Followers {
    placement: PlacementFollower,
    memory: MemorySettingsFollower,
}

impl Followers {
    async fn watch<C>(
        opened: &Opened,
        around: &Surroundings<C>,
    ) -> Result<Self, CoordinationError> {
        let coordination = &*around.coordination;
        let (owned, storage) = (Arc::clone(&opened.owned), Arc::clone(&opened.storage));
        let own_limits = around.settings.storage.memory;
        Ok(Self {
            placement: PlacementFollower::watch(coordination, owned).await?,
            memory: MemorySettingsFollower::watch(coordination, storage, own_limits).await?,
        })
    }
}

/// Everything of a data node that is made from its data directory.
pub(crate) struct Engine {
    storage: Arc<Storage>,
    time: Arc<PlatformClock>,
    interface: Arc<Interface>,
    background: Background,
    snapshot_wanted: watch::Sender<Option<SnapshotWanted>>,
}

impl Engine {
    /// Starts all tasks over an opened directory.
    ///
    /// # Errors
    /// [`StartError::Coordination`]; the directory is closed then.
    pub(crate) async fn start<C: Cache>(
        opened: Opened,
        around: &Surroundings<C>,
    ) -> Result<Self, StartError> {
        match Followers::watch(&opened, around).await {
            Ok(followers) => Ok(Self::run(opened, around, followers).await),
            Err(error) => {
                opened.close().await;
                Err(error.into())
            }
        }
    }

    async fn run<C: Cache>(opened: Opened, around: &Surroundings<C>, followers: Followers) -> Self {
        let Opened {
            storage,
            time,
            owned,
            sequencer,
            commands,
        } = opened;
        let mut background = Background::new();
        let memory = followers.memory.in_force();
        background.follow(followers.placement).await;
        background.follow(followers.memory).await;
        let parts = Parts {
            around,
            storage,
            time,
            sequencer,
            owned,
            memory,
            joiners: Arc::new(Joiners::default()),
        };
        parts.run_workers(&mut background);
        let applier = parts.apply(&mut background);
        let (inbox, received) = inbox();
        let peers = Peers::default();
        let (orders, book) = orders();
        let interface = parts.interface(inbox, peers.clone(), orders);
        let members = (received, peers);
        let snapshot_wanted = parts.drive(applier, commands, members, book, &mut background);
        Self {
            interface: Arc::new(interface),
            storage: parts.storage,
            time: parts.time,
            background,
            snapshot_wanted,
        }
    }

    /// Waits until the log can't continue the master's; returns the snapshot that the node needs
    /// (REP-JOIN). Cancelling it loses nothing.
    pub(crate) async fn snapshot_wanted(&self) -> SnapshotWanted {
        let mut wanted = self.snapshot_wanted.subscribe();
        let found = wanted.wait_for(Option::is_some).await;
        match found.ok().and_then(|wanted| wanted.clone()) {
            Some(wanted) => wanted,
            // The sender lives as long as this engine.
            None => pending().await,
        }
    }

    /// Waits until the node needs another snapshot than this one.
    pub(crate) async fn other_snapshot_wanted(&self, than: &SnapshotWanted) {
        let mut wanted = self.snapshot_wanted.subscribe();
        let is_other = |it: &Option<SnapshotWanted>| it.as_ref().is_some_and(|it| it != than);
        // The sender lives as long as this engine.
        drop(wanted.wait_for(is_other).await);
    }

    /// Forgets the snapshot that was wanted: the driver asks again if the node still needs one.
    pub(crate) fn want_again(&self) {
        self.snapshot_wanted.send_replace(None);
    }

    /// What requests use.
    pub(crate) const fn interface(&self) -> &Arc<Interface> {
        &self.interface
    }

    /// Ends the streams of requests, stops all tasks, takes a last checkpoint, and closes the log.
    ///
    /// # Errors
    /// [`StorageError`] if the last checkpoint or the log failed; every acknowledged write is
    /// durable in the log anyway.
    pub(crate) async fn end(self) -> Result<(), StorageError> {
        self.interface.end_streams();
        self.background.stop().await;
        // Nobody commits any more what still waits for it.
        self.interface.service.sequencer.stepped_down();
        if !self.time.is_founding() {
            let stored = self.storage.store_time(self.time.reading()).await;
            // On a full disk the time stored seconds ago remains; other failures return below.
            drop(stored);
        }
        self.storage.close().await
    }
}

/// The parts of an engine while it is put together.
struct Parts<'a, C> {
    around: &'a Surroundings<C>,
    storage: Arc<Storage>,
    time: Arc<PlatformClock>,
    sequencer: Arc<Sequencer>,
    owned: Arc<Owned>,
    /// The memory tier's limits in force.
    memory: watch::Receiver<MemoryLimits>,
    joiners: Arc<Joiners>,
}

impl<C: Cache> Parts<'_, C> {
    fn run_workers(&self, background: &mut Background) {
        background.run(Gauges::new(Arc::clone(&self.storage), self.memory.clone()));
        background.run(Standing::new(
            Arc::clone(&self.sequencer),
            Arc::clone(&self.owned),
        ));
        background.run(Timekeeper::new(
            Arc::clone(&self.time),
            Arc::clone(&self.storage),
        ));
        background.run(Scrubber::new(Arc::clone(&self.storage)));
        background.run(Reclaimer::new(
            Arc::clone(&self.sequencer),
            Arc::clone(&self.storage),
            self.around.settings.storage.log_retention,
        ));
        background.run(JoinersWorker::new(
            Arc::clone(&self.joiners),
            Arc::clone(&self.sequencer),
        ));
    }

    /// Starts the invalidator, which ends when its sender is dropped, at the end of the applier.
    fn invalidate(&self, background: &mut Background) -> mpsc::Sender<Message> {
        let invalidator = Invalidator::new(
            Arc::clone(&self.around.cache),
            self.around.settings.cluster.clone(),
            Arc::clone(&self.around.clock),
            self.around.settings.invalidation_wait,
        );
        let (sender, invalidating) = invalidator.start();
        let invalidating = invalidating.map(Ok);
        let failure = self.around.failure.clone();
        background.spawn("invalidator", failure.watch("invalidator", invalidating));
        sender
    }

    /// Starts the applier, which ends when its handle is dropped, at the end of the driver.
    fn apply(&self, background: &mut Background) -> ApplierHandle {
        let invalidator = self.invalidate(background);
        let applier = Applier::new(
            Arc::clone(&self.sequencer),
            Arc::clone(&self.storage),
            Arc::clone(&self.owned),
            invalidator,
        );
        let (handle, applying) = applier.start();
        let failure = self.around.failure.clone();
        background.spawn("applier", failure.watch("applier", applying.map(Ok)));
        handle
    }

    /// Starts the driver, which tries to become master and commits. What is returned gets the
    /// snapshot that the node needs.
    fn drive(
        &self,
        applier: ApplierHandle,
        commands: CommandQueue,
        (received, peers): (mpsc::Receiver<Received>, Peers),
        orders: OrderBook,
        background: &mut Background,
    ) -> watch::Sender<Option<SnapshotWanted>> {
        let snapshot_wanted = watch::Sender::new(None);
        let wanted = snapshot_wanted.clone();
        let settings = &self.around.settings;
        let (cluster, node) = (settings.cluster.clone(), settings.node.clone());
        let (compared, is_compared) = watch::channel(false);
        background.run(Noter::new(
            (cluster.clone(), node.clone()),
            Arc::clone(&self.around.coordination),
            Arc::clone(&self.sequencer),
            Arc::clone(&self.storage),
            is_compared,
        ));
        let driver = Driver {
            cluster,
            node,
            sequencer: Arc::clone(&self.sequencer),
            storage: Arc::clone(&self.storage),
            coordination: Arc::clone(&self.around.coordination),
            applier,
            commands,
            rules: Rules::default(),
            log_work: LogWork::default(),
            members: Members::new(
                self.around.name.clone(),
                Arc::clone(&self.sequencer),
                Arc::clone(&self.storage),
                Arc::clone(&self.time),
                peers,
            ),
            received,
            compared,
            snapshot_wanted,
            orders,
        };
        let driving = driver.run(background.stopping());
        let failure = self.around.failure.clone();
        background.spawn("driver", failure.watch("driver", driving));
        wanted
    }

    fn interface(&self, inbox: mpsc::Sender<Received>, peers: Peers, orders: Orders) -> Interface {
        let settings = &self.around.settings;
        let watches = Watches::new(
            settings.cluster.clone(),
            Arc::clone(&self.sequencer),
            Arc::clone(&self.storage),
        );
        let confirming = Confirming::new(
            Arc::clone(&self.sequencer),
            Arc::clone(&self.storage),
            CommitIndex::new(Arc::clone(&self.sequencer), peers),
        );
        let relief = Relief::new(settings.cluster.clone(), orders.clone());
        let service = Service {
            confirming: Arc::new(confirming),
            node: Arc::new(settings.node.clone()),
            cluster: settings.cluster.to_string(),
            sequencer: Arc::clone(&self.sequencer),
            orders,
            storage: Arc::clone(&self.storage),
            owned: Arc::clone(&self.owned),
            memory: self.memory.clone(),
            presence: self.around.presence.clone(),
            times: TierTimes::of(TIER),
        };
        let snapshots = SnapshotSource {
            cluster: settings.cluster.clone(),
            name: self.around.name.clone(),
            sequencer: Arc::clone(&self.sequencer),
            storage: Arc::clone(&self.storage),
            time: Arc::clone(&self.time),
            joiners: Arc::clone(&self.joiners),
            relief,
        };
        Interface::new(service, watches, snapshots, inbox)
    }
}
