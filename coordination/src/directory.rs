//! The names of the platform's records, groups and elections, and the format of some values.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tierkv_types::{ClusterId, Incarnation, NodeId, PlatformId, ProcessName};

/// The group of all data nodes; each member's data is its [`Presence`].
pub const DATA_NODES: &str = "data-nodes";
/// The group of all server coordinators.
pub const SERVER_COORDINATORS: &str = "server-coordinators";
/// The group of all client coordinators.
pub const CLIENT_COORDINATORS: &str = "client-coordinators";
/// The election of the primary server coordinator.
pub const PRIMARY: &str = "primary";
/// The record of the platform itself, the first one; its value is [`Platform`].
pub const PLATFORM: &str = "platform";
/// The record of the placement map.
pub const PLACEMENT: &str = "placement";
/// The record of the operators' memory settings for all nodes; its value is [`MemorySettings`].
pub const MEMORY_SETTINGS: &str = "memory-settings";
/// The prefix of the records of clusters.
pub const CLUSTERS: &str = "clusters/";

/// The record of a cluster's state: its master, epoch and logs in sync.
#[must_use]
pub fn cluster_state(cluster: &ClusterId) -> String {
    format!("{CLUSTERS}{cluster}/state")
}

/// The record of what a data node noted of its log (REP-LOGID).
#[must_use]
pub fn log_note(cluster: &ClusterId, node: &NodeId) -> String {
    format!("{CLUSTERS}{cluster}/log/{node}")
}

/// The cluster whose state record has this name.
#[must_use]
pub fn cluster_of_state(name: &str) -> Option<ClusterId> {
    ClusterId::new(name.strip_prefix(CLUSTERS)?.strip_suffix("/state")?).ok()
}

/// The platform: its random id, and the clusters with which it was founded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    format: u32,
    /// The random id.
    pub id: PlatformId,
    /// The clusters of the founding, by which an interrupted one is completed.
    pub founding: Vec<FoundingCluster>,
}

/// A cluster of a platform's founding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundingCluster {
    /// Its name.
    pub id: ClusterId,
    /// Its share of the slots, relative to the others.
    pub weight: u32,
    /// Its nodes.
    pub members: Vec<NodeId>,
}

/// The format of [`Platform`]; a change of meaning takes the next number.
const PLATFORM_FORMAT: u32 = 1;

impl Platform {
    /// A platform that is founded with these clusters.
    #[must_use]
    pub const fn new(id: PlatformId, founding: Vec<FoundingCluster>) -> Self {
        Self {
            format: PLATFORM_FORMAT,
            id,
            founding,
        }
    }

    /// Encodes the record's value: JSON with the number of the format.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        // Serialising strings and numbers can't fail.
        serde_json::to_vec(self)
            .map(Bytes::from)
            .unwrap_or_default()
    }

    /// Decodes the record's value.
    ///
    /// # Errors
    /// A message, if it is malformed or of a format that this release does not support.
    pub fn decode(value: &[u8]) -> Result<Self, String> {
        let words = |error: serde_json::Error| error.to_string();
        let Format { format } = serde_json::from_slice(value).map_err(words)?;
        if format != PLATFORM_FORMAT {
            return Err(format!(
                "the platform's record has format {format}, this release supports \
                 {PLATFORM_FORMAT}"
            ));
        }
        serde_json::from_slice(value).map_err(words)
    }
}

/// The address and process of a live node. No decision depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// The address for its peers, `host:port`.
    pub address: String,
    /// The machine it runs on.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// A random number of this start of its role: process ids repeat. 0 if the process is of a
    /// release that has none.
    #[serde(default, with = "hex")]
    pub incarnation: u64,
    /// The cluster of a data node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterId>,
    /// The address of its REST server, `host:port`, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<String>,
    /// The staleness bound of a client coordinator's reads, which bounds the failover time of
    /// clusters (REP-TIMES).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_staleness_ms: Option<u64>,
}

impl Presence {
    /// The presence of this process, listening on `address`, with a new incarnation: made once for
    /// each started role.
    #[must_use]
    pub fn of_this_process(address: String) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            address,
            host: host.trim().to_owned(),
            pid: std::process::id(),
            incarnation: rand::random(),
            cluster: None,
            rest: None,
            max_staleness_ms: None,
        }
    }

    /// Whether both are of the same start of a process.
    #[must_use]
    pub fn is_same_process(&self, other: &Self) -> bool {
        (&self.host, self.pid, self.incarnation) == (&other.host, other.pid, other.incarnation)
    }

    /// The full name of the process with this presence, which is `node` of `platform`.
    #[must_use]
    pub fn process_name(&self, platform: PlatformId, node: NodeId) -> ProcessName {
        ProcessName {
            platform,
            cluster: self.cluster.clone(),
            node,
            incarnation: Incarnation(self.incarnation),
        }
    }

    /// Encodes the presence as a member's data.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        // Serialising strings and numbers can't fail.
        serde_json::to_vec(self)
            .map(Bytes::from)
            .unwrap_or_default()
    }

    /// Decodes a member's data; `None` if it is not a presence.
    #[must_use]
    pub fn decode(data: &[u8]) -> Option<Self> {
        serde_json::from_slice(data).ok()
    }
}

