//! [`DataNode`]: starts the parts of a data node, and stops them.

use std::{net::SocketAddr, sync::Arc};

use futures::FutureExt;
use tierkv_cache::Cache;
use tierkv_coordination::{
    Coordination, CoordinationError, PresenceKeeper,
    directory::{self, Presence},
};
use tierkv_protocol::replication::{CommandQueue, Process, Replica, Restored, Seen, StateError};
use tierkv_rpc::{
    Acceptor, Addressed, Background, Counted, ListenError, ProcessName, TierTimes, drain, listen,
    proto::internal::{data_node_server::DataNodeServer, member_server::MemberServer},
    serve_builder,
    session::FRAME_SLACK,
    stopped,
    tiers::MAX_TIER_FRAME_BYTES,
};
use tierkv_storage::{MemoryLimits, RealDisk, Storage, StorageError};
use tierkv_types::{Clock, Incarnation, limits::MAX_ANSWER_BYTES};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tonic::service::Routes;

use crate::{
    applier::{Applier, ApplierHandle},
    door::Door,
    driver::Driver,
    failure::Failure,
    gauges::Gauges,
    invalidator::{Invalidator, Message},
    log_work::LogWork,
    members::{Inbox, MAX_MEMBER_FRAME_BYTES, Members, Received, inbox},
    memory_settings::MemorySettingsFollower,
    noter::Noter,
    ownership::{Owned, PlacementFollower},
    platform_clock::PlatformClock,
    reads::TIER,
    reclaimer::Reclaimer,
    rules::Rules,
    scrubber::Scrubber,
    sequencer::Sequencer,
    service::Service,
    settings::DataNodeSettings,
    timekeeper::Timekeeper,
    watches::Watches,
};

/// Why a data node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory can't be used: the disk failed, or its data is damaged or not readable by
    /// this release.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The data directory's copy of the cluster state can't be decoded.
    #[error("the cluster state in the data directory: {0}")]
    State(#[from] StateError),
    /// The coordination store failed or refused a request of the start.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
    /// The node can't listen on its address.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// A running data node.
pub struct DataNode {
    address: SocketAddr,
    name: ProcessName,
    sequencer: Arc<Sequencer>,
    owned: Arc<Owned>,
    storage: Arc<Storage>,
    time: Arc<PlatformClock>,
    /// Ends the listener when it becomes true. Requests in progress then get 2 s.
    drain: watch::Sender<bool>,
    failed: watch::Receiver<Option<String>>,
    serving: JoinHandle<()>,
    background: Background,
    presence: PresenceKeeper,
}

impl DataNode {
    /// Recovers the data directory, listens, and tries to become master.
    ///
    /// # Errors
    /// [`StartError`]; its text is for operators.
    pub async fn start<C: Cache>(
        settings: DataNodeSettings,
        coordination: Arc<dyn Coordination>,
        cache: Arc<C>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let (mut own, process) = identity(&settings);
        let RecoveredNode {
            storage,
            time,
            owned,
            sequencer,
            commands,
        } = recover(&settings, process.incarnation, Arc::clone(&clock)).await?;
        let (listener, address) = listen(settings.listen).await?;
        own.address = (settings.advertise.clone()).unwrap_or_else(|| address.to_string());
        let (group, name) = (directory::DATA_NODES, settings.node.as_str());
        let presence =
            PresenceKeeper::start(coordination.clone(), group, name, own.clone()).await?;
        let mut background = Background::new();
        background
            .follow(PlacementFollower::watch(&*coordination, Arc::clone(&owned)).await?)
            .await;
        let own_limits = settings.storage.memory;
        let memory_settings =
            MemorySettingsFollower::watch(&*coordination, Arc::clone(&storage), own_limits).await?;
        let parts = Parts {
            settings,
            storage,
            time,
            sequencer,
            owned,
            memory: memory_settings.in_force(),
            failure: Failure::new(),
            presence: own,
        };
        background.follow(memory_settings).await;
        parts.run_workers(&mut background);
        let applier = parts.apply(cache, clock, &mut background);
        let (drain, draining) = watch::channel(false);
        let (inbox, received) = inbox(draining.clone());
        let driver = (applier, commands, received);
        let failed = parts.drive(coordination, driver, process.clone(), &mut background);
        let limits = &parts.settings;
        let (connections, stream_bytes) = (limits.connections, limits.stream_bytes);
        let acceptor = Acceptor::of_peers(listener, "datanode", connections, stream_bytes);
        let door = parts.door(draining.clone());
        let serving = serve(door, inbox, process.clone(), acceptor, draining);
        let serving = tokio::spawn(parts.failure.watch("listener", serving));
        Ok(Self {
            address,
            name: process,
            sequencer: parts.sequencer,
            owned: parts.owned,
            storage: parts.storage,
            time: parts.time,
            drain,
            failed,
            serving,
            background,
            presence,
        })
    }

    /// The address it listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its full name, which calls between tiers carry.
    #[must_use]
    pub const fn name(&self) -> &ProcessName {
        &self.name
    }

    /// Whether it can do its work.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        Readiness {
            sequencer: Arc::clone(&self.sequencer),
            owned: Arc::clone(&self.owned),
        }
    }

    /// Waits until the node fails, or another process takes its name; returns the reason. The
    /// process must then stop.
    pub async fn failed(&self) -> String {
        tokio::select! {
            biased;
            why = self.driver_failed() => why,
            why = self.presence.taken() => why,
        }
    }

    async fn driver_failed(&self) -> String {
        let mut failed = self.failed.clone();
        let why = failed.wait_for(Option::is_some).await;
        let why = why.ok().and_then(|why| why.clone());
        // Without a reason, all its tasks have ended.
        why.unwrap_or_else(|| "the data node has stopped".to_owned())
    }

    /// Refuses new requests, gives those in progress 2 s to finish (the rest is aborted), takes a
    /// last checkpoint, and closes the log.
    ///
    /// # Errors
    /// [`StorageError`] if the last checkpoint or the log failed; every acknowledged write is
    /// durable in the log anyway.
    pub async fn stop(self) -> Result<(), StorageError> {
        self.presence.leave().await;
        self.drain.send_replace(true);
        drain(self.serving).await;
        self.background.stop().await;
        if !self.time.is_founding() {
            let stored = self.storage.store_time(self.time.reading()).await;
            // On a full disk the time stored seconds ago remains; other failures return below.
            drop(stored);
        }
        self.storage.close().await
    }
}

