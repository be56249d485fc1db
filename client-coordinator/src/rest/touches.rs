//! Keys that expire at another time.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use tierkv_cache::Cache;
use tierkv_openapi::{
    Problem, Written,
    parameters::{DeleteConditions, IdempotencyKey, KeyPath, TimeoutParameter, TtlParameter},
    refusals::{AnyRefusal, ConditionRefusal, MediaRefusal, WriteRefusal},
};
use tierkv_rpc::proto::v1::{TouchOperation, TouchRequest, write_operation};

use super::{
    Gateway,
    answer::{Failure, json_of_version},
    body,
    conditions::{self, on_condition},
    idempotency,
    parameters::Parameters,
    path,
};

/// Sets when a key expires
///
/// The key keeps its value and gets a new version. With `ttl` it lives for so long from now on,
/// without it for ever.
#[utoipa::path(
    post, path = "/v1/touch/{namespace}/{key}", tag = "keys", operation_id = "touch",
    params(KeyPath, TtlParameter, TimeoutParameter, DeleteConditions, IdempotencyKey),
    responses(
        (
            status = 200, description = "It is done, durably.", body = Written,
            headers(("ETag" = String, description = "The new version, in double quotes.")),
        ),
        (
            status = 404, description = "The key is absent (`NotFound`); nothing was done.",
            body = Problem, content_type = "application/problem+json",
        ),
        AnyRefusal, WriteRefusal, ConditionRefusal, MediaRefusal,
    ),
)]
pub(super) async fn touch<C: Cache>(
    State(gateway): State<Arc<Gateway<C>>>,
    request: Request,
) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let (namespace, key) = path::item(&head.uri, path::TOUCH)?;
    let mut parameters = Parameters::of(&head.uri)?;
    let ttl_ms = parameters.ttl_ms()?;
    let deadline = parameters.deadline()?;
    parameters.finish()?;
    let condition = conditions::of_touch(&head.headers)?;
    let name = idempotency::hash_of(&head.headers, &namespace)?;
    body::none(&head.headers, body, deadline).await?;
    let touched = match condition {
        None => {
            let touch = TouchRequest {
                namespace,
                key,
                ttl_ms,
                request_id: None,
            };
            let touch = gateway.operations.touch(touch, name, deadline).await;
            touch.map(|touch| touch.version)
        }
        Some(condition) => {
            let operation = write_operation::Kind::Touch(TouchOperation {
                key: key.clone(),
                ttl_ms,
            });
            let write = on_condition(namespace, key, condition, operation);
            let write = gateway.operations.write(write, name, deadline).await;
            write.map(|write| write.version)
        }
    };
    let version = touched.map_err(idempotency::failure)?;
    let written = Written {
        version: version.to_string(),
    };
    Ok(json_of_version(&written, version))
}
