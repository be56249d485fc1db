//! A client coordinator, put together.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tierkv_cache::Cache;
use tierkv_coordination::{
    Coordination, CoordinationError, Membership,
    directory::{CLIENT_COORDINATORS, Presence},
};
use tierkv_rpc::{
    ListenError, drain, incoming, listen,
    proto::{
        FILE_DESCRIPTOR_SET,
        v1::{admin_server::AdminServer, kv_server::KvServer},
    },
    serve_builder,
    session::FRAME_SLACK,
    stopped,
};
use tierkv_types::{
    Clock,
    limits::{MAX_ANSWER_BYTES, MAX_REQUEST_BYTES},
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::interval};
use tonic::{service::Routes, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    admin::{self, Admin},
    below::Below,
    flights::Flights,
    inquiry::Inquiry,
    kv,
    meters::Meters,
    operations::Operations,
    reader::Reader,
    rest::{self, Gateway},
    scans::OpenScans,
    settings::ClientCoordinatorSettings,
    views::{SharedViews, Views},
    watches::Watches,
    writer::Writer,
};

/// How often the health service looks whether the platform answers.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// The name under which the health service knows the API.
const KV_SERVICE: &str = "tierkv.v1.Kv";

/// Why a client coordinator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The coordination store.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
    /// One of its addresses.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// gRPC reflection.
    #[error("the API's description can't be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The addresses of a client coordinator, taken. Whoever starts more than this tier takes
/// them first: an address in use is then told before anything else was touched.
pub struct Listeners {
    grpc: (TcpListener, SocketAddr),
    rest: (TcpListener, SocketAddr),
}

impl Listeners {
    /// Takes the addresses of these settings.
    ///
    /// # Errors
    /// [`StartError::Listen`] if one is in use.
    pub async fn bind(settings: &ClientCoordinatorSettings) -> Result<Self, StartError> {
        Ok(Self {
            grpc: listen(settings.grpc_listen).await?,
            rest: listen(settings.rest_listen).await?,
        })
    }
}

/// A running client coordinator.
pub struct ClientCoordinator {
    grpc_address: SocketAddr,
    rest_address: SocketAddr,
    views: SharedViews,
    clock: Arc<dyn Clock>,
    max_staleness: Duration,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    membership: Membership,
}

impl ClientCoordinator {
    /// Takes its addresses and begins to serve on them.
    ///
    /// # Errors
    /// [`StartError`], in words for an operator.
    pub async fn start<C: Cache>(
        settings: ClientCoordinatorSettings,
        coordination: Arc<dyn Coordination>,
        cache: Arc<C>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let listeners = Listeners::bind(&settings).await?;
        Self::start_on(listeners, settings, coordination, cache, clock).await
    }

    /// Begins to serve on addresses that were taken already.
    ///
    /// # Errors
    /// [`StartError`], in words for an operator.
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
        let (stop, stopping) = watch::channel(false);
        let views: SharedViews = Arc::new(Views::default());
        let below = Below::follow(&*coordination, stopping.clone()).await?;
        let inquiry = Inquiry {
            below: below.clone(),
            views: Arc::clone(&views),
            clock: Arc::clone(&clock),
            interval: settings.inquiry_interval,
        };
        inquiry.start(&*coordination, stopping.clone()).await?;

        let meters = Arc::new(Meters::new());
        let operations = Arc::new(Operations {
            reader: Reader {
                cache: Arc::clone(&cache),
                views: Arc::clone(&views),
                below: below.clone(),
                flights: Flights::new(),
                clock: Arc::clone(&clock),
                meters: Arc::clone(&meters),
                max_staleness: settings.max_staleness,
                node: settings.node.clone(),
            },
            writer: Writer {
                below: below.clone(),
                views: Arc::clone(&views),
                clock: Arc::clone(&clock),
            },
            watches: Watches::new(below.clone()),
            below: below.clone(),
            open_scans: OpenScans::new(),
            meters,
            clock: Arc::clone(&clock),
        });
        let admin = Arc::new(Admin {
            below,
            coordination: Arc::clone(&coordination),
            cache,
            views: Arc::clone(&views),
            clock: Arc::clone(&clock),
        });
        let presence = Presence::of_this_process(grpc_address.to_string());
        let membership = coordination
            .join(
                CLIENT_COORDINATORS,
                settings.node.as_str(),
                presence.encode(),
            )
            .await?;

        let is_ready = {
            let (views, clock, bound) = (
                Arc::clone(&views),
                Arc::clone(&clock),
                settings.max_staleness,
            );
            move || views.are_fresh(clock.boot_time(), bound)
        };
        let (health, health_service) = tonic_health::server::health_reporter();
        let watching = tokio::spawn(watch_health(health, is_ready.clone(), stopping.clone()));
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let mut routes = Routes::builder();
        routes
            .add_service(
                KvServer::new(kv::Door {
                    operations: Arc::clone(&operations),
                    stop: stopping.clone(),
                })
                .max_decoding_message_size(MAX_REQUEST_BYTES + FRAME_SLACK)
                .max_encoding_message_size(MAX_ANSWER_BYTES + FRAME_SLACK),
            )
            .add_service(AdminServer::new(admin::Door(Arc::clone(&admin))))
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            // Python's client, among others, knows no newer one.
            .add_service(reflection().build_v1alpha()?);
        let grpc = tokio::spawn(serve_grpc(
            serve_builder(),
            routes.routes(),
            grpc_listener,
            stopping.clone(),
        ));
        let gateway = Gateway {
            operations,
            admin,
            metrics: settings.metrics,
            is_ready: Box::new(is_ready),
            stop: stopping.clone(),
        };
        let rest = tokio::spawn(serve_rest(gateway, rest_listener, stopping));
        Ok(Self {
            grpc_address,
            rest_address,
            views,
            clock,
            max_staleness: settings.max_staleness,
            stop,
            tasks: vec![watching, grpc, rest],
            membership,
        })
    }

    /// Where it serves gRPC.
    #[must_use]
    pub const fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// Where it serves REST.
    #[must_use]
    pub const fn rest_address(&self) -> SocketAddr {
        self.rest_address
    }

    /// Whether the masters of all clusters answered lately.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.views
            .are_fresh(self.clock.boot_time(), self.max_staleness)
    }

    /// Stops taking requests and lets those under way finish.
    pub async fn stop(self) {
        drop(self.membership.leave().await);
        self.stop.send_replace(true);
        for task in self.tasks {
            drain(task).await;
        }
    }
}

/// Keeps the health service at what is so.
async fn watch_health(
    health: HealthReporter,
    is_ready: impl Fn() -> bool + Send,
    mut stop: watch::Receiver<bool>,
) {
    let mut ticks = interval(HEALTH_INTERVAL);
    loop {
        let status = match is_ready() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        health.set_service_status(KV_SERVICE, status).await;
        health.set_service_status("", status).await;
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

async fn serve_grpc(
    mut server: Server,
    routes: Routes,
    listener: TcpListener,
    stop: watch::Receiver<bool>,
) {
    let served = server
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming(listener), stopped(stop))
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the gRPC listener failed");
    }
}

async fn serve_rest<C: Cache>(
    gateway: Gateway<C>,
    listener: TcpListener,
    stop: watch::Receiver<bool>,
) {
    let router = rest::router(Arc::new(gateway));
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(stopped(stop))
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the REST listener failed");
    }
}
