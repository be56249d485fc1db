//! JSON bodies of answers. Versions are strings, because they exceed what a JSON number holds
//! exactly. Keys and values are in `key` and `value` if they are UTF-8, else in `key_base64` and
//! `value_base64`.

use serde::{Deserialize, Serialize};
use tierkv_proto::v1::{self, write_operation};
use utoipa::ToSchema;

use crate::octets::{split, token};

/// The answer to a PUT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Written {
    /// The new version, in decimal.
    #[schema(example = "116591234567890944")]
    pub version: String,
}

/// The answer to a DELETE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    /// Whether the key was there.
    pub existed: bool,
    /// The deletion's version, in decimal; of an absent key, the version up to which its absence is
    /// known.
    #[schema(example = "116591234567890944")]
    pub version: String,
}

/// The answer to an increment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Incremented {
    /// The resulting number, in decimal.
    #[schema(example = "1", pattern = "^-?[0-9]{1,19}$")]
    pub value: String,
    /// The new version, in decimal.
    #[schema(example = "116591234567890944")]
    pub version: String,
}

/// The tier that answered a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The cache tier.
    Cache,
    /// A replica of the key's cluster.
    Replica,
    /// The master of the key's cluster.
    Master,
    /// A tier that this server does not know.
    Unknown,
}

impl Source {
    /// The source of this number.
    #[must_use]
    pub fn from_wire(number: i32) -> Self {
        match v1::Source::try_from(number) {
            Ok(v1::Source::Cache) => Self::Cache,
            Ok(v1::Source::Replica) => Self::Replica,
            Ok(v1::Source::Master) => Self::Master,
            Ok(v1::Source::Unspecified) | Err(_) => Self::Unknown,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Replica => "replica",
            Self::Master => "master",
            Self::Unknown => "unknown",
        }
    }
}

/// One tier in the path of a read; the first tier comes first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hop {
    /// `client-coordinator`, `cache`, `server-coordinator` or `datanode`.
    pub tier: String,
    /// Its name in the topology.
    pub node: String,
    /// Microseconds from the arrival of the read at this tier until the tier had its answer. The
    /// times are nested: they include those of the tiers below.
    pub micros: u64,
}

impl From<v1::Hop> for Hop {
    fn from(wire: v1::Hop) -> Self {
        Self {
            tier: wire.tier,
            node: wire.node,
            micros: wire.micros,
        }
    }
}

/// The answers of a batch of reads, in the order of its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchGetAnswer {
    /// One answer for each key.
    pub answers: Vec<Read>,
}

impl BatchGetAnswer {
    /// The answer to a request of these keys.
    #[must_use]
    pub fn new(keys: &[impl AsRef<[u8]>], wire: v1::BatchGetResponse) -> Self {
        let answers = (keys.iter().zip(wire.answers))
            .map(|(key, answer)| Read::new(key.as_ref(), answer))
            .collect();
        Self { answers }
    }
}

/// The answer for one key of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Read {
    /// The key, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub key: Option<String>,
    /// The key as base64, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub key_base64: Option<String>,
    /// Whether the key is present; if not, there is no value.
    pub found: bool,
    /// The value, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub value: Option<String>,
    /// The value as base64, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub value_base64: Option<String>,
    /// The version, in decimal; of an absent key, the version up to which its absence is known.
    pub version: String,
    /// The tier that answered.
    pub source: Source,
    /// An upper bound, in milliseconds, of how stale the answer was.
    pub age_ms: u32,
    /// When the key expires, in milliseconds since the Unix epoch; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub expires_at: Option<u64>,
    /// The path of the read, with `explain`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<Hop>,
}

impl Read {
    fn new(key: &[u8], wire: v1::GetResponse) -> Self {
        let (key, key_base64) = split(key);
        let (value, value_base64) = match wire.found {
            true => split(&wire.value),
            false => (None, None),
        };
        Self {
            key,
            key_base64,
            found: wire.found,
            value,
            value_base64,
            version: wire.version.to_string(),
            source: Source::from_wire(wire.source),
            age_ms: wire.age_ms,
            expires_at: expires_at(wire.expires_at_ms),
            path: wire.path.into_iter().map(Into::into).collect(),
        }
    }
}

fn expires_at(millis: u64) -> Option<u64> {
    (millis != 0).then_some(millis)
}

/// A page of a namespace, in the order of its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page {
    /// The keys and their values.
    pub items: Vec<Item>,
    /// Present if there are more items: the next `page_token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next_page_token: Option<String>,
}

impl Page {
    /// A page of these items; an empty token means that there are no more.
    #[must_use]
    pub fn new(items: Vec<v1::ScanItem>, next_page_token: &[u8]) -> Self {
        Self {
            items: items.into_iter().map(Into::into).collect(),
            next_page_token: (!next_page_token.is_empty()).then(|| token(next_page_token)),
        }
    }
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Item {
    /// The key, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub key: Option<String>,
    /// The key as base64, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub key_base64: Option<String>,
    /// The value, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub value: Option<String>,
    /// The value as base64, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub value_base64: Option<String>,
    /// The version, in decimal.
    pub version: String,
    /// When the key expires, in milliseconds since the Unix epoch; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub expires_at: Option<u64>,
}

impl From<v1::ScanItem> for Item {
    fn from(wire: v1::ScanItem) -> Self {
        let (key, key_base64) = split(&wire.key);
        let (value, value_base64) = split(&wire.value);
        Self {
            key,
            key_base64,
            value,
            value_base64,
            version: wire.version.to_string(),
            expires_at: expires_at(wire.expires_at_ms),
        }
    }
}

/// The answer to a count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counted {
    /// The number of keys.
    pub count: u64,
}

