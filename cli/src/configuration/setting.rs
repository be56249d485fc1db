//! How values of keys are parsed and printed.

use std::{
    fmt::Display,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use serde_json::Value;
use tierkv_client_coordinator::{HostName, WebOrigin};
use tierkv_storage::EvictionPolicy;

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
    const FORM: &'static str = "the path of a folder";

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
