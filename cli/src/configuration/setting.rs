//! How values of keys are parsed and printed.

use std::{
    fmt::Display,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use serde_json::Value;
use tierkv_client_coordinator::{HostName, WebOrigin};
use tierkv_coordination::Location;
use tierkv_storage::EvictionPolicy;
use tierkv_types::{ClusterId, NodeId};

use super::ByteSize;

/// The value of a key.
pub(super) trait Setting: Sized {
    /// The valid form, as in "use …".
    const FORM: &'static str;
    /// Whether it may be a number in TOML.
    const IS_NUMBER: bool = false;
    /// Whether it may be a list of strings in TOML. In the environment and in flags, commas
    /// separate the items.
    const IS_LIST: bool = false;

    /// Parses a value; `None` if it is invalid.
    fn parse(text: &str) -> Option<Self>;

    /// The text that [`parse`](Self::parse) accepts.
    fn text(&self) -> String;

    /// The value for programs.
    fn json(&self) -> Value {
        self.text().into()
    }

    /// The value in TOML. A JSON string is a valid basic string of TOML.
    fn toml(&self) -> String {
        Value::from(self.text()).to_string()
    }
}

impl Setting for PathBuf {
    const FORM: &'static str = "a path";

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.into())
    }

    fn text(&self) -> String {
        self.to_string_lossy().into_owned()
    }
}

impl Setting for SocketAddr {
    const FORM: &'static str = "an address as in \"127.0.0.1:7400\" or \"localhost:7400\"";

    fn parse(text: &str) -> Option<Self> {
        // No other name is resolved: its address may change while the platform runs.
        match text.strip_prefix("localhost:") {
            Some(port) => Some(Self::from((Ipv4Addr::LOCALHOST, port.parse().ok()?))),
            None => text.parse().ok(),
        }
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Setting for u64 {
    const FORM: &'static str = "a whole number";
    const IS_NUMBER: bool = true;

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn text(&self) -> String {
        self.to_string()
    }

    fn json(&self) -> Value {
        (*self).into()
    }

    fn toml(&self) -> String {
        self.text()
    }
}

impl Setting for ByteSize {
    const FORM: &'static str =
        "a number of bytes, or one with a unit as in \"512 MiB\" or \"8GiB\"";
    const IS_NUMBER: bool = true;

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn text(&self) -> String {
        self.to_string()
    }

    fn json(&self) -> Value {
        self.0.into()
    }
}

impl Setting for EvictionPolicy {
    const FORM: &'static str = "one of \"s3fifo\", \"lru\", \"lfu\" and \"fifo\"";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// One item of a list value.
pub(super) trait Item: FromStr + Display {
    /// The valid form of the list, as in "use …".
    const LIST_FORM: &'static str;
}

impl Item for HostName {
    const LIST_FORM: &'static str = "host names without ports, as in [\"kv.example.com\"]";
}

impl Item for WebOrigin {
    const LIST_FORM: &'static str =
        "origins, each a scheme and a host, as in [\"https://app.example.com\"]";
}

impl<T: Item> Setting for Vec<T> {
    const FORM: &'static str = T::LIST_FORM;
    const IS_LIST: bool = true;

    fn parse(text: &str) -> Option<Self> {
        let items = text.split(',').map(str::trim);
        let items = items.filter(|item| !item.is_empty());
        items.map(|item| item.parse().ok()).collect()
    }

    fn text(&self) -> String {
        let items: Vec<String> = self.iter().map(T::to_string).collect();
        items.join(",")
    }

    fn json(&self) -> Value {
        self.iter().map(T::to_string).collect()
    }

    fn toml(&self) -> String {
        // JSON and TOML write an array of strings alike.
        self.json().to_string()
    }
}

/// A value that may be missing; in the environment and in flags, an empty text is none.
impl<T: Setting> Setting for Option<T> {
    const FORM: &'static str = T::FORM;

    fn parse(text: &str) -> Option<Self> {
        match text {
            "" => Some(None),
            text => T::parse(text).map(Some),
        }
    }

    fn text(&self) -> String {
        self.as_ref().map(T::text).unwrap_or_default()
    }

    fn json(&self) -> Value {
        self.as_ref().map_or_else(|| "".into(), T::json)
    }
}

impl Setting for String {
    const FORM: &'static str = "a text";

    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn text(&self) -> String {
        self.clone()
    }
}

impl Setting for NodeId {
    const FORM: &'static str = "1 to 63 of a-z, 0-9, _ and -, as in \"n1\"";

    fn parse(text: &str) -> Option<Self> {
        Self::new(text).ok()
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Setting for ClusterId {
    const FORM: &'static str = "1 to 63 of a-z, 0-9, _ and -, as in \"c1\"";

    fn parse(text: &str) -> Option<Self> {
        Self::new(text).ok()
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Setting for Location {
    const FORM: &'static str = "\"memory:\", or etcd's endpoints and the platform's name as in \
                                \"etcd://127.0.0.1:2379/shop\"";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// An address that other processes resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort(pub(crate) String);

impl Setting for HostPort {
    const FORM: &'static str = "HOST:PORT, as in \"node1.example.com:7600\"";

    fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let is_whole = !host.is_empty() && !host.contains(char::is_whitespace);
        let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
        (is_whole && is_port).then(|| Self(text.to_owned()))
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

/// The kind of the cache tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheKind {
    /// In the process.
    Embedded,
    /// Every lookup is a miss.
    None,
}

impl Setting for CacheKind {
    const FORM: &'static str = "\"embedded\" or \"none\"";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "embedded" => Some(Self::Embedded),
            "none" => Some(Self::None),
            _ => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Embedded => "embedded".to_owned(),
            Self::None => "none".to_owned(),
        }
    }
}

/// When an acknowledged write is synced to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyncMode {
    /// Before the acknowledgement.
    Always,
    /// At most an interval later.
    Interval,
}

impl Setting for SyncMode {
    const FORM: &'static str = "\"always\" or \"interval\"";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "always" => Some(Self::Always),
            "interval" => Some(Self::Interval),
            _ => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Always => "always".to_owned(),
            Self::Interval => "interval".to_owned(),
        }
    }
}