/// A 64-bit number as hexadecimal text: not every reader of JSON keeps 64 bits.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
    pub(super) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{number:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

/// The memory settings that operators changed at run time, for every data node. For a missing one,
/// each node's own configuration counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemorySettings {
    /// The eviction policy's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Maximum number of clean records kept; 0: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_records: Option<u64>,
    /// Maximum bytes of clean records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
}

/// The format of a record's value, decoded before its other fields.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// [`MemorySettings`] in the record's format.
#[derive(Serialize)]
struct StoredMemorySettings<'a> {
    format: u32,
    #[serde(flatten)]
    settings: &'a MemorySettings,
}

/// The format of [`MemorySettings`]; a change of meaning takes the next number.
const MEMORY_SETTINGS_FORMAT: u32 = 1;

impl MemorySettings {
    /// Encodes the settings as the record's value: JSON with the number of the format.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let stored = StoredMemorySettings {
            format: MEMORY_SETTINGS_FORMAT,
            settings: self,
        };
        // Serialising strings and numbers can't fail.
        serde_json::to_vec(&stored)
            .map(Bytes::from)
            .unwrap_or_default()
    }

    /// Decodes the record's value.
    ///
    /// # Errors
    /// A message, if it is malformed or of a format that this release does not support.
    pub fn decode(value: &[u8]) -> Result<Self, String> {
        let words = |error: serde_json::Error| error.to_string();
        let Format { format } = serde_json::from_slice(value).map_err(words)?;
        if format != MEMORY_SETTINGS_FORMAT {
            return Err(format!(
                "the memory settings have format {format}, this release supports \
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
    fn a_process_is_known_by_host_pid_and_incarnation() {
        let of = |host: &str, pid, incarnation| Presence {
            address: "127.0.0.1:1".to_owned(),
            host: host.to_owned(),
            pid,
            incarnation,
            cluster: None,
            rest: None,
            max_staleness_ms: None,
        };
        let own = of("alpha", 7, u64::MAX - 1);
        assert_eq!(
            own.encode(),
            r#"{"address":"127.0.0.1:1","host":"alpha","pid":7,"incarnation":"fffffffffffffffe"}"#
        );
        assert!(own.is_same_process(&own.clone()));
        for other in [
            of("beta", 7, u64::MAX - 1),
            of("alpha", 8, u64::MAX - 1),
            of("alpha", 7, 1),
        ] {
            assert!(!own.is_same_process(&other), "{other:?}");
        }
        // Two starts of one process are two incarnations.
        let start = || Presence::of_this_process(String::new());
        assert!(!start().is_same_process(&start()));
    }

    #[test]
    fn a_presence_of_an_earlier_release_has_incarnation_0() {
        let earlier = Presence::decode(br#"{"address":"a:1","host":"h","pid":1}"#);
        assert_eq!(earlier.map(|presence| presence.incarnation), Some(0));
        let bad = br#"{"address":"a:1","host":"h","pid":1,"incarnation":"xyz"}"#;
        assert_eq!(Presence::decode(bad), None);
    }

    #[test]
    fn the_platform_comes_back_and_a_newer_format_is_refused() {
        let cluster = FoundingCluster {
            id: ClusterId::new("c1").unwrap(),
            weight: 1,
            members: vec![NodeId::new("n1").unwrap()],
        };
        let platform = Platform::new(PlatformId(0xab), vec![cluster]);
        let value = platform.encode();
        assert_eq!(
            value,
            concat!(
                r#"{"format":1,"id":"000000000000000000000000000000ab","#,
                r#""founding":[{"id":"c1","weight":1,"members":["n1"]}]}"#
            )
        );
        assert_eq!(Platform::decode(&value), Ok(platform));
        let newer = Platform::decode(br#"{"format":2}"#).unwrap_err();
        assert!(newer.contains("format 2"), "{newer}");
        assert!(Platform::decode(br#"{"format":1,"id":"ab","founding":[]}"#).is_err());
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
