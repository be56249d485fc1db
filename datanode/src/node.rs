//! A data node, put together.

use std::{net::SocketAddr, sync::Arc};

use tierkv_cache::Cache;
use tierkv_coordination::{
    Coordination, CoordinationError, Membership,
    directory::{self, Presence},
};
use tierkv_protocol::{
    placement::PlacementMap,
    replication::{ClusterState, CommandQueue, Founding, Replica, Restored, StateError},
};
use tierkv_rpc::{
    ListenError, drain, incoming, listen, proto::internal::data_node_server::DataNodeServer,
    serve_builder, session::FRAME_SLACK, stopped, tiers::MAX_TIER_FRAME_BYTES,
};
use tierkv_storage::{RealDisk, Recovered, Storage, StorageError};
use tierkv_types::{Clock, limits::MAX_ANSWER_BYTES};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    door::Door, driver::Driver, gauges, invalidator::Invalidator, memory_settings,
    ownership::Owned, reclaimer::Reclaimer, rules::Rules, scrubber, sequencer::Sequencer,
    service::Service, settings::DataNodeSettings, watches::Watches,
};

/// Why a data node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its disk, or what is on it.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The record that it saw last can't be read.
    #[error("the cluster state in the data directory: {0}")]
    State(#[from] StateError),
    /// The coordination store.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
    /// Its address.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// A running data node.
pub struct DataNode {
    address: SocketAddr,
    storage: Arc<Storage>,
    /// Ends the listener; what is under way still commits.
    drain: watch::Sender<bool>,
    /// Ends the rest.
    stop: watch::Sender<bool>,
    failed: watch::Receiver<Option<String>>,
    serving: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
    membership: Membership,
}

impl DataNode {
    /// Recovers what is on disk, begins to listen, and stands for mastership.
    ///
    /// # Errors
    /// [`StartError`], in words for an operator.
    pub async fn start<C: Cache>(
        settings: DataNodeSettings,
        coordination: Arc<dyn Coordination>,
        cache: Arc<C>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let started_at = clock.boot_time();
        let (storage, recovered) =
            Storage::open(settings.storage.clone(), Arc::new(RealDisk)).await?;
        let Recovered {
            log_id,
            last,
            commit,
            applied,
            promised,
            cluster_state,
            clock: seen,
            tail,
            ..
        } = recovered;
        let seen_state = cluster_state
            .as_deref()
            .map(ClusterState::decode)
            .transpose()?;
        let founding = Founding {
            members: vec![settings.node.clone()],
        };
        let restored = Restored {
            log_id,
            last,
            commit,
            applied,
            promised,
            seen: seen_state,
        };
        let replica = Replica::start(settings.node.clone(), founding, restored, started_at);
        let sequencer = Arc::new(Sequencer::new(
            replica,
            seen,
            tail,
            Arc::clone(&storage),
            Arc::clone(&clock),
        ));
        let owned = Arc::new(Owned::new(settings.cluster.clone()));
        let (drain, draining) = watch::channel(false);
        let (stop, stopping) = watch::channel(false);
        let (fail, failed) = watch::channel(None);

        let (listener, address) = listen(settings.listen).await?;
        let presence = Presence::of_this_process(address.to_string());
        let membership = coordination
            .join(
                directory::DATA_NODES,
                settings.node.as_str(),
                presence.encode(),
            )
            .await?;

        let placement =
            follow_placement(&coordination, Arc::clone(&owned), stopping.clone()).await?;
        let (memory, remembering) = memory_settings::follow(
            &coordination,
            Arc::clone(&storage),
            settings.storage.memory,
            stopping.clone(),
        )
        .await?;
        let invalidator = Invalidator::new(
            cache,
            settings.cluster.clone(),
            Arc::clone(&owned),
            Arc::clone(&clock),
            settings.invalidation_wait,
        );
        let (invalidator, invalidating) = invalidator.start();
        // It ends with the driver, its sender.
        tokio::spawn(invalidating);
        let driver = Driver {
            cluster: settings.cluster.clone(),
            sequencer: Arc::clone(&sequencer),
            storage: Arc::clone(&storage),
            coordination,
            invalidator,
            commands: CommandQueue::new(promised, last.index, applied),
            rules: Rules::default(),
        };
        let reclaimer = Reclaimer {
            sequencer: Arc::clone(&sequencer),
            storage: Arc::clone(&storage),
            tombstone_retention: settings.storage.log_retention,
        };
        let gauging = tokio::spawn(gauges::run(
            Arc::clone(&storage),
            memory.clone(),
            stopping.clone(),
        ));
        let scrubbing = tokio::spawn(scrubber::run(Arc::clone(&storage), stopping.clone()));
        let reclaiming = tokio::spawn(reclaimer.run(stopping.clone()));
        let driving = tokio::spawn(async move {
            if let Err(why) = driver.run(stopping).await {
                tracing::error!(why, "the data node stops");
                drop(fail.send(Some(why)));
            }
        });
        let service = Arc::new(Service {
            node: Arc::new(settings.node.clone()),
            cluster: settings.cluster.to_string(),
            sequencer,
            storage: Arc::clone(&storage),
            owned,
            memory,
        });
        let door = Door {
            watches: Watches::new(Arc::clone(&service)),
            service,
            stop: draining.clone(),
        };
        let serving = tokio::spawn(serve(door, listener, draining));
        Ok(Self {
            address,
            storage,
            drain,
            stop,
            failed,
            serving,
            tasks: vec![
                placement,
                remembering,
                gauging,
                scrubbing,
                reclaiming,
                driving,
            ],
            membership,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resolves, with the reason, when the node can't go on: the process must stop.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        let why = failed
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|why| why.clone());
        match why {
            Some(why) => why,
            None => std::future::pending().await,
        }
    }

    /// Stops taking requests, lets those under way finish, brings everything into the store.
    ///
    /// # Errors
    /// [`StorageError`] if the last checkpoint failed; the log still holds everything.
    pub async fn stop(self) -> Result<(), StorageError> {
        drop(self.membership.leave().await);
        self.drain.send_replace(true);
        drain(self.serving).await;
        self.stop.send_replace(true);
        for task in self.tasks {
            drop(task.await);
        }
        self.storage.close().await
    }
}

async fn serve(door: Door, listener: TcpListener, stop: watch::Receiver<bool>) {
    let service = DataNodeServer::new(door)
        .max_decoding_message_size(MAX_TIER_FRAME_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES + FRAME_SLACK);
    let served = serve_builder()
        .add_service(service)
        .serve_with_incoming_shutdown(incoming(listener), stopped(stop))
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the data node's listener failed");
    }
}

/// Keeps ownership at the newest placement map (COORD-WATCH).
async fn follow_placement(
    coordination: &Arc<dyn Coordination>,
    owned: Arc<Owned>,
    mut stop: watch::Receiver<bool>,
) -> Result<JoinHandle<()>, CoordinationError> {
    let mut record = coordination.watch(directory::PLACEMENT).await?;
    Ok(tokio::spawn(async move {
        loop {
            if let Some(stored) = record.current().as_ref() {
                match PlacementMap::decode(&stored.value) {
                    Ok(map) => owned.learn(&map),
                    Err(error) => tracing::error!(%error, "the placement map is of no use"),
                }
            }
            tokio::select! {
                changed = record.changed() => if changed.is_err() { return },
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }))
}
