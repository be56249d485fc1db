//! JSON bodies of requests. Unknown fields are refused, because ignoring a condition would
//! silently overwrite a value.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, IgnoredAny, MapAccess, Visitor},
};
use tierkv_proto::v1::{self, condition, write_operation};
use tierkv_types::{Error, limits::MAX_TTL};
use utoipa::ToSchema;

use crate::{
    integer::{Integer, version},
    object::{Object, given, objects},
    octets::required,
};

/// The namespace of a body without one.
fn default_namespace() -> String {
    tierkv_types::key::DEFAULT_NAMESPACE.to_owned()
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// At most `max_staleness` old.
    Cached,
    /// The same, and at least `min_version`.
    Session,
    /// Linearizable for the key.
    Latest,
}

impl Consistency {
    /// Parses the name of a consistency.
    ///
    /// # Errors
    /// `InvalidArgument` if the name is unknown.
    pub fn named(name: &str) -> Result<Self, Error> {
        match name {
            "cached" => Ok(Self::Cached),
            "session" => Ok(Self::Session),
            "latest" => Ok(Self::Latest),
            _ => Err(Error::invalid(
                "consistency is one of cached, session and latest",
            )),
        }
    }

    /// The consistency in the gRPC contract.
    #[must_use]
    pub const fn to_wire(self) -> v1::Consistency {
        match self {
            Self::Cached => v1::Consistency::Cached,
            Self::Session => v1::Consistency::Session,
            Self::Latest => v1::Consistency::Latest,
        }
    }
}

/// The options of a read in the gRPC contract. A minimum version without a consistency implies
/// `session`.
///
/// # Errors
/// `InvalidArgument` if one of them would be ignored.
pub fn read_options(
    consistency: Option<Consistency>,
    min_version: u64,
    max_staleness_ms: Option<u32>,
    explain: bool,
) -> Result<v1::ReadOptions, Error> {
    match consistency {
        Some(Consistency::Cached | Consistency::Latest) if min_version != 0 => {
            return Err(Error::invalid(
                "min_version goes with the consistency session: use that, or leave min_version out",
            ));
        }
        Some(Consistency::Latest) if max_staleness_ms.is_some() => {
            return Err(Error::invalid(
                "the consistency latest takes no max_staleness_ms: leave it out, or read with \
                 session or cached",
            ));
        }
        _ => {}
    }
    let consistency = match consistency {
        Some(consistency) => consistency.to_wire(),
        None if min_version != 0 => v1::Consistency::Session,
        None => v1::Consistency::Unspecified,
    };
    Ok(v1::ReadOptions {
        consistency: consistency.into(),
        min_version,
        max_staleness_ms,
        explain,
    })
}

/// Reads of many keys of one namespace.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchGetRequest {
    /// The namespace of all keys.
    #[serde(default = "default_namespace")]
    #[schema(example = "default", pattern = "^[a-z0-9][a-z0-9_-]{0,62}$")]
    pub namespace: String,
    /// At most 1,000 keys.
    #[serde(deserialize_with = "objects")]
    #[schema(max_items = 1000)]
    pub keys: Vec<KeyName>,
    /// How fresh the answers must be; `cached` by default.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    pub consistency: Option<Consistency>,
    /// The least version that each answer may reflect; goes with `session`.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false, pattern = "^[0-9]{1,20}$")]
    pub min_version: Option<String>,
    /// The request's own staleness bound, in milliseconds.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    pub max_staleness_ms: Option<u32>,
    /// Adds the path of each read to its answer.
    #[serde(default)]
    pub explain: bool,
}

/// One key: `key` or `key_base64`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(min_properties = 1, max_properties = 1)]
pub struct KeyName {
    /// The key as text.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false, example = "greeting")]
    pub key: Option<String>,
    /// The key as base64.
    #[serde(default, deserialize_with = "given")]
    #[schema(
        nullable = false,
        content_encoding = "base64",
        pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
    )]
    pub key_base64: Option<String>,
}

impl TryFrom<BatchGetRequest> for v1::BatchGetRequest {
    type Error = Error;

    fn try_from(model: BatchGetRequest) -> Result<Self, Error> {
        let min_version =
            (model.min_version.as_deref()).map_or(Ok(0), |text| version("min_version", text))?;
        let keys = (model.keys.into_iter())
            .map(|key| required("key", key.key, key.key_base64.as_deref()))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            namespace: named(model.namespace)?,
            keys,
            options: Some(read_options(
                model.consistency,
                min_version,
                model.max_staleness_ms,
                model.explain,
            )?),
        })
    }
}

