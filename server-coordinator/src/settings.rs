//! The settings of a server coordinator.

use std::net::SocketAddr;

use tierkv_protocol::placement::WeightedCluster;
use tierkv_types::{
    NodeId,
    limits::{DEFAULT_STREAM_BYTES, MAX_PEER_CONNECTIONS},
};

/// Settings of one server coordinator.
#[derive(Clone, Debug)]
pub struct ServerCoordinatorSettings {
    /// The node's name.
    pub node: NodeId,
    /// The address it listens on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Maximum connections of other tiers.
    pub connections: usize,
    /// Maximum bytes of answers that wait for users at a client coordinator; the limit here is a
    /// multiple.
    pub stream_bytes: usize,
    /// The clusters of a new platform. Once a placement map exists, it is used instead.
    pub initial_clusters: Vec<WeightedCluster>,
}

impl ServerCoordinatorSettings {
    /// A server coordinator with default settings.
    #[must_use]
    pub fn new(node: NodeId, initial_clusters: Vec<WeightedCluster>) -> Self {
        Self {
            node,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            connections: MAX_PEER_CONNECTIONS,
            stream_bytes: DEFAULT_STREAM_BYTES,
            initial_clusters,
        }
    }
}
