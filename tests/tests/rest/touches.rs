//! Touches: setting and clearing when a key expires.

use serde_json::json;
use tierkv_harness::poll_until;
use tierkv_tests::{
    ephemeral::Ephemeral,
    http::{Response, send_raw},
};
use tierkv_types::limits::MAX_VALUE_BYTES;

use crate::{PATIENCE, call, get, post, problem, put, send};

const KEY: &str = "/v1/kv/default/k";
const TOUCH: &str = "/v1/touch/default/k";

fn version(response: &Response) -> u64 {
    assert_eq!(response.status, 200, "{response:?}");
    let version = response.json()["version"].as_str().unwrap().to_owned();
    let tag = format!("\"{version}\"");
    assert_eq!(response.header("etag"), Some(tag.as_str()));
    version.parse().unwrap()
}

/// The value, the expiry in milliseconds since the Unix epoch, and the version.
async fn held(platform: &Ephemeral) -> (Vec<u8>, Option<u64>, u64) {
    let found = get(platform, &format!("{KEY}?consistency=latest")).await;
    let expires = found.header("tierkv-expires-at-ms");
    let expires = expires.map(|at| at.parse().unwrap());
    let tag = found.header("etag").unwrap().trim_matches('"');
    (found.body.clone(), expires, tag.parse().unwrap())
}

#[tokio::test]
async fn a_touch_sets_and_clears_the_expiry_and_keeps_the_value() {
    let platform = Ephemeral::start().await.unwrap();
    let value = vec![b'v'; 100_000];
    let written = put(&platform, KEY, &value).await;
    let touched = version(&call(&platform, "POST", &format!("{TOUCH}?ttl=1h")).await);
    assert!(touched > written, "I5");
    let expires = Some((touched >> 16) + 3_600_000);
    assert_eq!(held(&platform).await, (value.clone(), expires, touched));
    let cleared = version(&call(&platform, "POST", TOUCH).await);
    assert_eq!(held(&platform).await, (value.clone(), None, cleared));
    // The entry in the cache expires too.
    assert_eq!(get(&platform, KEY).await.body, value);

    version(&call(&platform, "POST", &format!("{TOUCH}?ttl=300ms")).await);
    let gone = poll_until(PATIENCE, || async {
        (get(&platform, KEY).await.status == 404).then_some(())
    });
    gone.await.expect("the key did not expire");
    // An expired key is absent: a touch cannot bring it back.
    let late = call(&platform, "POST", &format!("{TOUCH}?ttl=1h")).await;
    problem(&late, 404, "NotFound");
    problem(&get(&platform, KEY).await, 404, "NotFound");
}

#[tokio::test]
async fn a_touch_has_conditions_and_may_be_sent_again() {
    let platform = Ephemeral::start().await.unwrap();
    let absent = send(&platform, "POST", TOUCH, &[("if-match", "*")], b"").await;
    problem(&absent, 412, "ConditionFailed");
    let written = put(&platform, KEY, b"v").await;
    let wrong = send(&platform, "POST", TOUCH, &[("if-match", "\"7\"")], b"").await;
    problem(&wrong, 412, "ConditionFailed");
    let tag = format!("\"{written}\"");
    let headers = [("if-match", tag.as_str()), ("idempotency-key", "once")];
    let path = format!("{TOUCH}?ttl=60s");
    let first = send(&platform, "POST", &path, &headers, b"").await;
    let touched = version(&first);
    // The retry is recognised although its condition would fail now, and a later touch stays.
    let cleared = version(&call(&platform, "POST", TOUCH).await);
    let again = send(&platform, "POST", &path, &headers, b"").await;
    assert_eq!((again.status, again.json()), (200, first.json()));
    assert!(cleared > touched);
    assert_eq!(held(&platform).await, (b"v".to_vec(), None, cleared));
    let other = send(&platform, "POST", TOUCH, &headers, b"").await;
    problem(&other, 422, "AlreadyExists");
}

#[tokio::test]
async fn a_batch_touches_all_or_nothing() {
    let platform = Ephemeral::start().await.unwrap();
    put(&platform, KEY, b"v").await;
    let batch = |key: &str| {
        json!({"operations": [
            {"put": {"key": "other", "value": "1"}},
            {"touch": {"key": key, "ttl_ms": 60_000}},
        ]})
    };
    let refused = post(&platform, "/v1/write", &batch("absent")).await;
    let words = problem(&refused, 404, "NotFound").detail;
    assert!(words.contains("'absent'"), "{words}");
    problem(
        &get(&platform, "/v1/kv/default/other").await,
        404,
        "NotFound",
    );
    let written = post(&platform, "/v1/write", &batch("k")).await;
    assert_eq!(written.json()["results"], json!([{}, {}]), "{written:?}");
    let version = version(&written);
    let expires = Some((version >> 16) + 60_000);
    assert_eq!(held(&platform).await, (b"v".to_vec(), expires, version));
}

#[tokio::test]
async fn an_invalid_touch_is_refused() {
    let platform = Ephemeral::start().await.unwrap();
    put(&platform, KEY, b"v").await;
    let before = held(&platform).await;
    for (path, headers, body, word) in [
        ("/v1/touch/default/k?ttl=60", &[][..], "", "unit"),
        ("/v1/touch/default/k?ttl=0s", &[], "", "at once"),
        ("/v1/touch/default/k?ttl=36501d", &[], "", "max_ttl"),
        (
            "/v1/touch/default/k?consistency=latest",
            &[],
            "",
            "not known",
        ),
        (
            "/v1/touch/default/k",
            &[("if-none-match", "*")],
            "",
            "absent",
        ),
        ("/v1/touch/default/k", &[], "v", "no body"),
        ("/v1/touch/default", &[], "", "{namespace}/{key}"),
        ("/v1/touch/Default/k", &[], "", "namespace"),
    ] {
        let response = send(&platform, "POST", path, headers, body.as_bytes()).await;
        let words = problem(&response, 400, "InvalidArgument").detail;
        assert!(words.contains(word), "{path}: {words}");
    }
    problem(&call(&platform, "PUT", TOUCH).await, 405, "InvalidArgument");
    assert_eq!(held(&platform).await, before);
    // A client may send an empty body in chunks.
    let chunks = b"POST /v1/touch/default/k HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                   transfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let response = send_raw(&platform.rest, chunks).await;
    version(&response.unwrap());
}

/// A touch writes the value again, so a batch of them is bounded, and others do not suffer from
/// one that is refused.
#[tokio::test]
async fn a_batch_touches_at_most_4_mib_of_values() {
    let platform = Ephemeral::start().await.unwrap();
    let large = vec![b'v'; MAX_VALUE_BYTES];
    for nth in 0..5 {
        put(&platform, &format!("/v1/kv/default/large-{nth}"), &large).await;
    }
    let batch = |count: usize| {
        let touches = (0..count)
            .map(|nth| json!({"touch": {"key": format!("large-{nth}"), "ttl_ms": 60_000}}));
        json!({"operations": touches.collect::<Vec<_>>()})
    };
    let (five, four) = (batch(5), batch(4));
    let (refused, other) = tokio::join!(
        post(&platform, "/v1/write", &five),
        send(&platform, "PUT", KEY, &[], b"v"),
    );
    let words = problem(&refused, 429, "ResourceExhausted").detail;
    assert!(words.contains("max_request_bytes"), "{words}");
    assert_eq!(other.status, 200, "{other:?}");
    let kept = get(&platform, "/v1/kv/default/large-0").await;
    assert_eq!(kept.header("tierkv-expires-at-ms"), None);
    version(&post(&platform, "/v1/write", &four).await);
}
