//! What the platform keeps where: the names of its records, groups and elections.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tierkv_types::ClusterId;

/// The group of all data nodes; each member's data is its [`Presence`].
pub const DATA_NODES: &str = "data-nodes";
/// The group of all server coordinators.
pub const SERVER_COORDINATORS: &str = "server-coordinators";
/// The group of all client coordinators.
pub const CLIENT_COORDINATORS: &str = "client-coordinators";
/// The election of the primary server coordinator.
pub const PRIMARY: &str = "primary";
/// The record of the placement map.
pub const PLACEMENT: &str = "placement";
/// All records of clusters begin with this.
pub const CLUSTERS: &str = "clusters/";

/// The record that says who is master of a cluster.
#[must_use]
pub fn cluster_state(cluster: &ClusterId) -> String {
    format!("{CLUSTERS}{cluster}/state")
}

/// The cluster whose state record has this name.
#[must_use]
pub fn cluster_of_state(name: &str) -> Option<ClusterId> {
    ClusterId::new(name.strip_prefix(CLUSTERS)?.strip_suffix("/state")?).ok()
}

/// Who a living process is and where it listens. Nothing in it decides anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Where its peers reach it, `host:port`.
    pub address: String,
    /// The machine it runs on.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
}

impl Presence {
    /// This process, listening on `address`.
    #[must_use]
    pub fn of_this_process(address: String) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            address,
            host: host.trim().to_owned(),
            pid: std::process::id(),
        }
    }

    /// The presence as a member's data.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        // A struct of strings and a number always serialises.
        serde_json::to_vec(self)
            .map(Bytes::from)
            .unwrap_or_default()
    }

    /// Reads a member's data; `None` if it is no presence.
    #[must_use]
    pub fn decode(data: &[u8]) -> Option<Self> {
        serde_json::from_slice(data).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_presences_come_back() {
        let cluster = ClusterId::new("c1").unwrap();
        assert_eq!(cluster_of_state(&cluster_state(&cluster)), Some(cluster));
        assert_eq!(cluster_of_state("clusters/c1/other"), None);
        let presence = Presence::of_this_process("127.0.0.1:1".to_owned());
        assert!(!presence.host.is_empty());
        assert_eq!(Presence::decode(&presence.encode()), Some(presence));
        assert_eq!(Presence::decode(b"{}"), None);
    }
}
