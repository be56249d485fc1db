//! Single keys: raw bytes in and out.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, ETAG, VARY},
    },
    response::{IntoResponse, Response},
};
use tierkv_cache::Cache;
use tierkv_openapi::{
    Deleted, Problem, Written,
    answers::{Hop, Source},
    parameters::{
        DeleteConditions, IdempotencyKey, KeyPath, PutConditions, ReadConditions as ReadHeaders,
        ReadParameters, TimeoutParameter, TtlParameter,
    },
    raw::RawValue,
    refusals::{AnyRefusal, ConditionRefusal, MediaRefusal, WriteRefusal},
};
use tierkv_rpc::proto::{
    convert,
    v1::{
        DeleteOperation, DeleteRequest, DeleteResponse, GetRequest, GetResponse, PutOperation,
        PutRequest, write_operation,
    },
};
use tierkv_types::{Code, Error};

use super::{
    Gateway,
    answer::{Failure, etag, json, json_of_version, uncounted},
    body,
    conditions::{self, ReadConditions, Verdict, on_condition},
    idempotency,
    parameters::Parameters,
    path,
};

/// The tier that answered a read.
const SOURCE: HeaderName = HeaderName::from_static("tierkv-source");
/// An upper bound of a read's staleness, in milliseconds.
const AGE_MS: HeaderName = HeaderName::from_static("tierkv-age-ms");
/// When the key expires, in milliseconds since the Unix epoch; absent: never.
const EXPIRES_AT_MS: HeaderName = HeaderName::from_static("tierkv-expires-at-ms");
/// The version up to which an absence is known.
const VERSION: HeaderName = HeaderName::from_static("tierkv-version");
/// The path a read took, in JSON, if `explain` was asked for.
const PATH: HeaderName = HeaderName::from_static("tierkv-path");

/// The value of a key
///
/// Raw bytes. Ask for `text/plain` to have a value that is UTF-8 told as text. `ETag` is the
/// version; every answer says which tier it came from and how stale it can be.
#[utoipa::path(
    get, path = "/v1/kv/{namespace}/{key}", tag = "keys", operation_id = "get",
    params(KeyPath, ReadParameters, TimeoutParameter, ReadHeaders),
    responses(
        (
            status = 200, description = "The value.",
            content((inline(RawValue) = "application/octet-stream"), (String = "text/plain")),
            headers(
                ("ETag" = String, description = "The version, in double quotes."),
                ("tierkv-source" = String, description = "`cache`, `replica` or `master`."),
                ("tierkv-age-ms" = u32, description = "An upper bound of the answer's staleness, in milliseconds."),
                ("tierkv-expires-at-ms" = u64, description = "When the key expires, in milliseconds since the Unix epoch; absent: never."),
                ("tierkv-path" = String, description = "With `explain`: the path of the read, as a JSON array of `tier`, `node` and `micros`."),
            ),
        ),
        (status = 304, description = "The key is still in a version that `If-None-Match` names."),
        (
            status = 404, description = "The key is absent.",
            body = Problem, content_type = "application/problem+json",
            headers(("tierkv-version" = String, description = "The version up to which the absence is known.")),
        ),
        AnyRefusal, ConditionRefusal,
    ),
)]
pub(super) async fn get<C: Cache>(
    State(gateway): State<Arc<Gateway<C>>>,
    request: Request,
) -> Result<Response, Failure> {
    let (head, _) = request.into_parts();
    let (namespace, key) = path::item(&head.uri, path::KV)?;
    let mut parameters = Parameters::of(&head.uri)?;
    let mut options = parameters.read_options()?;
    options.explain = parameters.flag("explain")?;
    let deadline = parameters.deadline()?;
    parameters.finish()?;
    let conditions = ReadConditions::of(&head.headers)?;
    let read = GetRequest {
        namespace,
        key,
        options: Some(options),
    };
    let answer = gateway.operations.get(read, deadline).await?;
    let mut response = match answer.found {
        true => present(&head.headers, &conditions, &answer),
        false => uncounted(&Error::new(
            Code::NotFound,
            "the key is absent; PUT a value to this address to create it",
        )),
    };
    describe(response.headers_mut(), answer)?;
    Ok(response)
}

