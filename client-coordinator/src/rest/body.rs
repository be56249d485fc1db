//! Reads request bodies whole, within their limits and timeout.

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tierkv_openapi::object;
use tierkv_types::{
    Code, Error,
    limits::{MAX_REQUEST_BYTES, MAX_VALUE_BYTES},
};
use tokio::time::{Instant, timeout_at};

use super::answer::Failure;
use crate::timely::LateBody;

/// A value, up to the maximum size.
///
/// # Errors
/// `InvalidArgument` over the limit `max_value_bytes` or if the body ends early,
/// `DeadlineExceeded`.
pub(super) async fn value(
    headers: &HeaderMap,
    body: Body,
    deadline: Instant,
) -> Result<Bytes, Error> {
    whole(headers, body, MAX_VALUE_BYTES, deadline, || {
        Error::invalid(format!(
            "the value is larger than the limit max_value_bytes, {MAX_VALUE_BYTES}"
        ))
    })
    .await
}

/// Checks that there is no body, where it would be ignored.
///
/// # Errors
/// `InvalidArgument` if there is one; `DeadlineExceeded`.
pub(super) async fn none(headers: &HeaderMap, body: Body, deadline: Instant) -> Result<(), Error> {
    let refusal = || Error::invalid("this takes no body; leave it out");
    whole(headers, body, 0, deadline, refusal).await.map(drop)
}

/// A JSON document of the shape `T`.
///
/// `InvalidArgument` if it has another shape or ends early; with status 415 if its type is not
/// JSON. `ResourceExhausted` over the limit `max_request_bytes`. `DeadlineExceeded`.
pub(super) async fn json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
    deadline: Instant,
) -> Result<T, Failure> {
    check_media_type(headers)?;
    let bytes = whole(headers, body, MAX_REQUEST_BYTES, deadline, || {
        Error::exhausted(format!(
            "the body is larger than the limit max_request_bytes, {MAX_REQUEST_BYTES}; send \
             less at once"
        ))
    })
    .await?;
    if bytes.is_empty() {
        return Err(Error::invalid("the body is empty; send JSON as described at /docs").into());
    }
    object::document(&bytes).map_err(|why| {
        Error::invalid(format!(
            "the body is not the JSON that is expected here: {why}"
        ))
        .into()
    })
}

/// Refuses a body whose type is not JSON. A browser lets a page of another site send a form, or a
/// body without a type, but sends JSON only if this server agrees first.
fn check_media_type(headers: &HeaderMap) -> Result<(), Failure> {
    let is_json = |value: &HeaderValue| {
        let essence = value.as_bytes().split(|byte| *byte == b';').next();
        let essence = essence.unwrap_or_default().trim_ascii();
        essence.eq_ignore_ascii_case(b"application/json")
    };
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    if types.next().is_some_and(is_json) && types.next().is_none() {
        return Ok(());
    }
    Err(Failure::with_status(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Error::invalid("the body must be JSON; send it with 'content-type: application/json'"),
    ))
}

/// The whole body, up to `limit` bytes and until `deadline`.
async fn whole(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    deadline: Instant,
    too_large: impl Fn() -> Error,
) -> Result<Bytes, Error> {
    let declared = (headers.get(CONTENT_LENGTH))
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<u64>().ok());
    if declared.is_some_and(|declared| declared > limit as u64) {
        return Err(too_large());
    }
    let collected = timeout_at(deadline, Limited::new(body, limit).collect()).await;
    let collected = collected.map_err(|_| {
        Error::new(
            Code::DeadlineExceeded,
            "the body did not arrive in time; nothing was done",
        )
    })?;
    match collected {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) if LateBody::is_in(&*error) => Err(LateBody::error()),
        Err(_) => Err(Error::invalid(
            "the body ended before it was whole; send it again",
        )),
    }
}
