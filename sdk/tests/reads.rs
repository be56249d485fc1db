//! The freshness that reads ask for, and a session's own writes, against a coordinator that the
//! test scripts.

#![allow(clippy::unwrap_used)] // A test may panic: that is how it fails.

mod played;

use std::time::Duration;

use tierkv::{
    Code, Consistency, ReadOptions, Source,
    rpc::proto::v1::{
        BatchGetResponse, DeleteResponse, GetResponse, Hop, PutResponse, session_answer::Answer,
        session_operation::Operation,
    },
};

use crate::played::{Act, Played};

const WRITTEN: u64 = 77;

/// Answers reads with the given age: a session read gets its least version, a read of the newest
/// gets version 99 with age 0.
fn answer(options: Option<tierkv::rpc::proto::v1::ReadOptions>, age_ms: u32) -> GetResponse {
    let options = options.unwrap_or_default();
    let (version, age_ms) = match options.consistency() {
        tierkv::rpc::proto::v1::Consistency::Latest => (99, 0),
        _ => (options.min_version.max(1), age_ms),
    };
    GetResponse {
        found: true,
        value: "value".into(),
        version,
        source: tierkv::rpc::proto::v1::Source::Cache.into(),
        age_ms,
        path: match options.explain {
            true => vec![Hop {
                tier: "cache".to_owned(),
                node: "m1".to_owned(),
                micros: 250,
            }],
            false => Vec::new(),
        },
        ..GetResponse::default()
    }
}

fn platform(age_ms: u32) -> Played {
    Played::new(move |_, operation| {
        Act::Answer(match operation {
            Operation::Get(get) => Answer::Get(answer(get.options, age_ms)),
            Operation::BatchGet(batch) => Answer::BatchGet(BatchGetResponse {
                answers: vec![answer(batch.options, age_ms); batch.keys.len()],
            }),
            Operation::Put(_) => Answer::Put(PutResponse { version: WRITTEN }),
            Operation::Delete(_) => Answer::Delete(DeleteResponse {
                existed: true,
                version: WRITTEN + 1,
            }),
            other => panic!("{other:?}"),
        })
    })
}

#[tokio::test]
async fn a_read_returns_every_field_of_the_answer() {
    let played = platform(40);
    let client = played.client().await;
    let options = ReadOptions {
        explain: true,
        ..ReadOptions::default()
    };
    let found = client.get_with("key", options).await.unwrap();
    assert_eq!(found.source, Source::Cache);
    assert_eq!(found.age, Duration::from_millis(40));
    assert_eq!(
        (&*found.path[0].tier, &*found.path[0].node),
        ("cache", "m1")
    );
    assert_eq!(found.path[0].took, Duration::from_micros(250));
    assert!(client.get("key").await.unwrap().path.is_empty());
}

#[tokio::test]
async fn a_session_asks_for_its_own_writes() {
    let played = platform(5_000);
    let client = played.client().await;
    let session = client.session();
    let version = async |key: &str| session.get(key).await.unwrap().version;
    assert_eq!(version("a").await, 1, "nothing was written");
    session.put("a", "value").await.unwrap();
    session.clone().delete("b").await.unwrap();
    assert_eq!(version("a").await, WRITTEN);
    assert_eq!(version("b").await, WRITTEN + 1, "clones are of one session");
    assert_eq!(version("c").await, 1);
    let elsewhere = session.in_namespace("other").unwrap();
    assert_eq!(elsewhere.get("a").await.unwrap().version, 1);
    assert_eq!(client.get("a").await.unwrap().version, 1);
    assert_eq!(client.session().get("a").await.unwrap().version, 1);

    let found = session.batch_get(&["c", "b", "d", "a"]).await.unwrap();
    let versions: Vec<_> = found.iter().map(|found| found.version).collect();
    assert_eq!(versions, [1, WRITTEN + 1, 1, WRITTEN]);

    // A read's own least version counts if it is higher.
    let at_least = |version| ReadOptions {
        consistency: Consistency::Session(version),
        ..ReadOptions::default()
    };
    let found = session.get_with("a", at_least(WRITTEN + 5)).await.unwrap();
    assert_eq!(found.version, WRITTEN + 5);
    let found = session.get_with("a", at_least(3)).await.unwrap();
    assert_eq!(found.version, WRITTEN);
    let latest = ReadOptions {
        consistency: Consistency::Latest,
        ..ReadOptions::default()
    };
    assert_eq!(session.get_with("a", latest).await.unwrap().version, 99);
}

#[tokio::test]
async fn a_session_sees_the_writes_that_it_forgot() {
    let played = platform(5_000);
    let session = played.client().await.session();
    let keys: Vec<String> = (0..=tierkv::MAX_SESSION_KEYS)
        .map(|n| n.to_string())
        .collect();
    for key in &keys {
        session.put(key, "value").await.unwrap();
    }
    assert_eq!(session.get(&keys[1]).await.unwrap().version, WRITTEN);
    // The first key was dropped a moment ago; the default answer is five seconds old.
    assert_eq!(session.get(&keys[0]).await.unwrap().version, 99);
    let found = session.batch_get(&["0", "1", "other"]).await.unwrap();
    let versions: Vec<_> = found.iter().map(|found| found.version).collect();
    assert_eq!(versions, [99, WRITTEN, 99]);
}

#[tokio::test]
async fn reads_are_tried_again_and_end_in_time() {
    let played = Played::new(|number, _| match number {
        0 => Act::Break,
        1 => Act::Refuse(Code::Unavailable),
        2 => Act::Answer(Answer::Get(answer(None, 0))),
        3 => Act::Refuse(Code::InvalidArgument),
        _ => Act::Refuse(Code::Unavailable),
    });
    let client = played.client().await;
    assert_eq!(client.get("key").await.unwrap().version, 1);
    let error = client.get("key").await.unwrap_err();
    assert_eq!(
        (error.code(), played.asked().len()),
        (Code::InvalidArgument, 4)
    );
    let hurried = client.with_timeout(Duration::from_millis(100));
    let error = hurried.get("key").await.unwrap_err();
    assert!(error.is_retryable() && played.asked().len() > 5, "{error}");
}
