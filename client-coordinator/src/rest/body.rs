//! Bodies of requests, read whole within their limits and their time.

use axum::{
    body::Body,
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT},
    },
};
use bytes::Bytes;
use futures::{TryStreamExt, future::ready};
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

/// Most bytes of a refused body that are read before its answer.
const DISCARDED_BYTES: usize = 16 << 20;

/// A value, up to the largest there is.
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

/// A JSON document of the shape `T`.
///
/// # Errors
/// `InvalidArgument` if it has another shape or ends early, with status 415 if it says that
/// it is no JSON; `ResourceExhausted` over the limit `max_request_bytes`;
/// `DeadlineExceeded`.
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
        return Err(
            Error::invalid("the body is empty, and this takes JSON; /docs shows what").into(),
        );
    }
    object::document(&bytes).map_err(|error| {
        Error::invalid(format!(
            "the body is not the JSON that is expected here: {error}"
        ))
        .into()
    })
}

/// Refuses a body that says it is no JSON. A page of another site can't send JSON here
/// without asking first, but it could send a form.
fn check_media_type(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(told) = headers.get(CONTENT_TYPE) else {
        return Ok(());
    };
    let essence = told.as_bytes().split(|byte| *byte == b';').next();
    let essence = essence.unwrap_or_default().trim_ascii();
    if essence.eq_ignore_ascii_case(b"application/json") {
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
    mut body: Body,
    limit: usize,
    deadline: Instant,
    too_large: impl Fn() -> Error,
) -> Result<Bytes, Error> {
    let told = (headers.get(CONTENT_LENGTH))
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<u64>().ok());
    if told.is_some_and(|told| told > limit as u64) {
        // Who asked whether to send it has not sent it.
        if !headers.contains_key(EXPECT) {
            discard(&mut body, deadline).await;
        }
        return Err(too_large());
    }
    let collected = timeout_at(deadline, Limited::new(&mut body, limit).collect()).await;
    let collected = collected.map_err(|_| {
        Error::new(
            Code::DeadlineExceeded,
            "the body did not arrive in time; nothing was done",
        )
    })?;
    match collected {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            discard(&mut body, deadline).await;
            Err(too_large())
        }
        Err(error) if LateBody::is_in(&*error) => Err(LateBody::error()),
        Err(_) => Err(Error::invalid(
            "the body ended before it was whole; send it again",
        )),
    }
}

/// Reads what is left of a body that is refused, up to [`DISCARDED_BYTES`]. A connection that
/// is closed on unread bytes takes the answer with it.
async fn discard(body: &mut Body, deadline: Instant) {
    let rest = Limited::new(body, DISCARDED_BYTES);
    let read = rest.into_data_stream().try_for_each(|_| ready(Ok(())));
    // Whether it ended, broke off or was too long: it is refused in any case.
    let _ = timeout_at(deadline, read).await;
}
