//! The settings of a client coordinator.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use tierkv_types::{
    NodeId, PlatformId,
    limits::{DEFAULT_MAX_STALENESS, DEFAULT_STREAM_BYTES},
};

use crate::rest::{HostName, WebOrigin};

/// Settings of one client coordinator.
#[derive(Clone, Debug)]
pub struct ClientCoordinatorSettings {
    /// The platform it belongs to.
    pub platform: PlatformId,
    /// The node's name.
    pub node: NodeId,
    /// The address of its gRPC door; port 0 takes a free one.
    pub grpc_listen: SocketAddr,
    /// The address of its REST door; port 0 takes a free one.
    pub rest_listen: SocketAddr,
    /// The address under which clients reach its gRPC door, `host:port`; `None`: the one it listens
    /// on.
    pub advertise: Option<String>,
    /// Host names that REST accepts beside those of this machine. If it listens on loopback only,
    /// or if this list is not empty, other hosts are refused.
    pub rest_allowed_hosts: Vec<HostName>,
    /// Origins of web pages that may use REST; pages of other origins are refused.
    pub rest_allowed_origins: Vec<WebOrigin>,
    /// The staleness bound of a `CACHED` read that has none of its own.
    pub max_staleness: Duration,
    /// How often each cluster's master is asked for its mark, by which cache hits are judged
    /// (CACHE-MARK).
    pub inquiry_interval: Duration,
    /// The number of connections, and their timeouts.
    pub limits: ConnectionLimits,
    /// Renders `/metrics`.
    pub metrics: MetricsPage,
    /// The store of the platform's metadata, as `/v1/cluster` shows it.
    pub coordination: CoordinationStore,
}

/// A store of metadata, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoordinationStore {
    /// Its kind, as in `etcd`.
    pub kind: &'static str,
    /// Its addresses, `host:port`.
    pub endpoints: Vec<String>,
}

impl CoordinationStore {
    /// The one in this process.
    pub const MEMORY: Self = Self {
        kind: "memory",
        endpoints: Vec::new(),
    };
}

/// The number of connections, and their timeouts.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Maximum connections at all doors together. One over the limit is closed at once.
    pub connections: usize,
    /// Maximum bytes of answers that clients have not received yet. From half of it on, streams
    /// that hold answers wait, and connections whose clients read nothing or slowly are closed.
    pub stream_bytes: usize,
    /// Timeout of a request's head; with gRPC, of the connection's preface.
    pub head_timeout: Duration,
    /// Timeout of a request's body, except that of a stream.
    pub body_timeout: Duration,
    /// Idle timeout of a REST connection.
    pub rest_idle_timeout: Duration,
    /// How often an HTTP/2 client is pinged.
    pub ping_interval: Duration,
    /// Timeout of a ping, after which the connection is closed.
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
    /// Shows the timeouts in `/metrics`; the counter of connections shows their number.
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
    pub fn new(platform: PlatformId, node: NodeId, metrics: MetricsPage) -> Self {
        Self {
            platform,
            node,
            grpc_listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
            rest_listen: SocketAddr::from(([127, 0, 0, 1], 7480)),
            advertise: None,
            rest_allowed_hosts: Vec::new(),
            rest_allowed_origins: Vec::new(),
            max_staleness: DEFAULT_MAX_STALENESS,
            inquiry_interval: Duration::from_millis(200),
            limits: ConnectionLimits::default(),
            metrics,
            coordination: CoordinationStore::MEMORY,
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
