//! The REST gateway of a real platform.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tierkv_harness::poll_until;
use tierkv_openapi::{ClusterReport, Problem};
use tierkv_tests::{
    ephemeral::Ephemeral,
    http::{Request, Response},
    metrics,
};
use tierkv_types::limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES};

/// How long the cache may take to be filled, and figures to be told.
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

/// Checks that a failed request says why in the standard form.
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

#[tokio::test]
async fn a_key_lives_and_dies() {
    let platform = Ephemeral::start().await.unwrap();
    let path = "/v1/kv/default/greeting";
    problem(&get(&platform, path).await, 404, "NotFound");

    let first = put(&platform, path, b"hello").await;
    let found = get(&platform, path).await;
    assert_eq!((found.status, &found.body[..]), (200, &b"hello"[..]));
    assert_eq!(found.header("etag"), Some(format!("\"{first}\"").as_str()));
    assert_eq!(
        found.header("content-type"),
        Some("application/octet-stream")
    );
    assert!(found.header("tierkv-source").is_some());
    assert!(
        found
            .header("tierkv-age-ms")
            .unwrap()
            .parse::<u32>()
            .is_ok()
    );

    let head = call(&platform, "HEAD", path).await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("5"))
    );
    assert_eq!(head.header("etag"), found.header("etag"));
    assert!(head.body.is_empty());

    // Empty is not absent.
    let second = put(&platform, path, b"").await;
    assert!(second > first);
    let empty = get(&platform, path).await;
    assert_eq!((empty.status, empty.body.len()), (200, 0));

    let deleted = call(&platform, "DELETE", path).await;
    assert_eq!(deleted.status, 200);
    assert_eq!(deleted.json()["existed"], true);
    let third: u64 = deleted.json()["version"].as_str().unwrap().parse().unwrap();
    assert!(third > second);
    problem(&get(&platform, path).await, 404, "NotFound");
    let head = call(&platform, "HEAD", path).await;
    assert_eq!((head.status, head.body.len()), (404, 0));
    let again = call(&platform, "DELETE", path).await;
    assert_eq!(
        (again.status, &again.json()["existed"]),
        (200, &false.into())
    );
}

#[tokio::test]
async fn keys_are_any_bytes() {
    let platform = Ephemeral::start().await.unwrap();
    let longest = format!("/v1/kv/odd/{}", "%FF".repeat(MAX_KEY_BYTES));
    // Pairs of spellings are of one key; the keys differ from each other.
    let spellings: &[&[&str]] = &[
        &["/v1/kv/odd/a+b", "/v1/kv/odd/a%2Bb", "/v1/kv/odd/a%2bb"],
        &["/v1/kv/odd/a%20b"],
        &["/v1/kv/odd/a%2Fb", "/v1/kv/odd/a/b"],
        &["/v1/kv/odd/%00", "/v1/kv/%6Fdd/%00"],
        &["/v1/kv/odd/%FF%fe"],
        &["/v1/kv/odd//"],
        &["/v1/kv/odd/%2E%2E", "/v1/kv/odd/.."],
        &["/v1/kv/odd/%E2%82%AC"],
        &["/v1/kv/odd/100%25"],
        &["/v1/kv/odd/what%3F"],
        &[&longest],
        &["/v1/kv/other/a%20b"],
    ];
    for (number, paths) in spellings.iter().enumerate() {
        put(&platform, paths[0], number.to_string().as_bytes()).await;
    }
    for (number, paths) in spellings.iter().enumerate() {
        for path in *paths {
            let found = get(&platform, path).await;
            let body = String::from_utf8(found.body).unwrap();
            assert_eq!((found.status, body), (200, number.to_string()), "{path}");
        }
    }
}

