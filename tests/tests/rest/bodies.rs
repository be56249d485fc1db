//! Bodies that are broken, late, too large or of another kind.

use std::time::Duration;

use serde_json::json;
use tierkv_tests::{ephemeral::Ephemeral, http::Request};
use tierkv_types::limits::{MAX_OPERATIONS, MAX_REQUEST_BYTES, MAX_VALUE_BYTES};
use tokio::time::Instant;

use crate::{get, post, problem, put, send};

const JSON: (&str, &str) = ("content-type", "application/json");

/// A path, a body that it does not take, and a word of the refusal.
const NO_SUCH_JSON: [(&str, &str, &str); 21] = [
    ("/v1/batch-get", "", "the body is empty"),
    ("/v1/batch-get", "{", "EOF"),
    ("/v1/batch-get", "{}", "keys"),
    ("/v1/batch-get", "[]", "a JSON object"),
    ("/v1/batch-get", "{\"keys\": [\"a\"]}", "a JSON object"),
    ("/v1/batch-get", "{\"keys\": [{}]}", "key is missing"),
    ("/v1/batch-get", "{\"keys\": [{\"key\": \"\"}]}", "key"),
    (
        "/v1/batch-get",
        "{\"keys\": [{\"key\": \"a\", \"key_base64\": \"YQ==\"}]}",
        "one of them",
    ),
    (
        "/v1/batch-get",
        "{\"keys\": [{\"key_base64\": \"?\"}]}",
        "base64",
    ),
    ("/v1/batch-get", "{\"keys\": [], \"keys\": []}", "duplicate"),
    ("/v1/batch-get", "{\"keys\": [], \"fresh\": true}", "fresh"),
    (
        "/v1/batch-get",
        "{\"keys\": [], \"consistency\": \"newest\"}",
        "newest",
    ),
    (
        "/v1/batch-get",
        "{\"keys\": [{\"key\": \"a\"}], \"namespace\": \"N\"}",
        "namespace",
    ),
    ("/v1/increment/default/n", "{}", "delta"),
    (
        "/v1/increment/default/n",
        "{\"delta\": 0.5}",
        "whole number",
    ),
    (
        "/v1/increment/default/n",
        "{\"delta\": \"1e3\"}",
        "whole number",
    ),
    (
        "/v1/increment/default/n",
        "{\"delta\": 9223372036854775808}",
        "whole number",
    ),
    ("/v1/write", "{\"operations\": [{}]}", "expected"),
    (
        "/v1/write",
        "{\"operations\": [{\"put\": {\"key\": \"a\"}}]}",
        "value is missing",
    ),
    (
        "/v1/write",
        "{\"operations\": [{\"put\": {\"key\": \"a\", \"value\": \"\", \"ttl_ms\": -1}}]}",
        "u64",
    ),
    ("/v1/write", "\u{feff}{}", "expected value"),
];

#[tokio::test]
async fn a_body_that_is_no_such_json_is_refused() {
    let platform = Ephemeral::start().await.unwrap();
    for (path, body, word) in NO_SUCH_JSON {
        let response = send(&platform, "POST", path, &[JSON], body.as_bytes()).await;
        let words = problem(&response, 400, "InvalidArgument").detail;
        assert!(words.contains(word), "{path} {body}: {words}");
    }
    let not_utf8 = send(
        &platform,
        "POST",
        "/v1/batch-get",
        &[JSON],
        b"{\"keys\": \"\xff\"}",
    )
    .await;
    problem(&not_utf8, 400, "InvalidArgument");
}

