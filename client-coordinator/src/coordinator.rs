//! Starts and stops a client coordinator.

use std::{net::SocketAddr, sync::Arc};

use tierkv_cache::Cache;
use tierkv_coordination::{
    Coordination, CoordinationError, PresenceKeeper,
    directory::{CLIENT_COORDINATORS, Presence},
};
use tierkv_rpc::{Acceptor, Background, Connections, ListenError, drain, listen};
use tierkv_types::Clock;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    admin::{self, Admin},
    below::Below,
    flights::Flights,
    grpc,
    health::{Health, Readiness},
    inquiry::Inquiry,
    kv,
    last_known::LastKnown,
    meters::Meters,
    operations::Operations,
    reader::Reader,
    rest::{self, Admission, Gateway},
    scans::Scans,
    settings::{ClientCoordinatorSettings, ConnectionLimits},
    silences::Silences,
    views::{SharedViews, Views},
    watches::Watches,
    writer::Writer,
};

/// Why a client coordinator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// From the coordination store.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
    /// From one of its addresses.
    #[error("{door}: {error}")]
    Listen {
        /// The server: `gRPC` or `REST`.
        door: &'static str,
        /// What is wrong with its address.
        error: ListenError,
    },
    /// From gRPC reflection.
    #[error("the API's description can't be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The bound listeners of a client coordinator. A process that starts more than this tier binds
/// them first: an address in use is then reported before anything else has started.
pub struct Listeners {
    grpc: (TcpListener, SocketAddr),
    rest: (TcpListener, SocketAddr),
}

impl Listeners {
    /// Binds these addresses.
    ///
    /// # Errors
    /// [`StartError::Listen`] if one is in use.
    pub async fn bind(grpc: SocketAddr, rest: SocketAddr) -> Result<Self, StartError> {
        let failed = |door| move |error| StartError::Listen { door, error };
        Ok(Self {
            grpc: listen(grpc).await.map_err(failed("gRPC"))?,
            rest: listen(rest).await.map_err(failed("REST"))?,
        })
    }

    /// The gRPC address, with its actual port.
    #[must_use]
    pub const fn grpc_address(&self) -> SocketAddr {
        self.grpc.1
    }

    /// The REST address, with its actual port.
    #[must_use]
    pub const fn rest_address(&self) -> SocketAddr {
        self.rest.1
    }
}

/// A running client coordinator.
pub struct ClientCoordinator {
    grpc_address: SocketAddr,
    rest_address: SocketAddr,
    readiness: Readiness,
    background: Background,
    serving: [JoinHandle<()>; 2],
    presence: PresenceKeeper,
}

impl ClientCoordinator {
    /// Binds its addresses and starts serving.
    ///
    /// # Errors
    /// [`StartError`], with a message for operators.
    pub async fn start<C: Cache>(
        settings: ClientCoordinatorSettings,
        coordination: Arc<dyn Coordination>,
        cache: Arc<C>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let listeners = Listeners::bind(settings.grpc_listen, settings.rest_listen).await?;
        Self::start_on(listeners, settings, coordination, cache, clock).await
    }

    /// Starts serving on bound listeners.
    ///
    /// # Errors
    /// [`StartError`], with a message for operators.
    pub async fn start_on<C: Cache>(
        listeners: Listeners,
        settings: ClientCoordinatorSettings,
        coordination: Arc<dyn Coordination>,
        cache: Arc<C>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let Listeners {
            grpc: (grpc_listener, grpc_address),
            rest: (rest_listener, rest_address),
        } = listeners;
        let mut background = Background::new();
        let views: SharedViews = Arc::new(Views::default());
        let below = Below::follow(settings.platform, &*coordination, &mut background).await?;
        let inquiry = Inquiry {
            below: below.clone(),
            views: Arc::clone(&views),
            clock: Arc::clone(&clock),
            interval: settings.inquiry_interval,
        };
        inquiry.start(&*coordination, &mut background).await?;

        let operations = operations(&settings, &cache, &views, &below, &clock);
        let admin = Arc::new(Admin {
            node: settings.node.to_string(),
            max_staleness: settings.max_staleness,
            below,
            client_coordinators: LastKnown::follow(&*coordination, &mut background).await?,
            store: settings.coordination.clone(),
            coordination: Arc::clone(&coordination),
            cache,
            views: Arc::clone(&views),
            clock: Arc::clone(&clock),
        });
        let presence = join(coordination, &settings, grpc_address, rest_address).await?;

        let readiness = Readiness::new(views, clock, settings.max_staleness);
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let kv = kv::Door::new(Arc::clone(&operations), background.stopping());
        let routes = grpc::routes(kv, admin::Door(Arc::clone(&admin)), health_service)?;
        let gateway = Gateway {
            operations,
            admin,
            admission: admission(&settings, rest_address),
            metrics: settings.metrics,
            readiness: readiness.clone(),
            stop: background.stopping(),
        };
        background.run(Health {
            reporter,
            readiness: readiness.clone(),
        });
        let (grpc_door, rest_door) = acceptors(grpc_listener, rest_listener, &settings.limits);
        let (limits, stop) = (settings.limits, background.stopping());
        let grpc = tokio::spawn(grpc::serve(routes, grpc_door, limits, stop.clone()));
        let rest = tokio::spawn(rest::serve(gateway, rest_door, limits, stop));
        Ok(Self {
            grpc_address,
            rest_address,
            readiness,
            background,
            serving: [grpc, rest],
            presence,
        })
    }