#[tokio::test]
async fn what_breaks_a_rule_is_refused_and_does_nothing() {
    let platform = Ephemeral::start().await.unwrap();
    let too_long = format!("/v1/kv/default/{}", "k".repeat(MAX_KEY_BYTES + 1));
    let bad_namespace = format!("/v1/kv/{}/k", "n".repeat(64));
    for path in [
        too_long.as_str(),
        bad_namespace.as_str(),
        "/v1/kv/Default/k",
        "/v1/kv/-n/k",
        "/v1/kv/n%2Fm/k",
        "/v1/kv/n%FF/k",
        "/v1/kv//k",
        "/v1/kv/default/",
        "/v1/kv/default",
        "/v1/kv/default/100%",
        "/v1/kv/default/%zz",
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let response = call(&platform, method, path).await;
            problem(&response, 400, "InvalidArgument");
        }
    }
    for query in [
        "consistency=newest",
        "consistency=",
        "min_version=x",
        "min_version=-1",
        "max_staleness_ms=soon",
        "fresh=1",
        "consistency=latest&min_version=7",
    ] {
        let response = get(&platform, &format!("/v1/kv/default/k?{query}")).await;
        problem(&response, 400, "InvalidArgument");
    }

    let path = "/v1/kv/default/k";
    let version = put(&platform, path, b"before").await;
    let send = async |method: &str, path: &str, header: Option<(&str, &str)>, body: &[u8]| {
        let mut request = Request::new(method, path).body(body);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let response = request.send(&platform.rest).await.unwrap();
        problem(&response, 400, "InvalidArgument").detail
    };
    let etag = format!("\"{version}\"");
    for method in ["PUT", "DELETE"] {
        send(method, path, Some(("If-Match", &etag)), b"after").await;
        send(method, path, Some(("If-None-Match", "*")), b"after").await;
        send(method, path, Some(("Idempotency-Key", "1")), b"after").await;
        send(
            method,
            "/v1/kv/default/k?consistency=latest",
            None,
            b"after",
        )
        .await;
    }
    for (query, word) in [
        ("ttl=60", "unit"),
        ("ttl=", "number"),
        ("ttl=0s", "at once"),
        ("ttl=-1s", "number"),
        ("ttl=99999999999999999999s", "too long"),
        ("ttl=36501d", "max_ttl"),
        ("ttl=1s&ttl=1s", "twice"),
    ] {
        let words = send("PUT", &format!("{path}?{query}"), None, b"after").await;
        assert!(words.contains(word), "{query}: {words}");
    }
    send("DELETE", &format!("{path}?ttl=60s"), None, b"").await;
    let too_large = vec![b'v'; MAX_VALUE_BYTES + 1];
    let words = send("PUT", path, None, &too_large).await;
    assert!(words.contains("max_value_bytes"), "{words}");
    let found = get(&platform, path).await;
    assert_eq!(
        (&found.body[..], found.header("etag")),
        (&b"before"[..], Some(etag.as_str()))
    );

    put(&platform, path, &too_large[1..]).await;
    assert_eq!(get(&platform, path).await.body.len(), MAX_VALUE_BYTES);

    let post = call(&platform, "POST", path).await;
    problem(&post, 405, "InvalidArgument");
    assert_eq!(post.header("allow"), Some("GET, HEAD, PUT, DELETE"));
    problem(
        &call(&platform, "POST", "/v1/cluster").await,
        405,
        "InvalidArgument",
    );
    problem(&get(&platform, "/v1/nowhere").await, 404, "NotFound");
}

#[tokio::test]
async fn a_key_expires_when_its_put_said_so() {
    let platform = Ephemeral::start().await.unwrap();
    let path = "/v1/kv/default/expiring";
    let version = put(&platform, &format!("{path}?ttl=60s"), b"v").await;
    let expires = |found: &Response| found.header("tierkv-expires-at-ms").map(str::to_owned);
    let at = (version >> 16) + 60_000;
    // The same by way of the cache.
    for _ in 0..2 {
        let found = get(&platform, path).await;
        assert_eq!((found.status, &found.body[..]), (200, &b"v"[..]));
        assert_eq!(expires(&found), Some(at.to_string()));
    }

    put(&platform, &format!("{path}?ttl=200ms"), b"v").await;
    let over = poll_until(PATIENCE, || async {
        (get(&platform, path).await.status == 404).then_some(())
    });
    over.await.expect("it did not expire");

    put(&platform, path, b"v").await;
    let found = get(&platform, path).await;
    assert_eq!(
        (found.status, expires(&found)),
        (200, None),
        "kept for ever"
    );
}

