//! Watches as server-sent events.

use std::time::Duration;

use serde_json::{Value, json};
use tierkv_tests::{
    ephemeral::Ephemeral,
    http::{Request, Stream},
};

use crate::{PATIENCE, call, get, problem, put};

/// One event; comments and `retry` lines are skipped.
#[derive(Debug)]
struct Event {
    name: String,
    data: Value,
    id: Option<String>,
}

/// An open watch and the bytes received so far.
struct Watch {
    stream: Stream,
    text: String,
}

impl Watch {
    async fn open(platform: &Ephemeral, path: &str, last: Option<&str>) -> Self {
        let mut request = Request::new("GET", path);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let stream = request.open(&platform.rest).await.unwrap();
        assert_eq!(stream.status, 200);
        let expected = ("content-type".to_owned(), "text/event-stream".to_owned());
        assert!(stream.headers.contains(&expected), "{:?}", stream.headers);
        let text = String::new();
        Self { stream, text }
    }

    /// The next event; `None` if the stream ended.
    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let fields: Vec<(&str, &str)> = block
                    .lines()
                    .filter_map(|line| line.split_once(':'))
                    .map(|(name, value)| (name, value.trim_start()))
                    .collect();
                let field = |wanted: &str| {
                    let found = fields.iter().find(|(name, _)| *name == wanted);
                    found.map(|(_, value)| (*value).to_owned())
                };
                let event = field("event").map(|name| Event {
                    name,
                    data: serde_json::from_str(&field("data").unwrap()).unwrap(),
                    id: field("id"),
                });
                self.text = rest.to_owned();
                if event.is_some() {
                    return event;
                }
            }
            let chunk = self.stream.chunk(PATIENCE).await.unwrap()?;
            self.text.push_str(&String::from_utf8(chunk).unwrap());
        }
    }

    /// The next change, and its event id.
    async fn change(&mut self) -> (Event, Option<String>) {
        let mut last = None;
        loop {
            let event = self.next().await.unwrap();
            last = event.id.clone().or(last);
            if event.name != "progress" {
                return (event, last);
            }
        }
    }
}

#[tokio::test]
async fn changes_are_sent_as_they_happen() {
    let platform = Ephemeral::start().await.unwrap();
    put(&platform, "/v1/kv/n/before", b"v").await;
    let mut watch = Watch::open(&platform, "/v1/watch/n?prefix=a", None).await;
    let first = watch.next().await.unwrap();
    assert_eq!(first.name, "progress");
    assert_eq!(first.data["resume_token"].as_str(), first.id.as_deref());

    put(&platform, "/v1/kv/n/b", b"not watched").await;
    let version = put(&platform, "/v1/kv/n/a?ttl=60s", b"\xff").await;
    let (written, token) = watch.change().await;
    assert_eq!(written.name, "written");
    let expected = json!({
        "key": "a",
        "value_base64": "/w==",
        "version": version.to_string(),
        "expires_at": (version >> 16) + 60_000,
    });
    assert_eq!(written.data, expected);

    let removed_version = call(&platform, "DELETE", "/v1/kv/n/a").await.json()["version"].clone();
    let (removed, _) = watch.change().await;
    assert_eq!(removed.name, "removed");
    assert_eq!(
        removed.data,
        json!({"key": "a", "version": removed_version})
    );

    // A client that reconnects with the id of the first change receives the second again.
    let token = token.unwrap();
    for (path, last) in [
        ("/v1/watch/n?prefix=a".to_owned(), Some(token.as_str())),
        (format!("/v1/watch/n?prefix=a&resume_token={token}"), None),
    ] {
        let mut again = Watch::open(&platform, &path, last).await;
        let (repeated, _) = again.change().await;
        assert_eq!(
            (repeated.name, repeated.data),
            ("removed".to_owned(), removed.data.clone())
        );
    }
}

#[tokio::test]
async fn a_watch_ends_when_the_server_stops() {
    let mut platform = Ephemeral::start().await.unwrap();
    let mut watch = Watch::open(&platform, "/v1/watch/n", None).await;
    assert_eq!(watch.next().await.unwrap().name, "progress");
    let stopped = platform
        .process()
        .stop(Duration::from_secs(10))
        .await
        .unwrap();
    assert!(stopped.success(), "{stopped}");
    while let Some(event) = watch.next().await {
        assert!(
            ["progress", "problem"].contains(&event.name.as_str()),
            "{event:?}"
        );
    }
}

#[tokio::test]
async fn a_bad_watch_is_refused() {
    let platform = Ephemeral::start().await.unwrap();
    for (query, word) in [
        ("prefix=a&prefix_base64=YQ==", "one of them"),
        ("resume_token=?", "as it was given in the id of an event"),
        ("resume_token=YWJj", "token"),
        ("timeout=5s", "'timeout'"),
        ("start=a", "'start'"),
    ] {
        let response = get(&platform, &format!("/v1/watch/n?{query}")).await;
        let words = problem(&response, 400, "InvalidArgument").detail;
        assert!(words.contains(word), "{query}: {words}");
    }
}
