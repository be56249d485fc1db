//! [`ProcessName`]: the full name of a process between tiers (COORD-PRESENCE).

use std::fmt;

use crate::{ClusterId, Incarnation, NodeId, PlatformId};

/// The full name of a process, as text `PLATFORM/CLUSTER/NODE/INCARNATION`; a coordinator has no
/// cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessName {
    /// The platform.
    pub platform: PlatformId,
    /// The cluster of a data node.
    pub cluster: Option<ClusterId>,
    /// The node's name, which its operator chose.
    pub node: NodeId,
    /// The random number of this start of the process.
    pub incarnation: Incarnation,
}

impl fmt::Display for ProcessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            platform,
            cluster,
            node,
            incarnation,
        } = self;
        let cluster = cluster.as_ref().map_or("", ClusterId::as_str);
        write!(f, "{platform}/{cluster}/{node}/{incarnation}")
    }
}