/// Whether a key is there
///
/// What GET answers, without the value.
#[utoipa::path(
    head, path = "/v1/kv/{namespace}/{key}", tag = "keys", operation_id = "head",
    params(KeyPath, ReadParameters, TimeoutParameter, ReadHeaders),
    responses(
        (
            status = 200, description = "The key is there.",
            headers(
                ("ETag" = String, description = "The version, in double quotes."),
                ("tierkv-source" = String, description = "`cache`, `replica` or `master`."),
                ("tierkv-age-ms" = u32, description = "An upper bound of the answer's staleness, in milliseconds."),
                ("tierkv-expires-at-ms" = u64, description = "When the key expires, in milliseconds since the Unix epoch; absent: never."),
            ),
        ),
        (status = 304, description = "The key is still in a version that `If-None-Match` names."),
        (status = 400, description = "The request can't succeed as it is: correct it."),
        (status = 403, description = "The request comes for a web page of another origin, or for another host."),
        (status = 404, description = "The key is absent."),
        (status = 412, description = "`If-Match` does not hold."),
        (status = 429, description = "A limit is reached: wait."),
        (status = 500, description = "A defect."),
        (status = 503, description = "Nothing was done: retry."),
        (status = 504, description = "The time was over."),
    ),
)]
pub(super) async fn head<C: Cache>(
    state: State<Arc<Gateway<C>>>,
    request: Request,
) -> Result<Response, Failure> {
    // The server drops the body and keeps its length.
    get(state, request).await
}

/// Sets a key
///
/// The body is the value, up to 1 MiB of any bytes. With `If-None-Match: *` only if the key is
/// absent, with `If-Match` only if it is in the version named there, or at all (`*`).
#[utoipa::path(
    put, path = "/v1/kv/{namespace}/{key}", tag = "keys", operation_id = "put",
    params(KeyPath, TtlParameter, TimeoutParameter, PutConditions, IdempotencyKey),
    request_body(
        description = "The value. Its type is not kept.",
        content = inline(RawValue), content_type = "application/octet-stream", example = "hello",
    ),
    responses(
        (
            status = 200, description = "It is set, durably.", body = Written,
            headers(("ETag" = String, description = "The new version, in double quotes.")),
        ),
        AnyRefusal, WriteRefusal, ConditionRefusal, MediaRefusal,
    ),
)]
pub(super) async fn put<C: Cache>(
    State(gateway): State<Arc<Gateway<C>>>,
    request: Request,
) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let (namespace, key) = path::item(&head.uri, path::KV)?;
    let mut parameters = Parameters::of(&head.uri)?;
    let ttl_ms = parameters.ttl_ms()?;
    let deadline = parameters.deadline()?;
    parameters.finish()?;
    let condition = conditions::of_put(&head.headers)?;
    if head.headers.contains_key(CONTENT_RANGE) {
        return Err(Error::invalid(
            "a PUT sets a whole value; leave Content-Range out (RFC 9110, section 14.5)",
        )
        .into());
    }
    let name = idempotency::hash_of(&head.headers, &namespace)?;
    let value = body::value(&head.headers, body, deadline).await?;
    let written = match condition {
        None => {
            let put = PutRequest {
                namespace,
                key,
                value,
                ttl_ms,
                request_id: None,
            };
            let put = gateway.operations.put(put, name, deadline).await;
            put.map(|put| put.version)
        }
        Some(condition) => {
            convert::check_value(&value)?;
            let operation = write_operation::Kind::Put(PutOperation {
                key: key.clone(),
                value,
                ttl_ms,
            });
            let write = on_condition(namespace, key, condition, operation);
            let write = gateway.operations.write(write, name, deadline).await;
            write.map(|write| write.version)
        }
    };
    let version = written.map_err(idempotency::failure)?;
    let written = Written {
        version: version.to_string(),
    };
    Ok(json_of_version(&written, version))
}

