//! Requests with the headers of web pages; `tests/web_pages.rs` uses a real browser.

use serde_json::json;
use tierkv_tests::{
    ephemeral::Ephemeral,
    http::{Response, send_raw},
};

use crate::{get, post, problem, put, send};

const KEY: &str = "/v1/kv/default/k";
const APP: &str = "https://app.example.com";
const DENIED: &str = "PermissionDenied";

fn vary(response: &Response) -> Vec<&str> {
    let headers = response.headers.iter();
    let headers = headers.filter(|(name, _)| name == "vary");
    headers.map(|(_, value)| value.as_str()).collect()
}

#[tokio::test]
async fn a_page_of_another_origin_can_read_and_write_nothing() {
    let platform = Ephemeral::start().await.unwrap();
    put(&platform, KEY, b"before").await;
    let own = format!("http://{}", platform.rest);
    let foreign: [&[(&str, &str)]; 6] = [
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("origin", "http://127.0.0.1:1")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", &own), ("sec-fetch-site", "cross-site")],
    ];
    for headers in foreign {
        let json = [headers, &[("content-type", "application/json")]].concat();
        for (method, path, body) in [
            ("GET", KEY, &b""[..]),
            ("HEAD", KEY, b""),
            ("PUT", KEY, b"after"),
            ("DELETE", KEY, b""),
            ("OPTIONS", KEY, b""),
            ("POST", "/v1/increment/default/n", b"{\"delta\": 1}"),
            ("POST", "/v1/batch-get", b"{\"keys\": []}"),
            ("GET", "/v1/watch/default", b""),
            ("GET", "/metrics", b""),
            ("GET", "/docs/", b""),
            ("GET", "/nowhere", b""),
        ] {
            let response = send(&platform, method, path, &json, body).await;
            assert_eq!(response.status, 403, "{method} {path} {headers:?}");
            assert_eq!(response.header("access-control-allow-origin"), None);
            if method != "HEAD" {
                let words = problem(&response, 403, DENIED).detail;
                assert!(words.contains("rest.allowed_origins"), "{words}");
            }
        }
    }
    for headers in [
        &[("origin", own.as_str())][..],
        &[("sec-fetch-site", "same-origin"), ("origin", &own)],
        &[("sec-fetch-site", "none")],
        &[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ],
    ] {
        let response = send(&platform, "GET", KEY, headers, b"").await;
        assert_eq!((response.status, &response.body[..]), (200, &b"before"[..]));
    }
    let absent = get(&platform, "/v1/kv/default/n").await;
    problem(&absent, 404, "NotFound");
}

#[tokio::test]
async fn a_page_of_a_listed_origin_can_read_and_write() {
    let list = format!("rest.allowed_origins={APP}, http://localhost:3000");
    let platform = Ephemeral::start_with(&["--set", &list]).await.unwrap();
    let from = |origin| [("origin", origin), ("sec-fetch-site", "cross-site")];
    for origin in [APP, "http://localhost:3000"] {
        let asks = [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "if-match"),
        ];
        let agreed = send(&platform, "OPTIONS", KEY, &asks, b"").await;
        assert_eq!(agreed.status, 204, "{agreed:?}");
        let header = |name| agreed.header(name).unwrap_or_default().to_owned();
        assert_eq!(header("access-control-allow-origin"), origin);
        assert!(header("access-control-allow-methods").contains("DELETE"));
        let headers = header("access-control-allow-headers");
        assert!(headers.contains("if-match") && headers.contains("idempotency-key"));
        assert_eq!(vary(&agreed), ["origin"]);

        let written = send(&platform, "PUT", KEY, &from(origin), b"v").await;
        assert_eq!(written.status, 200, "{written:?}");
        let read = send(&platform, "GET", KEY, &from(origin), b"").await;
        assert_eq!(read.header("access-control-allow-origin"), Some(origin));
        let shown = read.header("access-control-expose-headers").unwrap();
        assert!(shown.contains("etag") && shown.contains("tierkv-age-ms"));
        assert_eq!(vary(&read), ["accept", "origin"]);
        // The page can read the reason of a failure too.
        let absent = send(&platform, "GET", "/v1/kv/default/no", &from(origin), b"").await;
        problem(&absent, 404, "NotFound");
        assert_eq!(absent.header("access-control-allow-origin"), Some(origin));
    }
    for origin in ["http://app.example.com", "http://localhost:3001", "null"] {
        let refused = send(&platform, "GET", KEY, &from(origin), b"").await;
        problem(&refused, 403, DENIED);
        assert_eq!(refused.header("access-control-allow-origin"), None);
    }
    let own = get(&platform, KEY).await;
    assert_eq!(vary(&own), ["accept", "origin"]);
    assert_eq!(own.header("access-control-allow-origin"), None);
}

