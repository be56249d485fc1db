//! Request bodies that are malformed, late, too large or of a wrong type.

use std::time::Duration;

use serde_json::json;
use tierkv_tests::{
    ephemeral::Ephemeral,
    http::{Request, send_raw},
    outside,
};
use tierkv_types::limits::{MAX_OPERATIONS, MAX_REQUEST_BYTES, MAX_VALUE_BYTES};
use tokio::{process::Command, time::Instant};

use crate::{PATIENCE, get, post, problem, put, send};

const JSON: (&str, &str) = ("content-type", "application/json");

/// A path, a body that it refuses, and a part of the error message.
const NO_SUCH_JSON: [(&str, &str, &str); 26] = [
    ("/v1/batch-get", "", "the body is empty"),
    ("/v1/batch-get", "{", "the JSON is cut off"),
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
    (
        "/v1/batch-get",
        "{\"keys\": [], \"keys\": []}",
        "keys is there twice",
    ),
    (
        "/v1/batch-get",
        "{\"keys\": [], \"max_staleness_ms\": \"1\"}",
        "max_staleness_ms must be a whole number from 0 to 4294967295, not the text",
    ),
    (
        "/v1/batch-get",
        "{\"keys\": [], \"consistency\": \"latest\", \"max_staleness_ms\": 1}",
        "latest takes no max_staleness_ms: leave it out",
    ),
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
    (
        "/v1/write",
        "{\"operations\": [{}]}",
        "operations[0]: each operation is an object of its own",
    ),
    (
        "/v1/write",
        "{\"operations\": [{\"put\": {\"key\": \"a\", \"value\": \"\"}, \"delete\": {\"key\": \"b\"}}]}",
        "each operation is an object of its own, with one of put, delete, increment and touch",
    ),
    (
        "/v1/write",
        "{\"operations\": [{\"put\": {\"key\": 1, \"value\": \"\"}}]}",
        "operations[0].put.key must be a text in double quotes, not 1",
    ),
    (
        "/v1/write",
        "{\"operations\": [{\"touch\": {\"key\": \"a\", \"ttl_ms\": 3153600000001}}]}",
        "max_ttl: give a ttl_ms from 1 to 3153600000000 (100 years), or leave it out",
    ),
    (
        "/v1/write",
        "{\"operations\": [{\"put\": {\"key\": \"a\"}}]}",
        "value is missing",
    ),
    (
        "/v1/write",
        "{\"operations\": [{\"put\": {\"key\": \"a\", \"value\": \"\", \"ttl_ms\": -1}}]}",
        "operations[0].put.ttl_ms must be a whole number from 0 to",
    ),
    ("/v1/write", "\u{feff}{}", "it is no JSON at column 1"),
];

#[tokio::test]
async fn malformed_json_is_refused() {
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
async fn a_body_of_a_wrong_content_type_is_refused() {
    let platform = Ephemeral::start().await.unwrap();
    let body = b"{\"keys\": []}";
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "json",
        "",
    ] {
        let headers = [("content-type", content_type)];
        let response = send(&platform, "POST", "/v1/batch-get", &headers, body).await;
        problem(&response, 415, "InvalidArgument");
    }
    for content_type in ["application/json", "Application/JSON; charset=utf-8"] {
        let headers = [("content-type", content_type)];
        let response = send(&platform, "POST", "/v1/batch-get", &headers, body).await;
        assert_eq!(response.status, 200, "{content_type}: {response:?}");
    }
    // A page of another site can send a body without a content type.
    let refused = send(&platform, "POST", "/v1/batch-get", &[], body).await;
    problem(&refused, 415, "InvalidArgument");
    let twice = [JSON, ("content-type", "text/plain")];
    let refused = send(&platform, "POST", "/v1/batch-get", &twice, body).await;
    problem(&refused, 415, "InvalidArgument");
}

#[tokio::test]
async fn a_compressed_body_is_refused() {
    let platform = Ephemeral::start().await.unwrap();
    let path = "/v1/kv/default/k";
    let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03";
    for (method, path) in [
        ("PUT", path),
        ("POST", "/v1/write"),
        ("POST", "/v1/increment/default/n"),
    ] {
        for coding in ["gzip", "br", "identity, zstd", "aws-chunked"] {
            let headers = [JSON, ("content-encoding", coding)];
            let response = send(&platform, method, path, &headers, gzip).await;
            let words = problem(&response, 415, "InvalidArgument").detail;
            assert!(words.contains("Content-Encoding"), "{words}");
            assert_eq!(response.header("accept-encoding"), Some("identity"));
        }
    }
    problem(&get(&platform, path).await, 404, "NotFound");
    let plain = send(
        &platform,
        "PUT",
        path,
        &[("content-encoding", "identity")],
        gzip,
    )
    .await;
    assert_eq!(plain.status, 200, "{plain:?}");
    assert_eq!(get(&platform, path).await.body, gzip);

    let coded = b"PUT /v1/kv/default/k HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                  transfer-encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let response = send_raw(&platform.rest, coded).await.unwrap();
    problem(&response, 501, "InvalidArgument");
    assert_eq!(get(&platform, path).await.body, gzip);
}

/// Method, path, headers, and the status of the refusal.
type Refused = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
    u16,
);