/// An addition to a number.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IncrementRequest {
    /// What to add: a signed 64-bit integer, as a JSON number or a string.
    pub delta: Integer,
}

/// An atomic batch: all operations if all conditions hold, or none.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteRequest {
    /// The namespace of all keys.
    #[serde(default = "default_namespace")]
    #[schema(example = "default", pattern = "^[a-z0-9][a-z0-9_-]{0,62}$")]
    pub namespace: String,
    /// Conditions on keys that the batch writes, or on others.
    #[serde(default, deserialize_with = "objects")]
    #[schema(max_items = 1000)]
    pub conditions: Vec<Condition>,
    /// At least one, no two on one key; with the conditions at most 1,000.
    #[schema(min_items = 1, max_items = 1000)]
    pub operations: Vec<WriteOperation>,
    /// Adds the previous value of each key to the answer.
    #[serde(default)]
    pub return_previous: bool,
}

/// A condition on one key: `key` or `key_base64`, and one of `if_absent`, `if_present` and
/// `if_version`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// The key as text.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    pub key: Option<String>,
    /// The key as base64.
    #[serde(default, deserialize_with = "given")]
    #[schema(
        nullable = false,
        content_encoding = "base64",
        pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
    )]
    pub key_base64: Option<String>,
    /// `true`: the key must be absent.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    pub if_absent: Option<bool>,
    /// `true`: the key must be present.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    pub if_present: Option<bool>,
    /// The key must have this version.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false, pattern = "^[0-9]{1,20}$")]
    pub if_version: Option<String>,
}

/// One operation of a batch.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WriteOperation {
    /// Sets a key.
    #[schema(title = "WritePut")]
    Put(PutOperation),
    /// Removes a key.
    #[schema(title = "WriteDelete")]
    Delete(KeyName),
    /// Adds to a number.
    #[schema(title = "WriteIncrement")]
    Increment(IncrementOperation),
    /// Sets when a key expires.
    #[schema(title = "WriteTouch")]
    Touch(TouchOperation),
}

/// The form of an operation, in error messages.
const ONE_OPERATION: &str =
    "each operation is an object of its own, with one of put, delete, increment and touch";

impl<'de> Deserialize<'de> for WriteOperation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOperation;

        impl<'de> Visitor<'de> for OneOperation {
            type Value = WriteOperation;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one of put, delete, increment and touch")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WriteOperation, A::Error> {
                let operation = match map.next_key::<String>()?.as_deref() {
                    Some("put") => WriteOperation::Put(map.next_value::<Object<_>>()?.0),
                    Some("delete") => WriteOperation::Delete(map.next_value::<Object<_>>()?.0),
                    Some("increment") => {
                        WriteOperation::Increment(map.next_value::<Object<_>>()?.0)
                    }
                    Some("touch") => WriteOperation::Touch(map.next_value::<Object<_>>()?.0),
                    Some(_) | None => return Err(de::Error::custom(ONE_OPERATION)),
                };
                match map.next_key::<IgnoredAny>()? {
                    None => Ok(operation),
                    Some(_) => Err(de::Error::custom(ONE_OPERATION)),
                }
            }
        }

        deserializer.deserialize_map(OneOperation)
    }
}

/// Sets a key: `key` or `key_base64`, and `value` or `value_base64`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutOperation {
    /// The key as text.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    pub key: Option<String>,
    /// The key as base64.
    #[serde(default, deserialize_with = "given")]
    #[schema(
        nullable = false,
        content_encoding = "base64",
        pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
    )]
    pub key_base64: Option<String>,
    /// The value as text.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    pub value: Option<String>,
    /// The value as base64.
    #[serde(default, deserialize_with = "given")]
    #[schema(
        nullable = false,
        content_encoding = "base64",
        pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
    )]
    pub value_base64: Option<String>,
    /// Time to live in milliseconds; absent: the key never expires.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false, minimum = 1)]
    pub ttl_ms: Option<u64>,
}

/// Adds to a number: `key` or `key_base64`, and what to add.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IncrementOperation {
    /// The key as text.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    pub key: Option<String>,
    /// The key as base64.
    #[serde(default, deserialize_with = "given")]
    #[schema(
        nullable = false,
        content_encoding = "base64",
        pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
    )]
    pub key_base64: Option<String>,
    /// What to add: a signed 64-bit integer, as a JSON number or a string.
    pub delta: Integer,
}

