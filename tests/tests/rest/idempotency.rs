//! Idempotency keys: a write that is sent again is applied once.

use futures::future::join_all;
use serde_json::{Value, json};
use tierkv_harness::{Options, TierKv};
use tierkv_tests::{
    ephemeral::Ephemeral,
    http::{Request, Response},
};

use crate::{call, get, problem, put, send};

const JSON: (&str, &str) = ("content-type", "application/json");
const ADDED: &str = "/v1/increment/default/n";

/// Adds to the key `n` under an idempotency key.
async fn add(rest: &str, key: &str, delta: i64) -> Response {
    let body = json!({ "delta": delta }).to_string();
    let request = Request::new("POST", ADDED)
        .header(JSON.0, JSON.1)
        .header("idempotency-key", key)
        .body(body.as_bytes());
    request.send(rest).await.unwrap()
}

#[tokio::test]
async fn a_write_that_is_sent_again_is_applied_once() {
    let platform = Ephemeral::start().await.unwrap();
    let path = "/v1/kv/default/k";
    let named = async |method: &str, key: &str, body: &[u8]| {
        send(&platform, method, path, &[("idempotency-key", key)], body).await
    };
    let written = named("PUT", "1", b"1").await;
    assert_eq!(written.status, 200, "{written:?}");
    let later = put(&platform, path, b"2").await;
    // The retry gets the answer of the first request, and does not undo a later write.
    let again = named("PUT", "\"1\"", b"1").await;
    assert_eq!((again.status, again.json()), (200, written.json()));
    let found = get(&platform, path).await;
    assert_eq!(
        (&found.body[..], found.header("etag")),
        (&b"2"[..], Some(format!("\"{later}\"").as_str()))
    );

    let deleted = named("DELETE", "2", b"").await;
    assert_eq!(deleted.json()["existed"], true, "{deleted:?}");
    put(&platform, path, b"3").await;
    let again = named("DELETE", "2", b"").await;
    assert_eq!(again.json(), deleted.json());
    assert_eq!(get(&platform, path).await.body, b"3");
}

/// These forms are sent by clients of the IETF draft and of other services.
#[tokio::test]
async fn all_usual_forms_of_idempotency_keys_are_accepted() {
    let platform = Ephemeral::start().await.unwrap();
    let longest = "k".repeat(255);
    let keys = [
        // The draft's own example, and UUIDs of version 1, 4 and 7, of years ago.
        "\"8e03978e-40d5-43e8-bc93-6894a57f9324\"",
        "c232ab00-9414-11ec-b3c8-9f6bdeced846",
        "919108F7-52D1-4320-9BAC-F847DB4148A8",
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
        // A ULID, a NanoID, a number, base64, an application's own format.
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "V1StGXR8_Z5jdHi6B-myT",
        "7",
        "q83vEjRWeJA=",
        "order/2026-11-21:7;retry",
        &longest,
    ];
    for (nth, key) in (1..).zip(keys) {
        let first = add(&platform.rest, key, 1).await;
        let sum: i64 = nth;
        assert_eq!(first.json()["value"], sum.to_string(), "{key}: {first:?}");
        let other_form = match key.strip_prefix('"') {
            Some(quoted) => quoted.trim_end_matches('"').to_owned(),
            None => format!("\"{key}\""),
        };
        for same in [key, &other_form] {
            let again = add(&platform.rest, same, 1).await;
            assert_eq!((again.status, again.json()), (200, first.json()), "{same}");
        }
    }
}

#[tokio::test]
async fn an_invalid_idempotency_key_is_refused() {
    let platform = Ephemeral::start().await.unwrap();
    let too_long = "k".repeat(256);
    for bad in ["", "\"\"", "\"a", "a b", "\u{e9}", &too_long] {
        for (method, path, body) in [
            ("PUT", "/v1/kv/default/k", "v"),
            ("DELETE", "/v1/kv/default/k", ""),
            ("POST", ADDED, "{\"delta\": 1}"),
            (
                "POST",
                "/v1/write",
                "{\"operations\": [{\"delete\": {\"key\": \"k\"}}]}",
            ),
        ] {
            let headers = [JSON, ("idempotency-key", bad)];
            let response = send(&platform, method, path, &headers, body.as_bytes()).await;
            let words = problem(&response, 400, "InvalidArgument").detail;
            assert!(words.contains("255 visible"), "{method} {bad}: {words}");
        }
    }
    let twice = [("idempotency-key", "a"), ("idempotency-key", "a")];
    let response = send(&platform, "PUT", "/v1/kv/default/k", &twice, b"v").await;
    problem(&response, 400, "InvalidArgument");
    problem(&get(&platform, "/v1/kv/default/k").await, 404, "NotFound");
}