/// Requests that are refused before their bodies are read.
const REFUSED_EARLY: [Refused; 8] = [
    // Too large by their content length.
    ("PUT", "/v1/kv/default/k", &[], 400),
    ("POST", "/v1/write", &[JSON], 429),
    ("PUT", "/v1/kv/default/k?ttl=1", &[], 400),
    (
        "PUT",
        "/v1/kv/default/k",
        &[("origin", "http://evil.example")],
        403,
    ),
    (
        "PUT",
        "/v1/kv/default/k",
        &[("content-encoding", "gzip")],
        415,
    ),
    ("POST", "/v1/write", &[("content-type", "text/plain")], 415),
    ("PUT", "/nowhere", &[], 404),
    ("POST", "/v1/kv/default/k", &[], 405),
];
/// More than the socket buffers of both ends hold.
const LARGE: usize = 64 << 20;

/// Python's clients send the whole body before they read the answer.
#[tokio::test]
async fn python_can_read_the_refusal_of_a_large_body() {
    let platform = Ephemeral::start().await.unwrap();
    let refused: Vec<_> = (REFUSED_EARLY.iter())
        .map(|(method, path, headers, status)| {
            let headers: Vec<_> = headers.iter().map(|(name, value)| [name, value]).collect();
            json!([method, path, headers, status])
        })
        .collect();
    let refused = serde_json::Value::from(refused).to_string();
    let bytes = LARGE.to_string();
    let arguments = [platform.rest.as_str(), &bytes, &refused];
    let printed = outside::script("refused_bodies.py", &arguments, PATIENCE).await;
    assert_eq!(printed.unwrap_or_else(|error| panic!("{error}")), "done\n");
    problem(&get(&platform, "/v1/kv/default/k").await, 404, "NotFound");
}

#[tokio::test]
async fn curl_can_read_the_refusal_of_a_large_body() {
    let platform = Ephemeral::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large");
    std::fs::write(&file, vec![b'x'; LARGE]).unwrap();
    let body = format!("@{}", file.display());
    for (method, path, headers, status) in REFUSED_EARLY {
        // By default curl sends `Expect: 100-continue` before a large body.
        for asks in [true, false] {
            let mut command = Command::new("curl");
            command.args(["--silent", "--show-error", "--request", method]);
            command.args(["--data-binary", &body, "--header", "content-type:"]);
            command.args(["--write-out", "\n%{http_code}", "--max-time", "60"]);
            if !asks {
                command.args(["--header", "expect:"]);
            }
            for (name, value) in headers {
                command.args(["--header", &format!("{name}: {value}")]);
            }
            command.arg(format!("http://{}{path}", platform.rest));
            let output = command.output().await.unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{method} {path}: {errors}");
            let printed = String::from_utf8_lossy(&output.stdout);
            let (body, code) = printed.rsplit_once('\n').unwrap();
            assert_eq!(code, status.to_string(), "{method} {path}: {body}");
            assert!(body.contains("\"detail\""), "{method} {path}: {body}");
        }
    }
}

/// A connection stays usable after a refusal: the server reads the body and discards it.
#[tokio::test]
async fn a_refused_body_is_discarded_and_its_connection_stays_usable() {
    let platform = Ephemeral::start().await.unwrap();
    let refused =
        format!("PUT /nowhere HTTP/1.1\r\nhost: localhost\r\ncontent-length: {LARGE}\r\n\r\n");
    let next = b"PUT /v1/kv/default/k HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                 content-length: 1\r\n\r\nv";
    let bytes = [refused.as_bytes(), &vec![b'x'; LARGE][..], &next[..]].concat();
    let first = send_raw(&platform.rest, &bytes).await.unwrap();
    assert_eq!(first.status, 404);
    assert_eq!(get(&platform, "/v1/kv/default/k").await.body, b"v");
    // Half of a body and then nothing: the server answers and closes the connection.
    let begun = Instant::now();
    let request = Request::new("PUT", "/nowhere").body(&bytes);
    let response = request
        .send_part(&platform.rest, 1_000, false)
        .await
        .unwrap();
    problem(&response, 404, "NotFound");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn batches_and_bodies_over_their_limits_are_refused() {
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

    // The answer would have more than 16 MiB of values.
    for number in 0..17 {
        let path = format!("/v1/kv/default/{number}");
        put(&platform, &path, &vec![b'v'; MAX_VALUE_BYTES]).await;
    }
    let too_much = post(&platform, "/v1/batch-get", &json!({"keys": keys(17)})).await;
    let words = problem(&too_much, 429, "ResourceExhausted").detail;
    assert!(words.contains("max_answer_bytes"), "{words}");
}

#[tokio::test]
async fn a_truncated_body_changes_nothing() {
    let platform = Ephemeral::start().await.unwrap();
    let path = "/v1/kv/default/k";
    put(&platform, path, b"before").await;
    let value = vec![b'v'; 100_000];
    for bytes in [0, 1, 99_999] {
        let request = Request::new("PUT", path).body(&value);
        // The client has closed its half. The server must not write the truncated value.
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

    let request = Request::new("POST", "/v1/batch-get?timeout=300ms")
        .header(JSON.0, JSON.1)
        .body(b"{\"keys\": []}");
    let response = request.send_part(&platform.rest, 5, false).await.unwrap();
    problem(&response, 504, "DeadlineExceeded");
    assert_eq!(get(&platform, path).await.body, b"before");
}