/// Sets when a key expires, and keeps its value: `key` or `key_base64`. If the key is absent, the
/// whole batch is refused (404). It is also refused (429) if the values of all touched keys have
/// more than 4 MiB together.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TouchOperation {
    /// The key as text.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    pub key: Option<String>,
    /// The key as base64.
    #[serde(default, deserialize_with = "given")]
    #[schema(
        nullable = false,
        content_encoding = "base64",
        pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
    )]
    pub key_base64: Option<String>,
    /// Time to live in milliseconds, from now on; absent: the key never expires.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false, minimum = 1)]
    pub ttl_ms: Option<u64>,
}

impl TryFrom<WriteRequest> for v1::WriteRequest {
    type Error = Error;

    fn try_from(model: WriteRequest) -> Result<Self, Error> {
        Ok(Self {
            namespace: named(model.namespace)?,
            conditions: (model.conditions.into_iter())
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            operations: (model.operations.into_iter())
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            request_id: None,
            return_previous: model.return_previous,
        })
    }
}

impl TryFrom<Condition> for v1::Condition {
    type Error = Error;

    fn try_from(model: Condition) -> Result<Self, Error> {
        let one = || {
            Error::invalid(
                "a condition needs exactly one of \"if_absent\": true, \"if_present\": true and \
                 \"if_version\": \"<version>\"",
            )
        };
        let kind = match (model.if_absent, model.if_present, model.if_version) {
            (Some(true), None, None) => condition::Kind::IfAbsent(v1::Absent {}),
            (None, Some(true), None) => condition::Kind::IfPresent(v1::Present {}),
            (None, None, Some(text)) => condition::Kind::IfVersion(version("if_version", &text)?),
            _ => return Err(one()),
        };
        Ok(Self {
            key: required("key", model.key, model.key_base64.as_deref())?,
            kind: Some(kind),
        })
    }
}

impl TryFrom<WriteOperation> for v1::WriteOperation {
    type Error = Error;

    fn try_from(model: WriteOperation) -> Result<Self, Error> {
        let kind = match model {
            WriteOperation::Put(put) => write_operation::Kind::Put(v1::PutOperation {
                key: required("key", put.key, put.key_base64.as_deref())?,
                value: required("value", put.value, put.value_base64.as_deref())?,
                ttl_ms: ttl_ms(put.ttl_ms)?,
            }),
            WriteOperation::Delete(delete) => write_operation::Kind::Delete(v1::DeleteOperation {
                key: required("key", delete.key, delete.key_base64.as_deref())?,
            }),
            WriteOperation::Increment(increment) => {
                write_operation::Kind::Increment(v1::IncrementOperation {
                    key: required("key", increment.key, increment.key_base64.as_deref())?,
                    delta: increment.delta.0,
                })
            }
            WriteOperation::Touch(touch) => write_operation::Kind::Touch(v1::TouchOperation {
                key: required("key", touch.key, touch.key_base64.as_deref())?,
                ttl_ms: ttl_ms(touch.ttl_ms)?,
            }),
        };
        Ok(Self { kind: Some(kind) })
    }
}

/// A time to live in the gRPC contract, where 0 is none.
fn ttl_ms(given: Option<u64>) -> Result<u64, Error> {
    match given {
        None => Ok(0),
        Some(ttl_ms) if (1..=longest_ttl_ms()).contains(&ttl_ms) => Ok(ttl_ms),
        Some(0) => Err(refused_ttl("expires at once with a ttl_ms of 0")),
        Some(_) => Err(refused_ttl("can't live longer than the limit max_ttl")),
    }
}

/// The limit `max_ttl` in milliseconds.
fn longest_ttl_ms() -> u64 {
    u64::try_from(MAX_TTL.as_millis()).unwrap_or(u64::MAX)
}

fn refused_ttl(why: &str) -> Error {
    let longest = longest_ttl_ms();
    Error::invalid(format!(
        "a key {why}: give a ttl_ms from 1 to {longest} (100 years), or leave it out to keep the \
         key for ever"
    ))
}