async fn with_host(platform: &Ephemeral, hosts: &[&str]) -> Response {
    let hosts: String = hosts
        .iter()
        .map(|host| format!("host: {host}\r\n"))
        .collect();
    let request = format!("GET {KEY} HTTP/1.1\r\nconnection: close\r\n{hosts}\r\n");
    send_raw(&platform.rest, request.as_bytes()).await.unwrap()
}

/// A site can make its own name resolve to 127.0.0.1 (DNS rebinding); then only the Host header
/// shows that the request is foreign.
#[tokio::test]
async fn on_loopback_only_names_of_this_machine_and_listed_ones_are_answered() {
    let list = "rest.allowed_hosts=kv.example.com";
    let platform = Ephemeral::start_with(&["--set", list]).await.unwrap();
    put(&platform, KEY, b"secret").await;
    for host in [
        "localhost",
        "localhost:7480",
        "127.0.0.1",
        "[::1]:7480",
        "kv.example.com",
        "KV.EXAMPLE.COM:80",
    ] {
        let response = with_host(&platform, &[host]).await;
        assert_eq!(response.body, b"secret", "{host}");
    }
    for host in ["evil.example", "evil.example:7480", "0.0.0.0", "10.1.2.3"] {
        let response = with_host(&platform, &[host]).await;
        let words = problem(&response, 403, DENIED).detail;
        assert!(words.contains("rest.allowed_hosts"), "{words}");
        assert!(words.contains(host.split(':').next().unwrap()), "{words}");
    }
    // A request in the form for proxies contains the host a second time.
    let request = "GET http://evil.example/v1/kv/default/k HTTP/1.1\r\nhost: localhost\r\n\
                   connection: close\r\n\r\n";
    let response = send_raw(&platform.rest, request.as_bytes()).await.unwrap();
    problem(&response, 403, DENIED);
}

#[tokio::test]
async fn off_loopback_every_name_is_answered() {
    let platform = Ephemeral::start_on("0.0.0.0:0").await.unwrap();
    put(&platform, KEY, b"v").await;
    let response = with_host(&platform, &["kv.example.com"]).await;
    assert_eq!(response.body, b"v");
    problem(&with_host(&platform, &[]).await, 400, "InvalidArgument");
}

#[tokio::test]
async fn a_request_must_have_exactly_one_host() {
    let platform = Ephemeral::start().await.unwrap();
    put(&platform, KEY, b"v").await;
    for hosts in [
        &[][..],
        &["localhost", "localhost"],
        &[""],
        &["me@localhost"],
        &["localhost:port"],
    ] {
        let response = with_host(&platform, hosts).await;
        let words = problem(&response, 400, "InvalidArgument").detail;
        assert!(words.contains("Host header"), "{hosts:?}: {words}");
    }
    // HTTP/1.0 has no Host header.
    let request = format!("GET {KEY} HTTP/1.0\r\n\r\n");
    let response = send_raw(&platform.rest, request.as_bytes()).await.unwrap();
    assert_eq!(response.body, b"v");
}

#[tokio::test]
async fn the_front_page_links_to_every_endpoint_for_people() {
    let platform = Ephemeral::start().await.unwrap();
    let page = get(&platform, "/").await;
    assert_eq!(page.status, 200);
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(page.header("x-frame-options"), Some("DENY"));
    let text = String::from_utf8(page.body).unwrap();
    let links: Vec<&str> = (text.split("href=\"").skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    for wanted in ["/docs/", "/openapi.json", "/metrics", "/v1/cluster"] {
        assert!(links.contains(&wanted), "{links:?}");
    }
    for link in links {
        assert_eq!(get(&platform, link).await.status, 200, "{link}");
    }
    let answer = post(&platform, "/", &json!({})).await;
    problem(&answer, 405, "InvalidArgument");
}
