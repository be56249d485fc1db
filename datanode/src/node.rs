//! [`DataNode`]: the shell around an [`Engine`], with what stays when the engine is replaced.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tierkv_cache::Cache;
use tierkv_coordination::{
    Coordination, PresenceKeeper,
    directory::{self, Presence},
};
use tierkv_rpc::{
    Acceptor, Addressed, Counted, ProcessName, drain, listen,
    proto::internal::{
        commit_index_server::CommitIndexServer, data_node_server::DataNodeServer,
        member_server::MemberServer, node_snapshots_server::NodeSnapshotsServer,
        orders_server::OrdersServer,
    },
    serve_builder,
    session::FRAME_SLACK,
    stopped,
    tiers::MAX_TIER_FRAME_BYTES,
};
use tierkv_storage::{Disk, RealDisk, StorageError};
use tierkv_types::{Clock, limits::MAX_ANSWER_BYTES};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tonic::service::Routes;

use crate::{
    door::Door,
    engine::{Engine, Surroundings},
    engine_keeper::EngineKeeper,
    failure::Failure,
    interface::Current,
    leaving::leave,
    members::{Inbox, MAX_MEMBER_FRAME_BYTES},
    rejoining::open_to_rejoin,
    settings::DataNodeSettings,
    snapshot_door::SnapshotDoor,
    start_error::StartError,
};

/// How long a stopping node goes on for the requests in progress.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// A running data node.
pub struct DataNode {
    address: SocketAddr,
    name: ProcessName,
    current: Current,
    /// Ends the keeper of the engine when it becomes true; the engine then serves on.
    keep: watch::Sender<bool>,
    keeping: JoinHandle<Option<Engine>>,
    /// Ends the listener when it becomes true. Requests in progress then get 2 s.
    drain: watch::Sender<bool>,
    failed: watch::Receiver<Option<String>>,
    serving: JoinHandle<()>,
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
        Self::start_on(Arc::new(RealDisk), settings, coordination, cache, clock).await
    }

    /// As [`DataNode::start`], with the data directory on this disk.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_on<C: Cache>(
        disk: Arc<dyn Disk>,
        settings: DataNodeSettings,
        coordination: Arc<dyn Coordination>,
        cache: Arc<C>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let (mut own, name) = identity(&settings);
        let opened = open_to_rejoin(&settings, &name, &coordination, (&clock, None), &disk).await?;
        let (listener, address) = listen(settings.listen).await?;
        own.address = (settings.advertise.clone()).unwrap_or_else(|| address.to_string());
        let (group, node) = (directory::DATA_NODES, settings.node.as_str());
        let presence =
            PresenceKeeper::start(coordination.clone(), group, node, own.clone()).await?;
        let failure = Failure::new();
        let (connections, stream_bytes) = (settings.connections, settings.stream_bytes);
        let around = Surroundings {
            settings,
            name: name.clone(),
            presence: own.clone(),
            coordination,
            cache,
            clock,
            disk,
            failure: failure.clone(),
        };
        let engine = Engine::start(opened, &around).await?;
        let (publish, current) = Current::none();
        let keeper = EngineKeeper::new(around, engine, publish);
        let (keep, kept) = watch::channel(false);
        let (drain, draining) = watch::channel(false);
        let acceptor = Acceptor::of_peers(listener, "datanode", connections, stream_bytes);
        let serving = serve(
            current.clone(),
            own.clone(),
            name.clone(),
            acceptor,
            draining,
        );
        let failed = failure.subscribe();
        Ok(Self {
            address,
            name,
            current,
            keep,
            keeping: tokio::spawn(keeper.run(kept)),
            drain,
            failed,
            serving: tokio::spawn(failure.watch("listener", serving)),
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
        Readiness(self.current.clone())
    }

    /// Waits until the node fails, or another process takes its name; returns the reason. The
    /// process must then stop.
    pub async fn failed(&self) -> String {
        tokio::select! {
            biased;
            why = self.task_failed() => why,
            why = self.presence.taken() => why,
        }
    }

    async fn task_failed(&self) -> String {
        let mut failed = self.failed.clone();
        let why = failed.wait_for(Option::is_some).await;
        let why = why.ok().and_then(|why| why.clone());
        // Without a reason, all its tasks have ended.
        why.unwrap_or_else(|| "the data node has stopped".to_owned())
    }

    /// Hands its mastership over, refuses new requests, gives those in progress 2 s to finish (the
    /// rest is aborted), takes a last checkpoint, and closes the log.
    ///
    /// # Errors
    /// [`StorageError`] if the last checkpoint or the log failed; every acknowledged write is
    /// durable in the log anyway.
    pub async fn stop(self) -> Result<(), StorageError> {
        // No engine: a snapshot is being installed, so another node is master.
        if let Ok(interface) = self.current.now() {
            leave(&interface.service).await;
        }
        self.presence.leave().await;
        self.keep.send_replace(true);
        // A panic was reported when it happened.
        let engine = self.keeping.await.unwrap_or_default();
        self.drain.send_replace(true);
        let ended = match engine {
            Some(engine) => {
                engine.interface().end_streams();
                // The engine goes on meanwhile: a write may wait for another node's log.
                drop(timeout(ANSWER_TIME, engine.interface().streams_ended()).await);
                engine.end().await
            }
            // The directory has what a start needs, whatever was installed meanwhile.
            None => Ok(()),
        };
        drain(self.serving).await;
        ended
    }
}

/// The presence of this process, without its address yet, and its full name.
fn identity(settings: &DataNodeSettings) -> (Presence, ProcessName) {
    let presence = Presence {
        cluster: Some(settings.cluster.clone()),
        ..Presence::of_this_process(String::new())
    };
    let process = presence.process_name(settings.platform, settings.node.clone());
    (presence, process)
}

/// Whether a data node can do its work. Cheap to clone.
#[derive(Clone)]
pub struct Readiness(Current);

impl Readiness {
    /// A master: whether it may answer as such, and has applied which slots the cluster owns. Any
    /// other node: whether it is in sync, by the record that it sees, and heard its master within
    /// F.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.is_ready()
    }
}

/// Serves until `stop` is set and all requests in progress have finished.
///
/// # Errors
/// The reason why it can't serve any more.
async fn serve(
    current: Current,
    presence: Presence,
    name: ProcessName,
    acceptor: Acceptor,
    stop: watch::Receiver<bool>,
) -> Result<(), String> {
    let door = || Door::new(current.clone(), presence.clone());
    let service = DataNodeServer::new(door())
        .max_decoding_message_size(MAX_TIER_FRAME_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES + FRAME_SLACK);
    let inbox = MemberServer::new(Inbox::new(current.clone()));
    let inbox = inbox.max_decoding_message_size(MAX_MEMBER_FRAME_BYTES);
    let indexes = CommitIndexServer::new(door());
    let snapshots = NodeSnapshotsServer::new(SnapshotDoor::new(current.clone()));
    let routes = Routes::new(service).add_service(inbox).add_service(indexes);
    let routes = routes.add_service(snapshots);
    let routes = routes.add_service(OrdersServer::new(door())).prepare();
    serve_builder()
        .serve_with_incoming_shutdown(
            Addressed::new(Counted(routes), &name),
            acceptor.connections(),
            stopped(stop),
        )
        .await
        .map_err(|error| format!("the data node's listener failed: {error}"))
}
