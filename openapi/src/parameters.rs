//! The parameters of requests, for the OpenAPI document only. The gateway parses them from the
//! raw URL, because keys are any bytes.

use utoipa::IntoParams;

use crate::requests::Consistency;

/// Where a key is.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct KeyPath {
    /// The namespace.
    #[param(example = "default", pattern = "^[a-z0-9][a-z0-9_-]{0,62}$")]
    pub namespace: String,
    /// The key: 1 to 1,024 bytes, percent-encoded; `+` is a plus sign. Many clients rewrite the
    /// keys `.` and `..`: use `batch-get` and `write` for them.
    #[param(example = "greeting", min_length = 1, max_length = 1024)]
    pub key: String,
}

/// Where a number is.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct NumberPath {
    /// The namespace.
    #[param(example = "default", pattern = "^[a-z0-9][a-z0-9_-]{0,62}$")]
    pub namespace: String,
    /// The key: 1 to 1,024 bytes, percent-encoded; `+` is a plus sign.
    #[param(example = "visits", min_length = 1, max_length = 1024)]
    pub key: String,
}

/// Where many keys are.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct NamespacePath {
    /// The namespace.
    #[param(example = "default", pattern = "^[a-z0-9][a-z0-9_-]{0,62}$")]
    pub namespace: String,
}

/// The timeout of a request.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TimeoutParameter {
    /// Timeout of the request, as in `500ms` or `2s`; 5 s by default, at most 60 s. A write whose
    /// timeout is over is refused before it is logged.
    #[param(pattern = "^[1-9][0-9]{0,4}(ms|s)$", nullable = false)]
    pub timeout: Option<String>,
}

/// How fresh a read of one key must be.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ReadParameters {
    /// `cached` (at most `max_staleness` old; the default), `session` (the same, and at least
    /// `min_version`) or `latest` (linearizable for the key).
    #[param(nullable = false)]
    pub consistency: Option<Consistency>,
    /// The least version of the key that the answer may reflect; implies `session`.
    #[param(pattern = "^[0-9]{1,20}$", nullable = false)]
    pub min_version: Option<String>,
    /// The request's own bound on staleness, in milliseconds.
    #[param(nullable = false)]
    pub max_staleness_ms: Option<u32>,
    /// Adds the path of the read, in the header `tierkv-path`.
    #[param(nullable = false)]
    pub explain: Option<bool>,
}

/// How fresh a read of many keys must be.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListingParameters {
    /// `cached` (at most `max_staleness` old; the default), `session` (the same, and at least
    /// `min_version`) or `latest`.
    #[param(nullable = false)]
    pub consistency: Option<Consistency>,
    /// The least version that the answer may reflect; implies `session`.
    #[param(pattern = "^[0-9]{1,20}$", nullable = false)]
    pub min_version: Option<String>,
    /// The request's own bound on staleness, in milliseconds.
    #[param(nullable = false)]
    pub max_staleness_ms: Option<u32>,
}

/// Selects keys.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SelectionParameters {
    /// Only keys with this prefix; without a prefix and a range, all keys.
    #[param(nullable = false)]
    pub prefix: Option<String>,
    /// The prefix as base64.
    #[param(
        nullable = false,
        pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
    )]
    pub prefix_base64: Option<String>,
    /// The first key of a range; a range and a prefix exclude each other.
    #[param(nullable = false)]
    pub start: Option<String>,
    /// The first key of a range as base64.
    #[param(
        nullable = false,
        pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
    )]
    pub start_base64: Option<String>,
    /// The first key after a range.
    #[param(nullable = false)]
    pub end: Option<String>,
    /// The first key after a range as base64.
    #[param(
        nullable = false,
        pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
    )]
    pub end_base64: Option<String>,
}

/// Selects a page.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageParameters {
    /// The most items of the page; 100 by default. A page of large values may have fewer.
    #[param(minimum = 1, maximum = 1000, nullable = false)]
    pub limit: Option<u32>,
    /// The `next_page_token` of the page before, with the same selection.
    #[param(nullable = false, pattern = "^[A-Za-z0-9_-]*$")]
    pub page_token: Option<String>,
}

/// Selects the changes of a watch.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WatchParameters {
    /// Only keys with this prefix; without it, all keys.
    #[param(nullable = false)]
    pub prefix: Option<String>,
    /// The prefix as base64.
    #[param(
        nullable = false,
        pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
    )]
    pub prefix_base64: Option<String>,
    /// The id of the last event received; the watch resumes after it. Without it, from now on.
    #[param(nullable = false, pattern = "^[A-Za-z0-9_-]*$")]
    pub resume_token: Option<String>,
}

/// Where a browser's watch resumes after a lost connection.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct LastEventId {
    /// The id of the last event received; overrides `resume_token`.
    #[param(rename = "Last-Event-ID", nullable = false)]
    pub last_event_id: Option<String>,
}

/// How long a key lives.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TtlParameter {
    /// The time to live, as in `1500ms`, `60s`, `15m`, `12h` or `30d`; without it, the key never
    /// expires.
    #[param(pattern = "^[1-9][0-9]{0,3}(ms|s|m|h|d)$", nullable = false)]
    pub ttl: Option<String>,
}

/// Conditions of a read.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct ReadConditions {
    /// The client's versions, in quotes: if the key has one of them, the answer is 304 without the
    /// value.
    #[param(
        rename = "If-None-Match",
        nullable = false,
        pattern = r#"^(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$"#
    )]
    pub if_none_match: Option<String>,
    /// Versions in quotes: if the key has none of them, the answer is 412.
    #[param(
        rename = "If-Match",
        nullable = false,
        pattern = r#"^(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$"#
    )]
    pub if_match: Option<String>,
}

/// Conditions of a PUT.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct PutConditions {
    /// `"<version>"`: only if the key has this version; `*`: only if it is present.
    #[param(
        rename = "If-Match",
        nullable = false,
        pattern = r#"^(\*|"[1-9][0-9]{0,18}")$"#
    )]
    pub if_match: Option<String>,
    /// `*`: only if the key is absent.
    #[param(rename = "If-None-Match", nullable = false, pattern = "^\\*$")]
    pub if_none_match: Option<String>,
}

/// Conditions of a DELETE.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct DeleteConditions {
    /// `"<version>"`: only if the key has this version; `*`: only if it is present.
    #[param(
        rename = "If-Match",
        nullable = false,
        pattern = r#"^(\*|"[1-9][0-9]{0,18}")$"#
    )]
    pub if_match: Option<String>,
}

/// A client's name for a write.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct IdempotencyKey {
    /// A name for the write, such as a UUID: 1 to 255 visible characters, plain or in double
    /// quotes. Send it again with every retry, and the write is applied at most once. It is
    /// remembered for two minutes from its first arrival, within its namespace.
    #[param(
        rename = "Idempotency-Key",
        nullable = false,
        pattern = r#"^([!#-~][!-~]{0,254}|"([!#-\[\]-~]|\\[\\"]){1,255}")$"#
    )]
    pub idempotency_key: Option<String>,
}
