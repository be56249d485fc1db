//! Starts and stops a server coordinator.

use std::{net::SocketAddr, sync::Arc};

use tierkv_coordination::{
    Coordination, CoordinationError, PresenceKeeper,
    directory::{Presence, SERVER_COORDINATORS},
};
use tierkv_rpc::{
    Acceptor, Addressed, Background, Counted, ListenError, ProcessName, TierTimes, drain, listen,
    proto::internal::{
        orders_server::OrdersServer, server_coordinator_server::ServerCoordinatorServer,
    },
    serve_builder,
    session::FRAME_SLACK,
    stopped,
    tiers::MAX_TIER_FRAME_BYTES,
};
use tierkv_types::{Epoch, limits::MAX_ANSWER_BYTES};
use tokio::{sync::watch, task::JoinHandle};
use tonic::service::Routes;

use crate::{
    balanced_read,
    office::{Office, OfficeKeeper},
    routes::{RouteKeeper, Routes as RoutingTable},
    routing::{Router, TIER},
    service::Door,
    settings::ServerCoordinatorSettings,
    times::{ClusterTimes, TimeCarrier},
};

/// Why a server coordinator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// From the coordination store.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
    /// From its address.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// A running server coordinator.
pub struct ServerCoordinator {
    address: SocketAddr,
    name: ProcessName,
    routes: watch::Receiver<Arc<RoutingTable>>,
    office: watch::Receiver<Office>,
    /// The candidacy, which ends before anything else.
    standing: Background,
    serving: JoinHandle<()>,
    background: Background,
    presence: PresenceKeeper,
}

impl ServerCoordinator {
    /// Starts listening, routing, and standing for primary.
    ///
    /// # Errors
    /// [`StartError`], with a message for operators.
    pub async fn start(
        settings: ServerCoordinatorSettings,
        coordination: Arc<dyn Coordination>,
    ) -> Result<Self, StartError> {
        let (listener, address) = listen(settings.listen).await?;
        let advertised = settings.advertise.clone();
        let own = Presence::of_this_process(advertised.unwrap_or_else(|| address.to_string()));
        let process = own.process_name(settings.platform, settings.node.clone());
        let (group, name) = (SERVER_COORDINATORS, settings.node.as_str());
        let presence =
            PresenceKeeper::start(coordination.clone(), group, name, own.clone()).await?;
        balanced_read::describe_metrics();
        let mut background = Background::new();
        let keeper = RouteKeeper::new(settings.platform, &*coordination).await?;
        let routes = keeper.routes();
        background.follow(keeper).await;
        let times = ClusterTimes::default();
        background.run(TimeCarrier::new(routes.clone(), times.clone()));
        let (tell_office, office) = watch::channel(Office::default());
        let mut standing = Background::new();
        standing.run(OfficeKeeper {
            node: settings.node.to_string(),
            presence: own,
            coordination: Arc::clone(&coordination),
            office: tell_office,
        });
        let door = Door {
            router: Arc::new(Router {
                node: settings.node.clone(),
                routes: routes.clone(),
                times: TierTimes::of(TIER),
            }),
            cluster_times: times,
            stop: background.stopping(),
        };
        let acceptor = Acceptor::of_peers(
            listener,
            "server-coordinator",
            settings.connections,
            settings.stream_bytes,
        );
        let stop = background.stopping();
        let serving = tokio::spawn(serve(door, process.clone(), acceptor, stop));
        Ok(Self {
            address,
            name: process,
            routes,
            office,
            standing,
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
            routes: self.routes.clone(),
        }
    }

    /// The epoch of its primacy, or `None` if it is a backup.
    #[must_use]
    pub fn primary(&self) -> Option<Epoch> {
        self.office.borrow().primary
    }

    /// Waits until another process takes its name; returns the reason. The process must then stop.
    pub async fn failed(&self) -> String {
        self.presence.taken().await
    }

    /// Resigns, stops accepting requests, and lets those in progress finish.
    pub async fn stop(self) {
        // First, so that requests go to the next primary while this one still answers.
        self.standing.stop().await;
        self.presence.leave().await;
        self.background.stop().await;
        drain(self.serving).await;
    }
}

/// Whether a server coordinator can do its work. Cheap to clone.
#[derive(Clone)]
pub struct Readiness {
    routes: watch::Receiver<Arc<RoutingTable>>,
}

impl Readiness {
    /// Whether it has a route to the master of at least one cluster with slots.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.routes.borrow().has_any()
    }
}

async fn serve(door: Door, name: ProcessName, acceptor: Acceptor, stop: watch::Receiver<bool>) {
    let door = Arc::new(door);
    let service = ServerCoordinatorServer::from_arc(Arc::clone(&door))
        .max_decoding_message_size(MAX_TIER_FRAME_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES + FRAME_SLACK);
    let routes = Routes::new(service).add_service(OrdersServer::from_arc(door));
    let routes = routes.prepare();
    let served = serve_builder()
        .serve_with_incoming_shutdown(
            Addressed::new(Counted(routes), &name),
            acceptor.connections(),
            stopped(stop),
        )
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the server coordinator's listener failed");
    }
}
