//! Many keys at once, named in JSON.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use tierkv_cache::Cache;
use tierkv_openapi::{
    answers::{BatchGetAnswer, BatchWritten, OperationKind},
    parameters::{self, TimeoutParameter},
    refusals::{AnyRefusal, ConditionRefusal, MediaRefusal, WriteRefusal},
    requests::{BatchGetRequest, WriteRequest},
};
use tierkv_rpc::proto::v1;

use super::{
    Gateway,
    answer::{Failure, json, json_of_version},
    body, conditions,
    idempotency::{self, IdempotencyKey},
    parameters::Parameters,
};

/// The values of many keys
///
/// Up to 1,000 keys of one namespace; answers stand in the order of the keys. Each key is read
/// on its own: a reader may see half of an atomic write.
#[utoipa::path(
    post, path = "/v1/batch-get", tag = "batches", operation_id = "batch_get",
    params(TimeoutParameter),
    request_body(
        content = BatchGetRequest,
        example = json!({"namespace": "default", "keys": [{"key": "greeting"}, {"key_base64": "/w=="}]}),
    ),
    responses(
        (status = 200, description = "What the keys hold.", body = BatchGetAnswer),
        AnyRefusal, MediaRefusal,
    ),
)]
pub(super) async fn batch_get<C: Cache>(
    State(gateway): State<Arc<Gateway<C>>>,
    request: Request,
) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let mut parameters = Parameters::of(&head.uri)?;
    let deadline = parameters.deadline()?;
    parameters.finish()?;
    let model: BatchGetRequest = body::json(&head.headers, body, deadline).await?;
    let read = v1::BatchGetRequest::try_from(model)?;
    let keys = read.keys.clone();
    let answer = gateway.operations.batch_get(read, deadline).await?;
    Ok(json(&BatchGetAnswer::new(&keys, answer)))
}

/// An atomic batch
///
/// Applies all operations if all conditions hold, or none; all get one version. No two
/// operations are of one key; operations and conditions are 1,000 together at most.
#[utoipa::path(
    post, path = "/v1/write", tag = "batches", operation_id = "write",
    params(TimeoutParameter, parameters::IdempotencyKey),
    request_body(
        content = WriteRequest,
        examples(
            ("put and increment" = (value = json!({
                "namespace": "default",
                "operations": [
                    {"put": {"key": "greeting", "value": "hello"}},
                    {"increment": {"key": "greetings", "delta": 1}},
                ],
            }))),
            ("only if absent" = (value = json!({
                "namespace": "default",
                "conditions": [{"key": "leader", "if_absent": true}],
                "operations": [{"put": {"key": "leader", "value": "me", "ttl_ms": 30000}}],
            }))),
        ),
    ),
    responses(
        (
            status = 200, description = "It is applied, durably.", body = BatchWritten,
            headers(("ETag" = String, description = "The version of everything it changed, in double quotes.")),
        ),
        AnyRefusal, WriteRefusal, ConditionRefusal, MediaRefusal,
    ),
)]
pub(super) async fn write<C: Cache>(
    State(gateway): State<Arc<Gateway<C>>>,
    request: Request,
) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let mut parameters = Parameters::of(&head.uri)?;
    let deadline = parameters.deadline()?;
    parameters.finish()?;
    conditions::none(&head.headers, "a batch has its conditions in its body")?;
    let key = IdempotencyKey::of(&head.headers)?;
    let model: WriteRequest = body::json(&head.headers, body, deadline).await?;
    let write = v1::WriteRequest::try_from(model)?;
    let name = key.map(|key| key.hash(&write.namespace)).transpose()?;
    let (kinds, return_previous) = (OperationKind::all(&write), write.return_previous);
    let answer = gateway.operations.write(write, name, deadline).await;
    let answer = answer.map_err(idempotency::failure)?;
    let version = answer.version;
    let written = BatchWritten::new(&kinds, return_previous, answer);
    Ok(json_of_version(&written, version))
}
