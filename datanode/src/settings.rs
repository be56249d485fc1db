//! The settings of a data node.

use std::{net::SocketAddr, time::Duration};

use tierkv_storage::StorageSettings;
use tierkv_types::{
    ClusterId, NodeId, PlatformId,
    limits::{DEFAULT_STREAM_BYTES, MAX_PEER_CONNECTIONS},
};

/// The settings of one data node.
#[derive(Clone, Debug)]
pub struct DataNodeSettings {
    /// The platform it belongs to.
    pub platform: PlatformId,
    /// The node's name; the same over restarts.
    pub node: NodeId,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The address it listens on; port 0 takes a free port.
    pub listen: SocketAddr,
    /// The address under which its peers reach it, `host:port`; `None`: the one it listens on.
    pub advertise: Option<String>,
    /// Most connections from other tiers.
    pub connections: usize,
    /// Most bytes of answers that wait for users at a client coordinator; the limit here is a
    /// multiple.
    pub stream_bytes: usize,
    /// Its log, memory tier and store.
    pub storage: StorageSettings,
    /// How long a write waits for the cache tier to confirm its deletes before it is
    /// answered anyway and the deletes are delivered later (CACHE-DELETE).
    pub invalidation_wait: Duration,
}

impl DataNodeSettings {
    /// A node with default settings.
    #[must_use]
    pub fn new(
        platform: PlatformId,
        node: NodeId,
        cluster: ClusterId,
        storage: StorageSettings,
    ) -> Self {
        Self {
            platform,
            node,
            cluster,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            connections: MAX_PEER_CONNECTIONS,
            stream_bytes: DEFAULT_STREAM_BYTES,
            storage,
            invalidation_wait: Duration::from_millis(50),
        }
    }
}
