//! The REST gateway of a real platform.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

mod batches;
mod bodies;
mod conditions;
mod idempotency;
mod keys;
mod listing;
mod operators;
mod refusals;
mod touches;
mod watching;
mod web_pages;

use std::time::Duration;

use serde_json::Value;
use tierkv_openapi::Problem;
use tierkv_tests::{
    ephemeral::Ephemeral,
    http::{Request, Response},
};

/// Timeout for a filled cache or a current metric.
const PATIENCE: Duration = Duration::from_secs(30);

async fn call(platform: &Ephemeral, method: &str, path: &str) -> Response {
    Request::new(method, path)
        .send(&platform.rest)
        .await
        .unwrap()
}

async fn get(platform: &Ephemeral, path: &str) -> Response {
    call(platform, "GET", path).await
}

/// Sets a key; returns the version.
async fn put(platform: &Ephemeral, path: &str, value: &[u8]) -> u64 {
    let request = Request::new("PUT", path).body(value);
    let response = request.send(&platform.rest).await.unwrap();
    let version = response.json()["version"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert_eq!(response.status, 200, "{path}: {response:?}");
    assert_eq!(
        response.header("etag"),
        Some(format!("\"{version}\"").as_str())
    );
    version.parse().unwrap()
}

/// Checks that a failed request has a problem document, and returns it.
fn problem(response: &Response, status: u16, code: &str) -> Problem {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(
        response.header("content-type"),
        Some("application/problem+json")
    );
    let problem: Problem = serde_json::from_slice(&response.body).unwrap();
    assert_eq!((problem.status, problem.code.as_str()), (status, code));
    assert!(!problem.detail.is_empty() && !problem.title.is_empty());
    problem
}

/// Sends a request with headers and a body.
async fn send(
    platform: &Ephemeral,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let mut request = Request::new(method, path).body(body);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.send(&platform.rest).await.unwrap()
}

/// Posts JSON.
async fn post(platform: &Ephemeral, path: &str, body: &Value) -> Response {
    let headers = [("content-type", "application/json")];
    send(
        platform,
        "POST",
        path,
        &headers,
        body.to_string().as_bytes(),
    )
    .await
}
