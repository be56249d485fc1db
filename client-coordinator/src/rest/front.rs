//! The page at `/`: links to what this server has.

use axum::{
    http::{HeaderValue, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};

/// The page. It loads nothing, so that it works on machines without a network.
const PAGE: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>TierKV</title>
<style>
body { font: 16px/1.5 sans-serif; margin: 2em auto; max-width: 42em; padding: 0 1em; }
code { background: #eee; padding: 0 .2em; }
dt { font-weight: bold; margin-top: .6em; }
</style>
</head>
<body>
<h1>TierKV</h1>
<p>This is the REST address of a client coordinator. Keys are at <code>/v1/kv/{namespace}/{key}</code>:
<code>PUT</code> sets one, <code>GET</code> reads it, <code>DELETE</code> removes it.</p>
<dl>
<dt><a href="/docs/">/docs</a></dt><dd>The whole API, to read and to try out</dd>
<dt><a href="/openapi.json">/openapi.json</a></dt><dd>The same, for programs</dd>
<dt><a href="/v1/cluster">/v1/cluster</a></dt><dd>The topology and its health</dd>
<dt><a href="/metrics">/metrics</a></dt><dd>For Prometheus</dd>
<dt><a href="/health/ready">/health/ready</a>, <a href="/health/live">/health/live</a></dt><dd>For load balancers</dd>
</dl>
</body>
</html>
"#;

pub(super) async fn page() -> Response {
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    ([(CONTENT_TYPE, html)], PAGE).into_response()
}
