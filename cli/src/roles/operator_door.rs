//! Metrics and health of a process that has no REST server.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
    serve::Listener,
};
use tierkv_client_coordinator::MetricsPage;
use tierkv_rpc::{Acceptor, Connection, Connections, ListenError, listen};

/// Most connections at the same time. Over it, further ones are closed at once.
const MAX_CONNECTIONS: usize = 64;
/// Most bytes of answers that wait for clients.
const MAX_WAITING_BYTES: usize = 16 << 20;
/// The type of the metrics page, as Prometheus expects it.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether the process can do its work.
type IsReady = Box<dyn Fn() -> bool + Send + Sync>;

/// An address for operators, served until the process ends: health is asked for while it starts and
/// while it stops, too. The process is not ready before [`OperatorDoor::ready_when`].
pub(super) struct OperatorDoor {
    address: SocketAddr,
    is_ready: Arc<OnceLock<IsReady>>,
}

impl OperatorDoor {
    /// Serves `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// If it is in use, or not this machine's.
    pub(super) async fn open(
        address: SocketAddr,
        metrics: MetricsPage,
    ) -> Result<Self, ListenError> {
        let (listener, address) = listen(address).await?;
        let is_ready = Arc::new(OnceLock::<IsReady>::new());
        let asked = Arc::clone(&is_ready);
        let connections = Connections::of_peers("operators", MAX_CONNECTIONS, MAX_WAITING_BYTES);
        let farewell = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        let door = Door {
            acceptor: Acceptor::new(listener, "operators", connections, farewell[..].into()),
            address,
        };
        let routes = Router::new()
            .route("/health/live", get(async || "live\n"))
            .route(
                "/health/ready",
                get(
                    async move || match asked.get().is_some_and(|is_ready| is_ready()) {
                        true => (StatusCode::OK, "ready\n"),
                        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
                    },
                ),
            )
            .route(
                "/metrics",
                get(async move || ([(CONTENT_TYPE, TEXT_FORMAT)], (metrics.0)()).into_response()),
            );
        tokio::spawn(async move {
            if let Err(error) = axum::serve(door, routes).await {
                tracing::error!(%error, "the metrics page is not served any more");
            }
        });
        Ok(Self { address, is_ready })
    }

    /// The address it is bound to.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, the process is ready whenever `is_ready` returns so.
    pub(super) fn ready_when(&self, is_ready: impl Fn() -> bool + Send + Sync + 'static) {
        // It is set once, when the role runs.
        drop(self.is_ready.set(Box::new(is_ready)));
    }
}

/// Accepts the connections of operators.
struct Door {
    acceptor: Acceptor,
    address: SocketAddr,
}

impl Listener for Door {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        (self.acceptor.accept().await, self.address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
