//! Writes that are sent again.

use serde_json::json;
use tierkv_tests::ephemeral::Ephemeral;

use crate::{call, get, problem, put, send};

/// A UUID of version 7, born at this time.
fn uuid(millis: u64, number: u16) -> String {
    format!(
        "{:08x}-{:04x}-7{:03x}-8abc-0123456789ab",
        millis >> 16,
        millis & 0xffff,
        number & 0xfff
    )
}

/// The platform's time, as any answer tells it.
async fn platform_time(platform: &Ephemeral) -> u64 {
    let live = get(platform, "/health/live").await;
    live.header("tierkv-time-ms").unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_write_that_is_sent_again_is_applied_once() {
    let platform = Ephemeral::start().await.unwrap();
    let path = "/v1/kv/default/k";
    let now = platform_time(&platform).await;
    let (first, second) = (uuid(now, 1), uuid(now, 2));
    let named = async |method: &str, name: &str, body: &[u8]| {
        send(&platform, method, path, &[("idempotency-key", name)], body).await
    };
    let written = named("PUT", &first, b"1").await;
    assert_eq!(written.status, 200, "{written:?}");
    let later = put(&platform, path, b"2").await;
    // The retry is answered as the first was, and does not undo what came between.
    let again = named("PUT", &format!("\"{first}\""), b"1").await;
    assert_eq!((again.status, again.json()), (200, written.json()));
    let found = get(&platform, path).await;
    assert_eq!(
        (&found.body[..], found.header("etag")),
        (&b"2"[..], Some(format!("\"{later}\"").as_str()))
    );

    let deleted = named("DELETE", &second, b"").await;
    assert_eq!(deleted.json()["existed"], true, "{deleted:?}");
    put(&platform, path, b"3").await;
    let again = named("DELETE", &second, b"").await;
    assert_eq!(again.json()["version"], deleted.json()["version"]);
    assert_eq!(get(&platform, path).await.body, b"3");
}

#[tokio::test]
async fn additions_and_batches_are_applied_once() {
    let platform = Ephemeral::start().await.unwrap();
    let now = platform_time(&platform).await;
    let json_type = ("content-type", "application/json");
    let add = async |name: &str| {
        let headers = [json_type, ("idempotency-key", name)];
        let path = "/v1/increment/default/n";
        send(&platform, "POST", path, &headers, b"{\"delta\": 5}").await
    };
    let name = uuid(now, 1);
    let first = add(&name).await;
    assert_eq!(first.json()["value"], "5", "{first:?}");
    assert_eq!(add(&name).await.json(), first.json());
    assert_eq!(get(&platform, "/v1/kv/default/n").await.body, b"5");

    let batch = json!({
        "conditions": [{"key": "b", "if_absent": true}],
        "operations": [{"put": {"key": "b", "value": "1"}}],
    });
    let (name, batch) = (uuid(now, 2), batch.to_string());
    let headers = [json_type, ("idempotency-key", name.as_str())];
    let write = async || send(&platform, "POST", "/v1/write", &headers, batch.as_bytes()).await;
    let first = write().await.json();
    assert_eq!(first["replayed"], false, "{first}");
    let again = write().await.json();
    assert_eq!(
        (&again["version"], &again["replayed"]),
        (&first["version"], &true.into())
    );

    // A conditional PUT, whose condition would fail now.
    let name = uuid(now, 3);
    let headers = [("if-none-match", "*"), ("idempotency-key", name.as_str())];
    let create = async || send(&platform, "PUT", "/v1/kv/default/c", &headers, b"1").await;
    let first = create().await;
    assert_eq!((first.status, create().await.json()), (200, first.json()));
}

#[tokio::test]
async fn a_name_that_is_none_says_how_to_make_one() {
    let platform = Ephemeral::start().await.unwrap();
    let path = "/v1/kv/default/k";
    let now = platform_time(&platform).await;
    for bad in ["1", "", "017f22e2-79b0-4cc3-98c4-dc0c0c07398f"] {
        for method in ["PUT", "DELETE"] {
            let response = send(&platform, method, path, &[("idempotency-key", bad)], b"v").await;
            let words = problem(&response, 400, "InvalidArgument").detail;
            assert!(
                words.contains("version 7") && words.contains("tierkv-time-ms"),
                "{words}"
            );
        }
    }
    // Forgotten since, and from a clock that is far ahead.
    for birth in [now - 3_600_000, now + 3_600_000] {
        let headers = [("idempotency-key", &*uuid(birth, 1))];
        let response = send(&platform, "PUT", path, &headers, b"v").await;
        problem(&response, 400, "InvalidArgument");
    }
    problem(&get(&platform, path).await, 404, "NotFound");
}

#[tokio::test]
async fn every_answer_tells_the_platform_s_time() {
    let platform = Ephemeral::start().await.unwrap();
    let written = put(&platform, "/v1/kv/default/k", b"v").await >> 16;
    for (method, path) in [
        ("GET", "/v1/kv/default/k"),
        ("HEAD", "/v1/kv/default/absent"),
        ("POST", "/v1/cluster"),
        ("GET", "/nowhere"),
        ("GET", "/openapi.json"),
    ] {
        let response = call(&platform, method, path).await;
        let time: u64 = response.header("tierkv-time-ms").unwrap().parse().unwrap();
        assert!(
            time + 10_000 > written && time < written + 60_000,
            "{path}: {time}"
        );
    }
}