#[tokio::test]
async fn a_different_write_with_the_same_idempotency_key_is_refused() {
    let platform = Ephemeral::start().await.unwrap();
    let headers = [JSON, ("idempotency-key", "once")];
    let path = "/v1/kv/default/k";
    let first = send(&platform, "PUT", path, &headers, b"1").await;
    assert_eq!(first.status, 200, "{first:?}");
    let batch = "{\"operations\": [{\"put\": {\"key\": \"k\", \"value\": \"2\"}}]}";
    for (method, path, body) in [
        ("PUT", path, "2"),
        ("PUT", "/v1/kv/default/k?ttl=60s", "1"),
        ("PUT", "/v1/kv/default/other", "1"),
        ("DELETE", path, ""),
        ("POST", "/v1/increment/default/k", "{\"delta\": 1}"),
        ("POST", "/v1/write", batch),
    ] {
        let response = send(&platform, method, path, &headers, body.as_bytes()).await;
        let words = problem(&response, 422, "AlreadyExists").detail;
        assert!(words.contains("make a new one"), "{method} {path}: {words}");
    }
    let conditional = [("if-match", "*"), ("idempotency-key", "once")];
    let response = send(&platform, "PUT", path, &conditional, b"1").await;
    problem(&response, 422, "AlreadyExists");
    assert_eq!(get(&platform, path).await.body, b"1");
    // The same text in another namespace is another key.
    let elsewhere = send(&platform, "PUT", "/v1/kv/elsewhere/k", &headers, b"2").await;
    assert_eq!(elsewhere.status, 200, "{elsewhere:?}");
    // A batch names its namespace in its body.
    let batch = "{\"namespace\": \"third\", \"operations\": [{\"delete\": {\"key\": \"k\"}}]}";
    let third = send(&platform, "POST", "/v1/write", &headers, batch.as_bytes()).await;
    assert_eq!(third.json()["replayed"], false, "{third:?}");
}

#[tokio::test]
async fn the_idempotency_key_of_a_refused_write_can_be_used_again() {
    let platform = Ephemeral::start().await.unwrap();
    let path = "/v1/kv/default/k";
    let create = [("if-match", "*"), ("idempotency-key", "a")];
    let refused = send(&platform, "PUT", path, &create, b"1").await;
    problem(&refused, 412, "ConditionFailed");
    let create = [("idempotency-key", "a")];
    let written = send(&platform, "PUT", path, &create, b"2").await;
    assert_eq!(written.status, 200, "{written:?}");
}

#[tokio::test]
async fn increments_and_batches_are_applied_once() {
    let platform = Ephemeral::start().await.unwrap();
    let first = add(&platform.rest, "add", 5).await;
    assert_eq!(first.json()["value"], "5", "{first:?}");
    assert_eq!(add(&platform.rest, "add", 5).await.json(), first.json());
    assert_eq!(get(&platform, "/v1/kv/default/n").await.body, b"5");

    let batch = json!({
        "conditions": [{"key": "b", "if_absent": true}],
        "operations": [{"put": {"key": "b", "value": "1"}}],
    });
    let batch = batch.to_string();
    let headers = [JSON, ("idempotency-key", "batch")];
    let write = async || send(&platform, "POST", "/v1/write", &headers, batch.as_bytes()).await;
    let first = write().await.json();
    assert_eq!(first["replayed"], false, "{first}");
    let again = write().await.json();
    assert_eq!(
        (&again["version"], &again["replayed"]),
        (&first["version"], &true.into())
    );

    // A conditional PUT whose condition would fail on the retry.
    let headers = [("if-none-match", "*"), ("idempotency-key", "create")];
    let create = async || send(&platform, "PUT", "/v1/kv/default/c", &headers, b"1").await;
    let first = create().await;
    assert_eq!((first.status, create().await.json()), (200, first.json()));
}

