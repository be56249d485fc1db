//! The document of the REST gateway, held against the gateway by tools that share no code
//! with it.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tierkv_tests::{binary::repository, ephemeral::Ephemeral, http::Request, outside};

/// How long a tool may take at the very most.
const LIMIT: Duration = Duration::from_secs(180);
/// Test cases that are made of chance for each operation.
const EXAMPLES: &str = "40";
/// Where chance begins: a run is the same each time.
const SEED: &str = "20261121";
/// What schemathesis checks of every answer. It knows more: that all valid requests succeed
/// can't be read off a schema here (a prefix and a range exclude each other, an idempotency
/// key has to be young).
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,\
                      negative_data_rejection,unsupported_method,allow_header_conformance";

#[tokio::test]
async fn the_document_is_valid() {
    let platform = Ephemeral::start().await.unwrap();
    let said = outside::script("check_openapi.py", &[&platform.rest], LIMIT).await;
    assert_eq!(said.unwrap_or_else(|error| panic!("{error}")), "done\n");
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
        // A watch has no end.
        "--exclude-operation-id",
        "watch",
        "--request-timeout",
        "20",
        "--no-color",
    ];
    let said = outside::program("schemathesis", &arguments, LIMIT).await;
    let said = said.unwrap_or_else(|error| panic!("{error}"));
    assert!(said.contains("14 selected / 15 total"), "{said}");

    let put = Request::new("PUT", "/v1/kv/default/after").body(b"v");
    assert_eq!(put.send(&platform.rest).await.unwrap().status, 200);
    let ready = Request::new("GET", "/health/ready");
    assert_eq!(ready.send(&platform.rest).await.unwrap().status, 200);
}
