//! Invalid paths, parameters and methods are refused with a message, and change nothing.

use tierkv_tests::ephemeral::Ephemeral;
use tierkv_types::limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES};

use crate::{call, get, problem, put, send};

const INVALID: &str = "InvalidArgument";

#[tokio::test]
async fn bad_addresses_are_refused() {
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
        "/v1/kv/default/100%",
        "/v1/kv/default/%zz",
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            problem(&call(&platform, method, path).await, 400, INVALID);
        }
        let increment = path.replace("/v1/kv/", "/v1/increment/");
        let json = [("content-type", "application/json")];
        let response = send(&platform, "POST", &increment, &json, b"{\"delta\": 1}").await;
        problem(&response, 400, INVALID);
    }
    for path in [
        "/v1/kv/Default",
        "/v1/kv/n%2Fm",
        "/v1/kv/n%FF",
        "/v1/count/-n",
        "/v1/count/",
        "/v1/count/n%",
        "/v1/watch/N",
        "/v1/watch/",
        "/v1/watch/n/k",
    ] {
        problem(&get(&platform, path).await, 400, INVALID);
    }
    problem(&get(&platform, "/v1/nowhere").await, 404, "NotFound");
    // What a newcomer tries first says where the list is.
    let list = get(&platform, "/v1/kv/default/?prefix=").await;
    let words = problem(&list, 400, INVALID).detail;
    assert!(
        words.contains("listed at /v1/kv/{namespace}?prefix="),
        "{words}"
    );
    let root = get(&platform, "/v1/kv").await;
    let words = problem(&root, 404, "NotFound").detail;
    assert!(words.contains("listed at /v1/kv/{namespace};"), "{words}");
    problem(&get(&platform, "/docs/nowhere.js").await, 404, "NotFound");
}

#[tokio::test]
async fn bad_parameters_are_refused() {
    let platform = Ephemeral::start().await.unwrap();
    let path = "/v1/kv/default/k";
    put(&platform, path, b"before").await;
    for (query, word) in [
        ("consistency=newest", "one of"),
        ("consistency=", "one of"),
        ("consistency=latest&consistency=latest", "twice"),
        ("min_version=x", "min_version"),
        ("min_version=-1", "min_version"),
        ("min_version=18446744073709551616", "min_version"),
        (
            "consistency=latest&min_version=7",
            "goes with the consistency session",
        ),
        (
            "consistency=latest&max_staleness_ms=7",
            "latest takes no max_staleness_ms: leave it out",
        ),
        ("max_staleness_ms=soon", "max_staleness_ms"),
        ("max_staleness_ms=4294967296", "from 0 to 4294967295"),
        ("explain=yes", "explain"),
        ("timeout=5", "unit"),
        ("timeout=0s", "at once"),
        ("fresh=1", "'fresh'"),
        ("ttl=60s", "'ttl'"),
        ("fresh=100%", "%25"),
        ("%FF=1", "UTF-8"),
    ] {
        let response = get(&platform, &format!("{path}?{query}")).await;
        let words = problem(&response, 400, INVALID).detail;
        assert!(words.contains(word), "{query}: {words}");
    }
    for (query, word) in [
        ("ttl=60", "unit"),
        ("ttl=", "number"),
        ("ttl=0s", "leave it out to keep the key for ever"),
        ("ttl=-1s", "number"),
        ("ttl=99999999999999999999s", "too long"),
        ("ttl=36501d", "36500d (100 years, the limit max_ttl)"),
        ("ttl=1s&ttl=1s", "twice"),
        ("consistency=latest", "not known"),
    ] {
        let response = send(&platform, "PUT", &format!("{path}?{query}"), &[], b"after").await;
        let words = problem(&response, 400, INVALID).detail;
        assert!(words.contains(word), "{query}: {words}");
    }
    let deleted = call(&platform, "DELETE", &format!("{path}?ttl=60s")).await;
    problem(&deleted, 400, INVALID);
    assert_eq!(get(&platform, path).await.body, b"before");
}

#[tokio::test]
async fn a_value_over_the_limit_is_refused() {
    let platform = Ephemeral::start().await.unwrap();
    let path = "/v1/kv/default/k";
    put(&platform, path, b"before").await;
    let too_large = vec![b'v'; MAX_VALUE_BYTES + 1];
    let refused = send(&platform, "PUT", path, &[], &too_large).await;
    let words = problem(&refused, 400, INVALID).detail;
    assert!(words.contains("max_value_bytes"), "{words}");
    let refused = send(&platform, "PUT", path, &[("if-match", "*")], &too_large).await;
    problem(&refused, 400, INVALID);
    assert_eq!(get(&platform, path).await.body, b"before");
    put(&platform, path, &too_large[1..]).await;
    assert_eq!(get(&platform, path).await.body.len(), MAX_VALUE_BYTES);
}

#[tokio::test]
async fn the_refusal_of_a_method_lists_the_allowed_ones() {
    let platform = Ephemeral::start().await.unwrap();
    for (path, wrong, allowed) in [
        ("/v1/kv/default/k", "POST", "GET,HEAD,PUT,DELETE"),
        ("/v1/kv/default", "DELETE", "GET,HEAD"),
        ("/v1/count/default", "PUT", "GET,HEAD"),
        ("/v1/watch/default", "POST", "GET,HEAD"),
        ("/v1/increment/default/k", "GET", "POST"),
        ("/v1/touch/default/k", "GET", "POST"),
        ("/v1/batch-get", "GET", "POST"),
        ("/v1/write", "PUT", "POST"),
        ("/v1/cluster", "POST", "GET,HEAD"),
        ("/openapi.json", "OPTIONS", "GET,HEAD"),
    ] {
        let response = call(&platform, wrong, path).await;
        let words = problem(&response, 405, INVALID).detail;
        assert_eq!(response.header("allow"), Some(allowed), "{path}");
        let (_, named) = words.rsplit_once("it takes ").unwrap();
        assert_eq!(
            named.replace(", ", ",").replace(" and ", ","),
            allowed,
            "{path}"
        );
    }
}
