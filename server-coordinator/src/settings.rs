//! The settings of a server coordinator.

use std::net::SocketAddr;

use tierkv_types::{
    NodeId, PlatformId,
    limits::{DEFAULT_STREAM_BYTES, MAX_PEER_CONNECTIONS},
};

/// Settings of one server coordinator.
#[derive(Clone, Debug)]
pub struct ServerCoordinatorSettings {
    /// The platform it belongs to.
    pub platform: PlatformId,
    /// The node's name.
    pub node: NodeId,
    /// The address it listens on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The address under which others reach it, `host:port`; `None`: the one it listens on.
    pub advertise: Option<String>,
    /// Maximum connections of other tiers.
    pub connections: usize,
    /// Maximum bytes of answers that wait for users at a client coordinator; the limit here is a
    /// multiple.
    pub stream_bytes: usize,
}

impl ServerCoordinatorSettings {
    /// A server coordinator with default settings.
    #[must_use]
    pub fn new(platform: PlatformId, node: NodeId) -> Self {
        Self {
            platform,
            node,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            connections: MAX_PEER_CONNECTIONS,
            stream_bytes: DEFAULT_STREAM_BYTES,
        }
    }
}