/// The answer to an atomic batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchWritten {
    /// The version of everything it changed, in decimal.
    #[schema(example = "116591234567890944")]
    pub version: String,
    /// The results of the operations, in their order.
    pub results: Vec<WriteResult>,
    /// The write was applied before with this `Idempotency-Key`; this is its result of that time.
    pub replayed: bool,
}

/// The result of one operation of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WriteResult {
    /// Of a delete, and with `return_previous` of every operation: whether the key was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub existed: Option<bool>,
    /// Of an increment: the resulting number, in decimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub number: Option<String>,
    /// With `return_previous`: the previous value, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub previous_value: Option<String>,
    /// With `return_previous`: the previous value as base64, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub previous_value_base64: Option<String>,
    /// With `return_previous`: the previous version, in decimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub previous_version: Option<String>,
}

/// The kind of an operation, which decides the fields of its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationKind {
    /// Sets a key.
    Put,
    /// Removes a key.
    Delete,
    /// Adds to a number.
    Increment,
    /// Sets when a key expires.
    Touch,
}

impl OperationKind {
    /// The kinds of a request's operations, in their order.
    #[must_use]
    pub fn all(request: &v1::WriteRequest) -> Vec<Self> {
        (request.operations.iter())
            .map(|operation| match operation.kind {
                Some(write_operation::Kind::Increment(_)) => Self::Increment,
                Some(write_operation::Kind::Delete(_)) => Self::Delete,
                Some(write_operation::Kind::Touch(_)) => Self::Touch,
                Some(write_operation::Kind::Put(_)) | None => Self::Put,
            })
            .collect()
    }
}

impl BatchWritten {
    /// The answer to a request of these operations.
    #[must_use]
    pub fn new(kinds: &[OperationKind], return_previous: bool, wire: v1::WriteResponse) -> Self {
        let results = (kinds.iter().zip(wire.results))
            .map(|(kind, result)| {
                // Of a request that was applied before, `existed` is remembered only for deletes.
                let return_previous = return_previous && !wire.replayed;
                WriteResult::new(*kind, return_previous, &result)
            })
            .collect();
        Self {
            version: wire.version.to_string(),
            results,
            replayed: wire.replayed,
        }
    }
}

impl WriteResult {
    fn new(kind: OperationKind, return_previous: bool, wire: &v1::WriteResult) -> Self {
        let tells_existence = return_previous || kind == OperationKind::Delete;
        let (previous_value, previous_value_base64) =
            (wire.previous_value.as_deref()).map_or((None, None), split);
        Self {
            existed: tells_existence.then_some(wire.existed),
            number: (kind == OperationKind::Increment).then(|| wire.number.to_string()),
            previous_version: (wire.previous_value.is_some())
                .then(|| wire.previous_version.to_string()),
            previous_value,
            previous_value_base64,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn results_tell_what_their_operation_has_to_tell() {
        let wire = || v1::WriteResponse {
            version: u64::MAX,
            results: vec![
                v1::WriteResult::default(),
                v1::WriteResult {
                    existed: true,
                    previous_value: Some(b"\xff"[..].into()),
                    previous_version: 7,
                    number: 0,
                },
                v1::WriteResult {
                    number: i64::MIN,
                    ..v1::WriteResult::default()
                },
            ],
            replayed: false,
        };
        let kinds = [
            OperationKind::Put,
            OperationKind::Delete,
            OperationKind::Increment,
        ];
        let told = serde_json::to_value(BatchWritten::new(&kinds, true, wire())).unwrap();
        let expected = json!({
            "version": "18446744073709551615",
            "results": [
                {"existed": false},
                {"existed": true, "previous_value_base64": "/w==", "previous_version": "7"},
                {"existed": false, "number": "-9223372036854775808"},
            ],
            "replayed": false,
        });
        assert_eq!(told, expected);
        let told = serde_json::to_value(BatchWritten::new(&kinds, false, wire())).unwrap();
        assert_eq!(told["results"][0], json!({}));
        assert_eq!(
            told["results"][2],
            json!({"number": "-9223372036854775808"})
        );
    }

    #[test]
    fn a_page_has_a_token_only_if_there_is_more() {
        let item = v1::ScanItem {
            key: b"\xfe"[..].into(),
            value: b"v"[..].into(),
            version: 1 << 63,
            expires_at_ms: 9,
        };
        let page = Page::new(vec![item.clone()], b"");
        let expected = json!({"items": [
            {"key_base64": "/g==", "value": "v", "version": "9223372036854775808", "expires_at": 9},
        ]});
        assert_eq!(serde_json::to_value(page).unwrap(), expected);
        let page = serde_json::to_value(Page::new(vec![item], b"\xfb\xff")).unwrap();
        assert_eq!(page["next_page_token"], "-_8");
    }

    #[test]
    fn an_absent_key_has_no_value() {
        let absent = v1::GetResponse {
            version: 5,
            source: v1::Source::Cache.into(),
            age_ms: 3,
            ..v1::GetResponse::default()
        };
        let found = v1::GetResponse {
            found: true,
            ..absent.clone()
        };
        let wire = v1::BatchGetResponse {
            answers: vec![absent, found],
        };
        let told = serde_json::to_value(BatchGetAnswer::new(&[b"a", b"b"], wire)).unwrap();
        let expected = json!({"answers": [
            {"key": "a", "found": false, "version": "5", "source": "cache", "age_ms": 3},
            {"key": "b", "found": true, "value": "", "version": "5", "source": "cache", "age_ms": 3},
        ]});
        assert_eq!(told, expected);
    }
}