/// Checks a namespace. An empty one is probably a mistake, and is refused.
fn named(namespace: String) -> Result<String, Error> {
    match namespace.is_empty() {
        true => Err(Error::invalid(
            "the namespace is empty; name one, or leave it out for 'default'",
        )),
        false => Ok(namespace),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::of_value;

    fn write(body: serde_json::Value) -> Result<v1::WriteRequest, String> {
        let model: WriteRequest = of_value(body)?;
        model
            .try_into()
            .map_err(|error: Error| error.message.to_string())
    }

    #[test]
    fn a_batch_has_operations_and_conditions() {
        let wire = write(json!({
            "conditions": [
                {"key": "a", "if_absent": true},
                {"key": "b", "if_present": true},
                {"key_base64": "/w==", "if_version": "18446744073709551615"},
            ],
            "operations": [
                {"put": {"key": "a", "value": "1", "ttl_ms": 5}},
                {"delete": {"key": "b"}},
                {"increment": {"key": "c", "delta": "-9223372036854775808"}},
                {"touch": {"key": "d", "ttl_ms": 7}},
                {"touch": {"key_base64": "/w=="}},
            ],
        }))
        .unwrap();
        let touched: Vec<_> = (wire.operations.iter())
            .filter_map(|operation| match &operation.kind {
                Some(write_operation::Kind::Touch(touch)) => Some((&touch.key[..], touch.ttl_ms)),
                _ => None,
            })
            .collect();
        assert_eq!(touched, [(&b"d"[..], 7), (b"\xff", 0)]);
        assert_eq!(wire.namespace, "default");
        assert_eq!(wire.conditions.len(), 3);
        assert_eq!(wire.conditions[2].key, &b"\xff"[..]);
        assert_eq!(
            wire.conditions[2].kind,
            Some(condition::Kind::IfVersion(u64::MAX))
        );
        assert!(matches!(
            &wire.operations[0].kind,
            Some(write_operation::Kind::Put(put)) if put.ttl_ms == 5 && put.value == "1"
        ));
        assert!(matches!(
            &wire.operations[2].kind,
            Some(write_operation::Kind::Increment(add)) if add.delta == i64::MIN
        ));
    }

    fn assert_refused<const N: usize>(cases: [(serde_json::Value, &str); N]) {
        for (body, word) in cases {
            let words = write(body.clone()).unwrap_err();
            assert!(words.contains(word), "{body}: {words}");
        }
    }

    #[test]
    fn an_invalid_batch_is_refused_with_the_reason() {
        let delete = json!([{"delete": {"key": "k"}}]);
        assert_refused([
            (json!({}), "operations is missing"),
            (
                json!({"operations": delete, "if": 1}),
                "no field if; there are: namespace,",
            ),
            (
                json!({"operations": delete, "conditions": [{"key": "k"}]}),
                "if_absent",
            ),
            (
                json!({"operations": delete, "conditions": [{"key": "k", "if_absent": false}]}),
                "if_absent",
            ),
            (
                json!({"operations": delete, "conditions": [{"key": "k", "if_version": "x"}]}),
                "if_version",
            ),
            (json!({"operations": delete, "namespace": ""}), "default"),
        ]);
    }

    #[test]
    fn an_invalid_operation_is_refused_with_its_place() {
        let own = "each operation is an object of its own";
        let first = |operation: serde_json::Value| json!({"operations": [operation]});
        assert_refused([
            (
                first(json!({"drop": {"key": "k"}})),
                "operations[0]: each operation is an object",
            ),
            (
                first(json!({"delete": {"key": "k"}, "put": {"key": "l", "value": ""}})),
                own,
            ),
            (first(json!({})), own),
            (
                first(json!("delete")),
                "operations[0] must be an object with one of put,",
            ),
            (first(json!({"put": {"key": "k"}})), "value is missing"),
            (first(json!({"delete": {}})), "key is missing"),
            (first(json!({"delete": ["k"]})), "must be a JSON object"),
            (
                first(json!({"delete": {"key": "k", "key_base64": null}})),
                "not null",
            ),
            (
                first(json!({"delete": {"key": "k", "key_base64": "aw=="}})),
                "one of them",
            ),
            (
                first(json!({"increment": {"key": "k", "delta": 1.5}})),
                "operations[0].increment.delta must be a whole number",
            ),
        ]);
    }

    #[test]
    fn an_invalid_time_to_live_is_refused_with_what_is_valid() {
        let touch =
            |ttl_ms: u64| json!({"operations": [{"touch": {"key": "k", "ttl_ms": ttl_ms}}]});
        let valid = "give a ttl_ms from 1 to 3153600000000 (100 years), or leave it out";
        assert_refused([
            (
                json!({"operations": [{"put": {"key": "k", "value": "", "ttl_ms": 0}}]}),
                "expires at once",
            ),
            (touch(0), valid),
            (touch(3_153_600_000_001), valid),
            (
                json!({"operations": [{"touch": {"key": "k", "value": ""}}]}),
                "no field value in operations[0].touch",
            ),
            (
                json!({"operations": [{"put": {"key": "k", "value": "", "ttl_ms": -1}}]}),
                "operations[0].put.ttl_ms must be a whole number",
            ),
        ]);
    }
}
