//! Single keys.

use tierkv_harness::poll_until;
use tierkv_tests::{ephemeral::Ephemeral, http::Response, metrics};
use tierkv_types::limits::MAX_KEY_BYTES;

use crate::{PATIENCE, call, get, problem, put};

#[tokio::test]
async fn a_key_is_put_read_and_deleted() {
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

    // An empty value is not an absent one.
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
    // Each row has spellings of one key; the keys of the rows differ.
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
async fn a_key_expires_after_the_ttl_of_its_put() {
    let platform = Ephemeral::start().await.unwrap();
    let path = "/v1/kv/default/expiring";
    let version = put(&platform, &format!("{path}?ttl=60s"), b"v").await;
    let expires = |found: &Response| found.header("tierkv-expires-at-ms").map(str::to_owned);
    let at = (version >> 16) + 60_000;
    // The same through the cache.
    for _ in 0..2 {
        let found = get(&platform, path).await;
        assert_eq!((found.status, &found.body[..]), (200, &b"v"[..]));
        assert_eq!(expires(&found), Some(at.to_string()));
    }

    put(&platform, &format!("{path}?ttl=200ms"), b"v").await;
    let over = poll_until(PATIENCE, || async {
        (get(&platform, path).await.status == 404).then_some(())
    });
    over.await.expect("the key did not expire");

    put(&platform, path, b"v").await;
    let found = get(&platform, path).await;
    assert_eq!((found.status, expires(&found)), (200, None), "kept forever");
}

#[tokio::test]
async fn reads_have_the_requested_freshness() {
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
    answer.await.expect("the cache does not answer")
}

#[tokio::test]
async fn the_cache_never_returns_an_overwritten_value() {
    let platform = Ephemeral::start().await.unwrap();
    let path = "/v1/kv/default/cached";
    // An absent key is cached as absent.
    let absent = from_cache(&platform, path).await;
    problem(&absent, 404, "NotFound");
    for turn in 0..20 {
        let value = turn.to_string();
        let version = put(&platform, path, value.as_bytes()).await;
        // CACHE-DELETE: the new value is read at once, with any consistency.
        assert_eq!(get(&platform, path).await.body, value.as_bytes());
        let found = from_cache(&platform, path).await;
        assert_eq!((found.status, &found.body[..]), (200, value.as_bytes()));
        assert_eq!(
            found.header("etag"),
            Some(format!("\"{version}\"").as_str())
        );
        let age: u64 = found.header("tierkv-age-ms").unwrap().parse().unwrap();
        assert!(age <= 5_000, "the age of {age} ms is over the bound");
    }
    call(&platform, "DELETE", path).await;
    problem(&get(&platform, path).await, 404, "NotFound");
    problem(&from_cache(&platform, path).await, 404, "NotFound");
    let hits = metrics::counter(&platform.rest, "tierkv_cache_hits_total")
        .await
        .unwrap();
    assert!(hits >= 22.0, "{hits} hits");
}