/// The presence of this process, without its address yet, and its full name.
fn identity(settings: &DataNodeSettings) -> (Presence, ProcessName) {
    let presence = Presence {
        cluster: Some(settings.cluster.clone()),
        ..Presence::of_this_process(String::new())
    };
    let process = ProcessName {
        platform: settings.platform,
        cluster: Some(settings.cluster.clone()),
        node: settings.node.clone(),
        incarnation: Incarnation(presence.incarnation),
    };
    (presence, process)
}

/// Whether a data node can do its work. Cheap to clone.
#[derive(Clone)]
pub struct Readiness {
    sequencer: Arc<Sequencer>,
    owned: Arc<Owned>,
}

impl Readiness {
    /// Whether it is master of its cluster, may answer as such, and has applied which slots the
    /// cluster owns.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.sequencer.confirm(|_| ()).is_ok() && self.owned.is_settled()
    }
}

/// What a start recovers from the data directory: the storage, the clock, and the sequencer with
/// the replication state machine.
struct RecoveredNode {
    storage: Arc<Storage>,
    time: Arc<PlatformClock>,
    owned: Arc<Owned>,
    sequencer: Arc<Sequencer>,
    /// Empty at the start.
    commands: CommandQueue,
}

/// Recovers the data directory.
async fn recover(
    settings: &DataNodeSettings,
    incarnation: Incarnation,
    clock: Arc<dyn Clock>,
) -> Result<RecoveredNode, StartError> {
    let started_at = clock.boot_time();
    let rules = Rules::default();
    let (storage, recovered) = Storage::open(settings.storage.clone(), Arc::new(RealDisk)).await?;
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
    let cluster = settings.cluster.clone();
    let time = PlatformClock::start(cluster, clock, recovered.time, recovered.clock, rules);
    let time = Arc::new(time.await);
    let commands = CommandQueue::new(restored.promised, restored.last.index, restored.applied);
    let process = Process {
        node: settings.node.clone(),
        incarnation,
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
    Ok(RecoveredNode {
        storage,
        time,
        owned,
        sequencer: Arc::new(sequencer),
        commands,
    })
}

/// What all parts of a node share.
struct Parts {
    settings: DataNodeSettings,
    storage: Arc<Storage>,
    time: Arc<PlatformClock>,
    sequencer: Arc<Sequencer>,
    owned: Arc<Owned>,
    /// The memory tier's limits in force.
    memory: watch::Receiver<MemoryLimits>,
    failure: Failure,
    /// This process.
    presence: Presence,
}

impl Parts {
    fn run_workers(&self, background: &mut Background) {
        background.run(Gauges::new(Arc::clone(&self.storage), self.memory.clone()));
        background.run(Timekeeper::new(
            Arc::clone(&self.time),
            Arc::clone(&self.storage),
        ));
        background.run(Scrubber::new(Arc::clone(&self.storage)));
        background.run(Reclaimer::new(
            Arc::clone(&self.sequencer),
            Arc::clone(&self.storage),
            self.settings.storage.log_retention,
        ));
    }

    /// Starts the invalidator, which ends when its sender is dropped, at the end of the applier.
    fn invalidate<C: Cache>(
        &self,
        cache: Arc<C>,
        clock: Arc<dyn Clock>,
        background: &mut Background,
    ) -> mpsc::Sender<Message> {
        let invalidator = Invalidator::new(
            cache,
            self.settings.cluster.clone(),
            clock,
            self.settings.invalidation_wait,
        );
        let (sender, invalidating) = invalidator.start();
        let invalidating = invalidating.map(Ok);
        let failure = self.failure.clone();
        background.spawn("invalidator", failure.watch("invalidator", invalidating));
        sender
    }

    /// Starts the applier, which ends when its handle is dropped, at the end of the driver.
    fn apply<C: Cache>(
        &self,
        cache: Arc<C>,
        clock: Arc<dyn Clock>,
        background: &mut Background,
    ) -> ApplierHandle {
        let invalidator = self.invalidate(cache, clock, background);
        let applier = Applier::new(
            Arc::clone(&self.sequencer),
            Arc::clone(&self.storage),
            Arc::clone(&self.owned),
            invalidator,
        );
        let (handle, applying) = applier.start();
        let applying = self.failure.clone().watch("applier", applying.map(Ok));
        background.spawn("applier", applying);
        handle
    }

    /// Starts the driver, which tries to become master and commits. The returned receiver gets
    /// the reason when any task fails that the node can't do without.
    fn drive(
        &self,
        coordination: Arc<dyn Coordination>,
        (applier, commands, received): (ApplierHandle, CommandQueue, mpsc::Receiver<Received>),
        own: ProcessName,
        background: &mut Background,
    ) -> watch::Receiver<Option<String>> {
        let (compared, is_compared) = watch::channel(false);
        background.run(Noter::new(
            (self.settings.cluster.clone(), self.settings.node.clone()),
            Arc::clone(&coordination),
            Arc::clone(&self.sequencer),
            Arc::clone(&self.storage),
            is_compared,
        ));
        let driver = Driver {
            cluster: self.settings.cluster.clone(),
            node: self.settings.node.clone(),
            sequencer: Arc::clone(&self.sequencer),
            storage: Arc::clone(&self.storage),
            coordination,
            applier,
            commands,
            rules: Rules::default(),
            log_work: LogWork::default(),
            members: Members::new(
                own,
                Arc::clone(&self.sequencer),
                Arc::clone(&self.storage),
                Arc::clone(&self.time),
            ),
            received,
            compared,
        };
        let driving = driver.run(background.stopping());
        let failure = self.failure.clone();
        background.spawn("driver", failure.watch("driver", driving));
        self.failure.subscribe()
    }

    /// The gRPC service, served until `stop` is set.
    fn door(&self, stop: watch::Receiver<bool>) -> Door {
        Door {
            watches: Watches::new(
                self.settings.cluster.clone(),
                Arc::clone(&self.sequencer),
                Arc::clone(&self.storage),
            ),
            service: Arc::new(Service {
                node: Arc::new(self.settings.node.clone()),
                cluster: self.settings.cluster.to_string(),
                sequencer: Arc::clone(&self.sequencer),
                storage: Arc::clone(&self.storage),
                owned: Arc::clone(&self.owned),
                memory: self.memory.clone(),
                presence: self.presence.clone(),
                times: TierTimes::of(TIER),
            }),
            stop,
        }
    }
}

/// Serves until `stop` is set and all requests in progress have finished.
///
/// # Errors
/// The reason why it can't serve any more.
async fn serve(
    door: Door,
    inbox: Inbox,
    name: ProcessName,
    acceptor: Acceptor,
    stop: watch::Receiver<bool>,
) -> Result<(), String> {
    let service = DataNodeServer::new(door)
        .max_decoding_message_size(MAX_TIER_FRAME_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES + FRAME_SLACK);
    let inbox = MemberServer::new(inbox).max_decoding_message_size(MAX_MEMBER_FRAME_BYTES);
    let routes = Routes::new(service).add_service(inbox).prepare();
    serve_builder()
        .serve_with_incoming_shutdown(
            Addressed::new(Counted(routes), &name),
            acceptor.connections(),
            stopped(stop),
        )
        .await
        .map_err(|error| format!("the data node's listener failed: {error}"))
}