/// A retry that arrives while the first attempt is under way waits for its outcome.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_attempts_are_applied_once() {
    let platform = Ephemeral::start().await.unwrap();
    for round in 1..=10 {
        let key = format!("round-{round}");
        let attempts = (0..20).map(|_| add(&platform.rest, &key, 1));
        let answers = join_all(attempts).await;
        let bodies: Vec<Value> = answers.iter().map(Response::json).collect();
        assert_eq!(bodies[0]["value"], round.to_string(), "{answers:?}");
        assert!(bodies.iter().all(|json| *json == bodies[0]), "{bodies:?}");
        // Of different writes with one key, one is applied, and the others are refused.
        let key = format!("race-{round}");
        let attempts = (0..10).map(|nth| {
            let path = format!("/v1/kv/race/{round}");
            let (platform, key) = (&platform, key.as_str());
            async move {
                let headers = [("idempotency-key", key)];
                send(platform, "PUT", &path, &headers, nth.to_string().as_bytes()).await
            }
        });
        let mut statuses: Vec<u16> = (join_all(attempts).await.iter())
            .map(|answer| answer.status)
            .collect();
        statuses.sort_unstable();
        assert_eq!((statuses[0], &statuses[1..]), (200, &[422; 9][..]));
    }
}

/// The process is killed, answers are lost, and every write is sent again after the restart.
#[tokio::test(flavor = "multi_thread")]
async fn retries_are_recognised_after_kill_9() {
    const ROUNDS: usize = 4;
    const WRITES: usize = 100;
    let mut platform = TierKv::start(Options::default()).await.unwrap();
    let (mut lost, mut kept) = (0, 0);
    for round in 0..ROUNDS {
        let keys: Vec<String> = (0..WRITES).map(|nth| format!("{round}-{nth}")).collect();
        let rest = platform.rest().to_owned();
        let sending = tokio::spawn({
            let keys = keys.clone();
            async move {
                let attempts = keys.iter().map(|key| try_add(&rest, key));
                join_all(attempts).await
            }
        });
        // Once some of the writes are applied.
        until_sum(&platform, round * WRITES + 1).await;
        platform.kill9().unwrap();
        let answers = sending.await.unwrap();
        platform.restart().await.unwrap();
        for (key, answer) in keys.iter().zip(answers) {
            let again = add(platform.rest(), key, 1).await;
            assert_eq!(again.status, 200, "{again:?}");
            match answer.filter(|answer| answer.status == 200) {
                Some(answer) => {
                    assert_eq!(answer.json(), again.json(), "{key}");
                    kept += 1;
                }
                None => lost += 1,
            }
        }
        let sum = (round + 1) * WRITES;
        let found = Request::new("GET", "/v1/kv/default/n?consistency=latest");
        let found = found.send(platform.rest()).await.unwrap();
        assert_eq!(found.body, sum.to_string().as_bytes(), "round {round}");
    }
    assert!(lost + kept == ROUNDS * WRITES && kept > 0, "{lost} {kept}");
    assert!(platform.stop().await.unwrap().success());
}

/// An attempt whose answer may be lost.
async fn try_add(rest: &str, key: &str) -> Option<Response> {
    let request = Request::new("POST", ADDED)
        .header(JSON.0, JSON.1)
        .header("idempotency-key", key)
        .body(b"{\"delta\": 1}");
    request.send(rest).await.ok()
}

/// Waits until the number is this large.
async fn until_sum(platform: &TierKv, least: usize) {
    let reached = tierkv_harness::poll_until(crate::PATIENCE, || async {
        let found = Request::new("GET", "/v1/kv/default/n?consistency=latest");
        let found = found.send(platform.rest()).await.ok()?;
        let sum: usize = String::from_utf8(found.body).ok()?.parse().ok()?;
        (sum >= least).then_some(())
    });
    reached.await.expect("the increments were not applied");
}

#[tokio::test]
async fn every_answer_contains_the_platform_s_time() {
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
