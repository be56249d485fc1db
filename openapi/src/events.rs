//! The data of the server-sent events of a watch.

use serde::{Deserialize, Serialize};
use tierkv_proto::v1::{WatchEvent, watch_event};
use utoipa::ToSchema;

use crate::octets::split;

/// One change, by the name of its event: `written` or `removed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key was set.
    Written(WrittenEvent),
    /// The key was removed, or expired.
    Removed(RemovedEvent),
}

/// The data of a `written` event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WrittenEvent {
    /// The key, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub key: Option<String>,
    /// The key as base64, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub key_base64: Option<String>,
    /// The new value, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub value: Option<String>,
    /// The new value as base64, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub value_base64: Option<String>,
    /// The new version, in decimal.
    pub version: String,
    /// When the key expires, in milliseconds since the Unix epoch; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub expires_at: Option<u64>,
}

/// The data of a `removed` event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemovedEvent {
    /// The key, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub key: Option<String>,
    /// The key as base64, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub key_base64: Option<String>,
    /// The removal's version, in decimal.
    pub version: String,
}

/// The data of a `progress` event: nothing changed up to here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProgressEvent {
    /// The token to resume the watch from here; equal to the event's id.
    pub resume_token: String,
}

impl Change {
    /// The change of an event; `None` if this server does not know its kind.
    #[must_use]
    pub fn from_wire(wire: WatchEvent) -> Option<Self> {
        let (key, key_base64) = split(&wire.key);
        let version = wire.version.to_string();
        Some(match wire.kind? {
            watch_event::Kind::Written(written) => {
                let (value, value_base64) = split(&written.value);
                Self::Written(WrittenEvent {
                    key,
                    key_base64,
                    value,
                    value_base64,
                    version,
                    expires_at: (written.expires_at_ms != 0).then_some(written.expires_at_ms),
                })
            }
            watch_event::Kind::Removed(_) => Self::Removed(RemovedEvent {
                key,
                key_base64,
                version,
            }),
        })
    }
}
