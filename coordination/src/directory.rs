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
/// The record of what operators changed about every node's memory; its value is
/// [`MemorySettings`].
pub const MEMORY_SETTINGS: &str = "memory-settings";
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

/// What operators changed about every data node's memory while it ran. What is absent is
/// each node's own configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemorySettings {
    /// The eviction policy's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Most records kept that the store has too; 0: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_records: Option<u64>,
    /// Most bytes of those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
}

/// The format of a record's value, read before anything else of it.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// [`MemorySettings`] as the record holds them.
#[derive(Serialize)]
struct StoredMemorySettings<'a> {
    format: u32,
    #[serde(flatten)]
    settings: &'a MemorySettings,
}

/// The format of [`MemorySettings`]; a change of its meaning takes the next number.
const MEMORY_SETTINGS_FORMAT: u32 = 1;

impl MemorySettings {
    /// The settings as the record's value: JSON, with its format's number.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let stored = StoredMemorySettings {
            format: MEMORY_SETTINGS_FORMAT,
            settings: self,
        };
        // A struct of strings and numbers always serialises.
        serde_json::to_vec(&stored)
            .map(Bytes::from)
            .unwrap_or_default()
    }

    /// Reads the record's value.
    ///
    /// # Errors
    /// In words, if it is none or of a format that this release does not know.
    pub fn decode(value: &[u8]) -> Result<Self, String> {
        let words = |error: serde_json::Error| error.to_string();
        let Format { format } = serde_json::from_slice(value).map_err(words)?;
        if format != MEMORY_SETTINGS_FORMAT {
            return Err(format!(
                "the memory settings have format {format}, this release knows \
                 {MEMORY_SETTINGS_FORMAT}"
            ));
        }
        serde_json::from_slice(value).map_err(words)
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

    #[test]
    fn memory_settings_come_back_and_a_newer_format_is_refused() {
        let set = MemorySettings {
            policy: Some("lru".to_owned()),
            max_records: Some(u64::MAX),
            max_bytes: None,
        };
        let value = set.encode();
        assert_eq!(
            value,
            r#"{"format":1,"policy":"lru","max_records":18446744073709551615}"#
        );
        assert_eq!(MemorySettings::decode(&value), Ok(set));
        let newer = MemorySettings::decode(br#"{"format":2,"policy":{}}"#).unwrap_err();
        assert!(newer.contains("format 2"), "{newer}");
        for none in [&b"{}"[..], b"", br#"{"format":1,"max_records":-1}"#] {
            assert!(MemorySettings::decode(none).is_err());
        }
    }
}