#[tokio::test]
async fn a_body_of_another_type_is_refused() {
    let platform = Ephemeral::start().await.unwrap();
    let body = b"{\"keys\": []}";
    for told in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "json",
        "",
    ] {
        let headers = [("content-type", told)];
        let response = send(&platform, "POST", "/v1/batch-get", &headers, body).await;
        problem(&response, 415, "InvalidArgument");
    }
    for told in ["application/json", "Application/JSON; charset=utf-8"] {
        let headers = [("content-type", told)];
        let response = send(&platform, "POST", "/v1/batch-get", &headers, body).await;
        assert_eq!(response.status, 200, "{told}: {response:?}");
    }
    let untold = send(&platform, "POST", "/v1/batch-get", &[], body).await;
    assert_eq!(untold.status, 200);
}

#[tokio::test]
async fn batches_and_bodies_have_their_limits() {
    let platform = Ephemeral::start().await.unwrap();
    let keys = |count: usize| -> Vec<_> {
        (0..count)
            .map(|number| json!({"key": number.to_string()}))
            .collect()
    };
    let many = post(
        &platform,
        "/v1/batch-get",
        &json!({"keys": keys(MAX_OPERATIONS + 1)}),
    )
    .await;
    let words = problem(&many, 400, "InvalidArgument").detail;
    assert!(words.contains("max_operations"), "{words}");
    let most = post(
        &platform,
        "/v1/batch-get",
        &json!({"keys": keys(MAX_OPERATIONS)}),
    )
    .await;
    assert_eq!(
        most.json()["answers"].as_array().unwrap().len(),
        MAX_OPERATIONS
    );

    let mut large = b"{\"keys\": []}".to_vec();
    large.resize(MAX_REQUEST_BYTES, b' ');
    let whole = send(&platform, "POST", "/v1/batch-get", &[JSON], &large).await;
    assert_eq!(whole.status, 200);
    large.push(b' ');
    let refused = send(&platform, "POST", "/v1/batch-get", &[JSON], &large).await;
    let words = problem(&refused, 429, "ResourceExhausted").detail;
    assert!(words.contains("max_request_bytes"), "{words}");

    // More than 16 MiB of values would be one answer.
    for number in 0..17 {
        let path = format!("/v1/kv/default/{number}");
        put(&platform, &path, &vec![b'v'; MAX_VALUE_BYTES]).await;
    }
    let too_much = post(&platform, "/v1/batch-get", &json!({"keys": keys(17)})).await;
    let words = problem(&too_much, 429, "ResourceExhausted").detail;
    assert!(words.contains("max_answer_bytes"), "{words}");
}

#[tokio::test]
async fn a_body_cut_off_midway_does_nothing() {
    let platform = Ephemeral::start().await.unwrap();
    let path = "/v1/kv/default/k";
    put(&platform, path, b"before").await;
    let value = vec![b'v'; 100_000];
    for bytes in [0, 1, 99_999] {
        let request = Request::new("PUT", path).body(&value);
        // Some servers answer one who closed his half, others close; neither may write.
        if let Ok(response) = request.send_part(&platform.rest, bytes, true).await {
            problem(&response, 400, "InvalidArgument");
        }
        let found = get(&platform, &format!("{path}?consistency=latest")).await;
        assert_eq!(found.body, b"before", "after {bytes} bytes");
    }
}

#[tokio::test]
async fn a_slow_body_is_waited_for_until_the_deadline() {
    let platform = Ephemeral::start().await.unwrap();
    let path = "/v1/kv/default/k";
    put(&platform, path, b"before").await;
    let timed = format!("{path}?timeout=300ms");
    let begun = Instant::now();
    let request = Request::new("PUT", &timed).body(b"after");
    let response = request.send_part(&platform.rest, 2, false).await.unwrap();
    problem(&response, 504, "DeadlineExceeded");
    assert!(begun.elapsed() >= Duration::from_millis(300));

    let request = Request::new("POST", "/v1/batch-get?timeout=300ms").body(b"{\"keys\": []}");
    let response = request.send_part(&platform.rest, 5, false).await.unwrap();
    problem(&response, 504, "DeadlineExceeded");
    assert_eq!(get(&platform, path).await.body, b"before");
}
