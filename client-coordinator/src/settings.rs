//! What an operator says about a client coordinator.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use tierkv_types::{NodeId, limits::DEFAULT_MAX_STALENESS};

/// Settings of one client coordinator.
#[derive(Clone, Debug)]
pub struct ClientCoordinatorSettings {
    /// Its name.
    pub node: NodeId,
    /// Where it serves gRPC; port 0 takes a free one.
    pub grpc_listen: SocketAddr,
    /// Where it serves REST; port 0 takes a free one.
    pub rest_listen: SocketAddr,
    /// How stale a `CACHED` read may be that names no bound of its own.
    pub max_staleness: Duration,
    /// How often each cluster's master is asked whether the cache may still be believed
    /// (CACHE-MARK).
    pub inquiry_interval: Duration,
    /// What `/metrics` shows.
    pub metrics: MetricsPage,
}

impl ClientCoordinatorSettings {
    /// A client coordinator with default settings.
    #[must_use]
    pub fn new(node: NodeId, metrics: MetricsPage) -> Self {
        Self {
            node,
            grpc_listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
            rest_listen: SocketAddr::from(([127, 0, 0, 1], 7480)),
            max_staleness: DEFAULT_MAX_STALENESS,
            inquiry_interval: Duration::from_millis(200),
            metrics,
        }
    }
}

/// Renders this process's metrics in Prometheus' text format.
#[derive(Clone)]
pub struct MetricsPage(pub Arc<dyn Fn() -> String + Send + Sync>);

impl fmt::Debug for MetricsPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetricsPage")
    }
}
