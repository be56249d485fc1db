//! What an operator says about a client coordinator.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use tierkv_types::{
    NodeId,
    limits::{DEFAULT_MAX_STALENESS, DEFAULT_STREAM_BYTES},
};

use crate::rest::{HostName, WebOrigin};

/// Settings of one client coordinator.
#[derive(Clone, Debug)]
pub struct ClientCoordinatorSettings {
    /// Its name.
    pub node: NodeId,
    /// Where it serves gRPC; port 0 takes a free one.
    pub grpc_listen: SocketAddr,
    /// Where it serves REST; port 0 takes a free one.
    pub rest_listen: SocketAddr,
    /// Host names that REST answers to, beside those of this machine. While it listens on
    /// loopback only, or if this lists any, it answers to no others.
    pub rest_allowed_hosts: Vec<HostName>,
    /// Origins of web pages that may use REST; those of others are refused.
    pub rest_allowed_origins: Vec<WebOrigin>,
    /// How stale a `CACHED` read may be that names no bound of its own.
    pub max_staleness: Duration,
    /// How often each cluster's master is asked whether the cache may still be believed
    /// (CACHE-MARK).
    pub inquiry_interval: Duration,
    /// How many connections there may be, and how long each may keep its door waiting.
    pub limits: ConnectionLimits,
    /// What `/metrics` shows.
    pub metrics: MetricsPage,
}

/// How many connections there may be, and how long each may keep its door waiting.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Most connections at all doors together. What is over it is closed at once.
    pub connections: usize,
    /// Most bytes of answers that wait for clients which have not taken them. Over it streams
    /// wait, and connections whose clients take nothing are closed.
    pub stream_bytes: usize,
    /// How long the head of a request may take; of gRPC, the preface of the connection.
    pub head_timeout: Duration,
    /// How long the body of a request may take, but for those of streams.
    pub body_timeout: Duration,
    /// How long a REST connection may have nothing to do.
    pub rest_idle_timeout: Duration,
    /// How often a client of HTTP/2 is asked whether it lives.
    pub ping_interval: Duration,
    /// How long it may take to say so before its connection is given up.
    pub ping_timeout: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            stream_bytes: DEFAULT_STREAM_BYTES,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            rest_idle_timeout: Duration::from_secs(75),
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(10),
        }
    }
}

impl ConnectionLimits {
    /// Shows the times in `/metrics`; the number is shown by who counts the connections.
    pub(crate) fn show(&self) {
        const NAME: &str = "tierkv_limit_seconds";
        metrics::describe_gauge!(NAME, "The times that connections must keep, by their key.");
        for (key, time) in [
            ("limits.head_timeout_ms", self.head_timeout),
            ("limits.body_timeout_ms", self.body_timeout),
            ("limits.rest_idle_timeout_ms", self.rest_idle_timeout),
            ("limits.grpc_ping_interval_ms", self.ping_interval),
            ("limits.grpc_ping_timeout_ms", self.ping_timeout),
        ] {
            metrics::gauge!(NAME, "limit" => key).set(time.as_secs_f64());
        }
    }
}

impl ClientCoordinatorSettings {
    /// A client coordinator with default settings.
    #[must_use]
    pub fn new(node: NodeId, metrics: MetricsPage) -> Self {
        Self {
            node,
            grpc_listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
            rest_listen: SocketAddr::from(([127, 0, 0, 1], 7480)),
            rest_allowed_hosts: Vec::new(),
            rest_allowed_origins: Vec::new(),
            max_staleness: DEFAULT_MAX_STALENESS,
            inquiry_interval: Duration::from_millis(200),
            limits: ConnectionLimits::default(),
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