#[tokio::test]
async fn reads_are_as_fresh_as_they_ask() {
    let platform = Ephemeral::start().await.unwrap();
    let path = "/v1/kv/default/fresh";
    for turn in 0..20 {
        let value = turn.to_string();
        let version = put(&platform, path, value.as_bytes()).await;
        let floor = format!("{path}?min_version={version}");
        let session = format!("{path}?consistency=session&min_version={version}");
        let latest = format!("{path}?consistency=latest");
        let none_stale = format!("{path}?max_staleness_ms=0");
        for read in [&floor, &session, &latest, &none_stale] {
            let found = get(&platform, read).await;
            assert_eq!(found.body, value.as_bytes(), "{read}");
        }
        let found = get(&platform, &latest).await;
        assert_eq!(found.header("tierkv-source"), Some("master"));
        assert_eq!(found.header("tierkv-age-ms"), Some("0"));
    }
}

/// Reads until the cache answers.
async fn from_cache(platform: &Ephemeral, path: &str) -> Response {
    let answer = poll_until(PATIENCE, || async {
        let found = get(platform, path).await;
        (found.header("tierkv-source") == Some("cache")).then_some(found)
    });
    answer.await.expect("the cache answers")
}

#[tokio::test]
async fn the_cache_answers_and_never_what_was_before() {
    let platform = Ephemeral::start().await.unwrap();
    let path = "/v1/kv/default/cached";
    // An absent key is cached as absent.
    let absent = from_cache(&platform, path).await;
    problem(&absent, 404, "NotFound");
    for turn in 0..20 {
        let value = turn.to_string();
        let version = put(&platform, path, value.as_bytes()).await;
        // CACHE-DELETE: at once, at any consistency.
        assert_eq!(get(&platform, path).await.body, value.as_bytes());
        let found = from_cache(&platform, path).await;
        assert_eq!((found.status, &found.body[..]), (200, value.as_bytes()));
        assert_eq!(
            found.header("etag"),
            Some(format!("\"{version}\"").as_str())
        );
        let age: u64 = found.header("tierkv-age-ms").unwrap().parse().unwrap();
        assert!(age <= 5_000, "older than the bound: {age} ms");
    }
    call(&platform, "DELETE", path).await;
    problem(&get(&platform, path).await, 404, "NotFound");
    problem(&from_cache(&platform, path).await, 404, "NotFound");
    let hits = metrics::counter(&platform.rest, "tierkv_cache_hits_total")
        .await
        .unwrap();
    assert!(hits >= 22.0, "{hits} hits");
}

#[tokio::test]
async fn operators_are_told() {
    let mut platform = Ephemeral::start().await.unwrap();
    let live = get(&platform, "/health/live").await;
    assert_eq!((live.status, &live.body[..]), (200, &b"live\n"[..]));
    let ready = get(&platform, "/health/ready").await;
    assert_eq!((ready.status, &ready.body[..]), (200, &b"ready\n"[..]));
    let page = get(&platform, "/metrics").await;
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    assert!(String::from_utf8_lossy(&page.body).contains("tierkv_cache_hits_total"));

    put(&platform, "/v1/kv/default/k", b"v").await;
    let cluster = get(&platform, "/v1/cluster").await;
    assert_eq!(cluster.header("content-type"), Some("application/json"));
    let report: ClusterReport = serde_json::from_slice(&cluster.body).unwrap();
    assert_eq!((report.placement, report.transactions), (1, 0));
    assert_eq!(report.cache.len(), 1);
    assert_eq!(report.client_coordinators[0].address, platform.grpc);
    assert_eq!(report.server_coordinators[0].role, "primary");
    assert!(report.server_coordinators[0].epoch > 0);
    let [cluster] = &report.clusters[..] else {
        panic!("one cluster, not {report:?}");
    };
    assert_eq!(
        (cluster.slots, cluster.in_sync.as_slice()),
        (4_096, &["n1".to_owned()][..])
    );
    assert_eq!(cluster.master, "n1");
    let [member] = &cluster.members[..] else {
        panic!("one member, not {cluster:?}");
    };
    assert_eq!(
        (member.role.as_str(), member.pid),
        ("master", platform.process().pid())
    );
    assert!(member.commit_index > 0 && member.commit_index <= member.log_index);
}

#[tokio::test]
async fn what_is_ephemeral_goes_with_its_process() {
    let mut platform = Ephemeral::start().await.unwrap();
    put(&platform, "/v1/kv/default/k", b"v").await;
    let folder = std::path::PathBuf::from(&platform.data_dir);
    assert!(folder.is_dir(), "{}", folder.display());
    let end = platform.process().stop(PATIENCE).await.unwrap();
    assert!(end.success(), "{end}");
    assert!(!folder.exists(), "{} was left behind", folder.display());
}
