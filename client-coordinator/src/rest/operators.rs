//! Addresses for operators and their monitoring.

use std::sync::Arc;

use axum::{
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use tierkv_cache::Cache;
use tierkv_openapi::{
    ClusterReport, Problem,
    refusals::{AdmissionRefusal, AnyRefusal},
};
use tierkv_types::Error;

use super::{
    Gateway,
    answer::{Failure, json, uncounted},
};

/// The topology and its health
#[utoipa::path(
    get, path = "/v1/cluster", tag = "operators", operation_id = "cluster",
    responses(
        (status = 200, description = "All tiers and their nodes.", body = ClusterReport),
        AnyRefusal,
    ),
)]
pub(super) async fn cluster<C: Cache>(
    State(gateway): State<Arc<Gateway<C>>>,
) -> Result<Response, Failure> {
    let report = gateway.admin.cluster().await?;
    Ok(json(&ClusterReport::from(report)))
}

/// Whether this process answers
#[utoipa::path(
    get, path = "/health/live", tag = "operators", operation_id = "live",
    responses(
        (status = 200, description = "It does.", body = String, content_type = "text/plain"),
        AdmissionRefusal,
    ),
)]
pub(super) async fn live() -> &'static str {
    "live\n"
}

/// Whether the platform answers
#[utoipa::path(
    get, path = "/health/ready", tag = "operators", operation_id = "ready",
    responses(
        (status = 200, description = "The master of at least one cluster answered lately.", body = String, content_type = "text/plain"),
        (status = 503, description = "None did.", body = Problem, content_type = "application/problem+json"),
        AdmissionRefusal,
    ),
)]
pub(super) async fn ready<C: Cache>(State(gateway): State<Arc<Gateway<C>>>) -> Response {
    match gateway.readiness.is_ready() {
        true => "ready\n".into_response(),
        false => uncounted(&Error::unavailable(
            "no cluster's master has answered lately",
        )),
    }
}

/// The metrics of this process
///
/// In the text format of Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operators", operation_id = "metrics",
    responses(
        (status = 200, description = "The metrics.", body = String, content_type = "text/plain"),
        AdmissionRefusal,
    ),
)]
pub(super) async fn metrics<C: Cache>(State(gateway): State<Arc<Gateway<C>>>) -> Response {
    let page = (gateway.metrics.0)();
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        page,
    )
        .into_response()
}
