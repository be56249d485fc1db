//! Additions to numbers.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use tierkv_cache::Cache;
use tierkv_openapi::{
    answers::Incremented,
    parameters::{IdempotencyKey, NumberPath, TimeoutParameter},
    refusals::{AnyRefusal, MediaRefusal, WriteRefusal},
    requests::IncrementRequest,
};
use tierkv_rpc::proto::v1;

use super::{
    Gateway,
    answer::{Failure, json_of_version},
    body, conditions, idempotency,
    parameters::Parameters,
    path,
};

/// Adds to a number
///
/// The value is a whole decimal number of 64 bits with its sign; an absent key counts as 0.
/// An expiry is kept.
#[utoipa::path(
    post, path = "/v1/increment/{namespace}/{key}", tag = "keys", operation_id = "increment",
    params(NumberPath, TimeoutParameter, IdempotencyKey),
    request_body(content = IncrementRequest, example = json!({"delta": 1})),
    responses(
        (
            status = 200, description = "The number after it.", body = Incremented,
            headers(("ETag" = String, description = "The new version, in double quotes.")),
        ),
        AnyRefusal, WriteRefusal, MediaRefusal,
    ),
)]
pub(super) async fn increment<C: Cache>(
    State(gateway): State<Arc<Gateway<C>>>,
    request: Request,
) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let (namespace, key) = path::item(&head.uri, path::INCREMENT)?;
    let mut parameters = Parameters::of(&head.uri)?;
    let deadline = parameters.deadline()?;
    parameters.finish()?;
    conditions::none(
        &head.headers,
        "an increment takes no conditions; write it as a batch at /v1/write",
    )?;
    let name = idempotency::hash_of(&head.headers, &namespace)?;
    let model: IncrementRequest = body::json(&head.headers, body, deadline).await?;
    let increment = v1::IncrementRequest {
        namespace,
        key,
        delta: model.delta.0,
        request_id: None,
    };
    let answer = gateway
        .operations
        .increment(increment, name, deadline)
        .await;
    let answer = answer.map_err(idempotency::failure)?;
    let incremented = Incremented {
        value: answer.value.to_string(),
        version: answer.version.to_string(),
    };
    Ok(json_of_version(&incremented, answer.version))
}
