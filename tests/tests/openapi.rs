//! The OpenAPI document of the REST gateway, compared with the gateway by tools that share no
//! code with it.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tierkv_tests::{binary::repository, ephemeral::Ephemeral, http::Request, outside};

/// Timeout for a tool.
const LIMIT: Duration = Duration::from_secs(180);
/// Random test cases for each operation.
const EXAMPLES: &str = "40";
/// The fixed seed: every run has the same test cases.
const SEED: &str = "20261121";
/// The checks of schemathesis on every answer. The check that all valid requests succeed is left
/// out: the schema cannot express all rules (a prefix and a range exclude each other, an
/// idempotency key must be young).
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,\
                      negative_data_rejection,unsupported_method,allow_header_conformance";

#[tokio::test]
async fn the_document_is_valid() {
    let platform = Ephemeral::start().await.unwrap();
    let printed = outside::script("check_openapi.py", &[&platform.rest], LIMIT).await;
    assert_eq!(printed.unwrap_or_else(|error| panic!("{error}")), "done\n");
}

#[tokio::test]
async fn the_gateway_answers_as_its_document_says() {
    let platform = Ephemeral::start().await.unwrap();
    let document = format!("http://{}/openapi.json", platform.rest);
    let settings = repository().join("tests/outside/schemathesis.toml");
    let arguments = [
        "--config-file",
        settings.to_str().unwrap(),
        "run",
        &document,
        "--checks",
        CHECKS,
        "--max-examples",
        EXAMPLES,
        "--seed",
        SEED,
        // A watch does not end.
        "--exclude-operation-id",
        "watch",
        "--request-timeout",
        "20",
        "--no-color",
    ];
    let printed = outside::program("schemathesis", &arguments, LIMIT).await;
    let printed = printed.unwrap_or_else(|error| panic!("{error}"));
    assert!(printed.contains("14 selected / 15 total"), "{printed}");

    let put = Request::new("PUT", "/v1/kv/default/after").body(b"v");
    assert_eq!(put.send(&platform.rest).await.unwrap().status, 200);
    let ready = Request::new("GET", "/health/ready");
    assert_eq!(ready.send(&platform.rest).await.unwrap().status, 200);
}