/// Removes a key
///
/// Removing an absent key succeeds, with `existed` false.
#[utoipa::path(
    delete, path = "/v1/kv/{namespace}/{key}", tag = "keys", operation_id = "delete",
    params(KeyPath, TimeoutParameter, DeleteConditions, IdempotencyKey),
    responses(
        (status = 200, description = "It is removed, durably.", body = Deleted),
        AnyRefusal, WriteRefusal, ConditionRefusal,
    ),
)]
pub(super) async fn delete<C: Cache>(
    State(gateway): State<Arc<Gateway<C>>>,
    request: Request,
) -> Result<Response, Failure> {
    let (head, _) = request.into_parts();
    let (namespace, key) = path::item(&head.uri, path::KV)?;
    let mut parameters = Parameters::of(&head.uri)?;
    let deadline = parameters.deadline()?;
    parameters.finish()?;
    let condition = conditions::of_delete(&head.headers)?;
    let name = idempotency::hash_of(&head.headers, &namespace)?;
    let answer = match condition {
        None => {
            let delete = DeleteRequest {
                namespace,
                key,
                request_id: None,
            };
            gateway.operations.delete(delete, name, deadline).await
        }
        Some(condition) => {
            let operation = write_operation::Kind::Delete(DeleteOperation { key: key.clone() });
            let write = on_condition(namespace, key, condition, operation);
            let write = gateway.operations.write(write, name, deadline).await;
            write.map(|answer| DeleteResponse {
                existed: answer.results.first().is_some_and(|result| result.existed),
                version: answer.version,
            })
        }
    };
    let answer = answer.map_err(idempotency::failure)?;
    Ok(json(&Deleted {
        existed: answer.existed,
        version: answer.version.to_string(),
    }))
}

/// The response to a read of a key that is present.
fn present(headers: &HeaderMap, conditions: &ReadConditions, answer: &GetResponse) -> Response {
    let mut response = match conditions.judge(answer.version) {
        Verdict::Whole => {
            let media_type = media_type(headers, &answer.value);
            ([(CONTENT_TYPE, media_type)], answer.value.clone()).into_response()
        }
        Verdict::NotModified => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        Verdict::Failed => Failure::from(Error::new(
            Code::ConditionFailed,
            "the key is in none of the versions that If-Match names",
        ))
        .into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, etag(answer.version));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    response
}

/// Values are bytes; a client that accepts text explicitly gets UTF-8 values as text.
fn media_type(headers: &HeaderMap, value: &[u8]) -> &'static str {
    let mut wanted = (headers.get_all(ACCEPT).iter())
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(|range| range.split(|byte| *byte == b';').next().unwrap_or_default());
    let text = wanted.any(|range| range.trim_ascii().eq_ignore_ascii_case(b"text/plain"));
    match text && std::str::from_utf8(value).is_ok() {
        true => "text/plain; charset=utf-8",
        false => "application/octet-stream",
    }
}

/// Adds the headers for the tier that answered and the freshness.
fn describe(headers: &mut HeaderMap, answer: GetResponse) -> Result<(), Error> {
    let source = Source::from_wire(answer.source).name();
    headers.insert(SOURCE, HeaderValue::from_static(source));
    headers.insert(AGE_MS, HeaderValue::from(answer.age_ms));
    if answer.expires_at_ms != 0 {
        headers.insert(EXPIRES_AT_MS, HeaderValue::from(answer.expires_at_ms));
    }
    if !answer.found {
        headers.insert(VERSION, HeaderValue::from(answer.version));
    }
    if !answer.path.is_empty() {
        let path: Vec<Hop> = answer.path.into_iter().map(Into::into).collect();
        let header = (serde_json::to_vec(&path).ok())
            .and_then(|json| HeaderValue::from_maybe_shared(bytes::Bytes::from(json)).ok());
        let header = header.ok_or_else(|| {
            Error::new(Code::Internal, "the path of the read does not fit a header")
        })?;
        headers.insert(PATH, header);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_sent_as_text_when_asked_for() {
        let chosen = |accept: &str, value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
            media_type(&headers, value)
        };
        for accept in ["text/plain", "application/json, TEXT/PLAIN;q=0.5"] {
            assert_eq!(
                chosen(accept, b"v"),
                "text/plain; charset=utf-8",
                "{accept}"
            );
            assert_eq!(
                chosen(accept, b"\xff"),
                "application/octet-stream",
                "{accept}"
            );
        }
        for accept in ["*/*", "text/html", "text/*", ""] {
            assert_eq!(chosen(accept, b"v"), "application/octet-stream", "{accept}");
        }
    }
}