    /// The address of its gRPC door.
    #[must_use]
    pub const fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// The address of its REST door.
    #[must_use]
    pub const fn rest_address(&self) -> SocketAddr {
        self.rest_address
    }

    /// Whether the master of at least one cluster has answered recently.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// Waits until another process takes its name; returns the reason. The process must then stop.
    pub async fn failed(&self) -> String {
        self.presence.taken().await
    }

    /// Stops accepting requests and lets those in progress finish.
    pub async fn stop(self) {
        self.presence.leave().await;
        // The doors close on the same signal.
        self.background.stop().await;
        for door in self.serving {
            drain(door).await;
        }
    }
}

/// Accepts the connections of both doors, under one limit.
fn acceptors(
    grpc: TcpListener,
    rest: TcpListener,
    limits: &ConnectionLimits,
) -> (Acceptor, Acceptor) {
    limits.show();
    let connections = Connections::of_users(limits.connections, limits.stream_bytes);
    (
        grpc::acceptor(grpc, connections.clone(), limits),
        rest::acceptor(rest, connections),
    )
}

/// Registers this coordinator in the membership, under its addresses.
async fn join(
    coordination: Arc<dyn Coordination>,
    settings: &ClientCoordinatorSettings,
    grpc: SocketAddr,
    rest: SocketAddr,
) -> Result<PresenceKeeper, CoordinationError> {
    let advertised = settings.advertise.clone();
    let presence = Presence {
        rest: Some(rest.to_string()),
        max_staleness_ms: u64::try_from(settings.max_staleness.as_millis()).ok(),
        ..Presence::of_this_process(advertised.unwrap_or_else(|| grpc.to_string()))
    };
    let name = settings.node.as_str();
    PresenceKeeper::start(coordination, CLIENT_COORDINATORS, name, presence).await
}

/// The admission rules of REST requests.
fn admission(settings: &ClientCoordinatorSettings, address: SocketAddr) -> Arc<Admission> {
    Arc::new(Admission::new(
        settings.rest_allowed_hosts.clone(),
        settings.rest_allowed_origins.clone(),
        address.ip().is_loopback(),
    ))
}

/// The operations of users, with the tiers they use.
fn operations<C: Cache>(
    settings: &ClientCoordinatorSettings,
    cache: &Arc<C>,
    views: &SharedViews,
    below: &Below,
    clock: &Arc<dyn Clock>,
) -> Arc<Operations<C>> {
    let meters = Arc::new(Meters::new());
    let bound = settings.max_staleness;
    // Reads and writes have places of their own, as they have connections.
    let silences = || Silences::new(Arc::clone(views), Arc::clone(clock), bound);
    Arc::new(Operations {
        reader: Reader {
            cache: Arc::clone(cache),
            views: Arc::clone(views),
            below: below.clone(),
            flights: Flights::new(),
            silences: silences(),
            clock: Arc::clone(clock),
            meters: Arc::clone(&meters),
            max_staleness: settings.max_staleness,
            node: settings.node.clone(),
        },
        writer: Writer {
            below: below.clone(),
            views: Arc::clone(views),
            silences: silences(),
            clock: Arc::clone(clock),
        },
        scans: Scans::new(below.clone(), settings.max_staleness),
        watches: Watches::new(below.clone()),
        meters,
        clock: Arc::clone(clock),
    })
}
