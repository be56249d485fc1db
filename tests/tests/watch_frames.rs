//! A watch splits the changes of a large `Write` into answers below the default size limit of
//! gRPC clients, and can resume from the token of each answer.

// Test helpers panic as tests do, and the figures are for people.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use prost::Message;
use tierkv::rpc::{
    channel,
    proto::v1::{
        BatchGetRequest, DeleteOperation, PutOperation, WatchEvent, WatchRequest, WatchResponse,
        WriteOperation, WriteRequest, kv_client::KvClient, watch_event::Kind, write_operation,
    },
};
use tierkv_harness::{Options, TierKv};
use tierkv_tests::http::Request;
use tierkv_types::limits::MAX_OPERATIONS;
use tokio::time::timeout;
use tonic::{Code, Streaming, transport::Channel};

/// The default limit of gRPC clients for one message.
const DEFAULT_LIMIT: usize = 4 << 20;
/// With values of this size, [`MAX_OPERATIONS`] puts are nearly the largest request.
const VALUE_BYTES: usize = 4_100;
const PATIENCE: Duration = Duration::from_secs(30);

fn put(key: String, value: Vec<u8>) -> WriteOperation {
    let (key, value) = (key.into(), value.into());
    WriteOperation {
        kind: Some(write_operation::Kind::Put(PutOperation {
            key,
            value,
            ttl_ms: 0,
        })),
    }
}

fn delete(key: String) -> WriteOperation {
    let key = key.into();
    WriteOperation {
        kind: Some(write_operation::Kind::Delete(DeleteOperation { key })),
    }
}

/// Keys of two prefixes in turn.
fn key(number: usize) -> String {
    let prefix = if number.is_multiple_of(3) { "b" } else { "a" };
    format!("{prefix}/{number:04}")
}

/// A client with the default limits of its library.
struct Stage {
    client: KvClient<Channel>,
}

impl Stage {
    fn at(grpc: &str) -> Self {
        Self {
            client: KvClient::new(channel(grpc).unwrap()),
        }
    }

    async fn write(&self, operations: Vec<WriteOperation>) -> u64 {
        let request = WriteRequest {
            operations,
            ..WriteRequest::default()
        };
        let bytes = request.encoded_len();
        assert!(
            bytes <= DEFAULT_LIMIT,
            "a request of {bytes} bytes is over the client's limit"
        );
        let answer = self.client.clone().write(request).await.unwrap();
        answer.into_inner().version
    }

    async fn watch(&self, prefix: &'static str, resume_token: Bytes) -> Watching {
        let request = WatchRequest {
            namespace: String::new(),
            prefix: prefix.into(),
            resume_token: resume_token.clone(),
        };
        let opened = self.client.clone().watch(request).await;
        let mut answers = opened.unwrap().into_inner();
        let first = next(&mut answers).await;
        assert!(first.events.is_empty());
        assert!(resume_token.is_empty() || resume_token == first.resume_token);
        Watching {
            answers,
            token: first.resume_token,
        }
    }
}

/// A watch, and the token where it began.
struct Watching {
    answers: Streaming<WatchResponse>,
    token: Bytes,
}

impl Watching {
    /// Reads answers until they have `count` events; skips answers without events.
    async fn answers(&mut self, count: usize) -> Vec<WatchResponse> {
        let (mut answers, mut events) = (Vec::new(), 0);
        while events < count {
            let answer = next(&mut self.answers).await;
            events += answer.events.len();
            if !answer.events.is_empty() {
                answers.push(answer);
            }
        }
        answers
    }
}

async fn next(answers: &mut Streaming<WatchResponse>) -> WatchResponse {
    let answer = timeout(PATIENCE, answers.message()).await;
    let answer = answer.expect("the watch sends nothing").unwrap().unwrap();
    let bytes = answer.encoded_len();
    assert!(bytes < DEFAULT_LIMIT, "an answer of {bytes} bytes");
    answer
}

fn events(answers: &[WatchResponse]) -> Vec<WatchEvent> {
    let events = answers.iter().flat_map(|answer| answer.events.clone());
    events.collect()
}

/// Checks that each answer marks whether more changes of its last version follow.
fn check_parts(answers: &[WatchResponse]) {
    for pair in answers.windows(2) {
        let last = pair[0].events.last().unwrap().version;
        let goes_on = last == pair[1].events[0].version;
        assert_eq!(pair[0].is_partial, goes_on);
    }
    assert!(!answers.last().unwrap().is_partial);
}

/// Checks that a watch from the token of each answer reports the later changes, and no others.
async fn check_tokens(
    stage: &Stage,
    prefix: &'static str,
    begin: &Bytes,
    reported: &[WatchResponse],
) {
    let tokens = [begin]
        .into_iter()
        .chain(reported.iter().map(|answer| &answer.resume_token));
    for (nth, token) in tokens.enumerate() {
        let rest = events(&reported[nth..]);
        let mut again = stage.watch(prefix, token.clone()).await;
        let answers = again.answers(rest.len()).await;
        assert!(events(&answers) == rest, "from answer {nth} of {prefix:?}");
    }
}

/// Makes three writes of the greatest size; returns the answers of watches of three prefixes.
async fn write_all(stage: &Stage) -> Vec<(&'static str, Bytes, Vec<WatchResponse>)> {
    let mut watches = Vec::new();
    for prefix in ["", "b/", "a/0998"] {
        watches.push((prefix, stage.watch(prefix, Bytes::new()).await));
    }
    let all = 0..MAX_OPERATIONS;
    let puts = all
        .clone()
        .map(|number| put(key(number), vec![7; VALUE_BYTES]));
    stage.write(puts.collect()).await;
    let large = (0..3).map(|number| put(key(number), vec![8; 1 << 20]));
    let large = large.chain((3..500).map(|number| put(key(number), vec![9; 2_000])));
    stage.write(large.collect()).await;
    stage
        .write(all.clone().map(|number| delete(key(number))).collect())
        .await;

    let mut reported = Vec::new();
    for (prefix, mut watching) in watches {
        let is_told = |number: &usize| key(*number).starts_with(prefix);
        let count = all.clone().filter(is_told).count() * 2 + (0..500).filter(is_told).count();
        let answers = watching.answers(count).await;
        assert_eq!(events(&answers).len(), count, "{prefix:?}");
        let largest = answers.iter().map(Message::encoded_len).max();
        println!(
            "{prefix:?}: {} answers, the largest has {largest:?} bytes",
            answers.len()
        );
        check_parts(&answers);
        reported.push((prefix, watching.token, answers));
    }
    reported
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_large_write_are_split_into_answers_below_the_default_limit() {
    let mut platform = TierKv::start(Options::default()).await.unwrap();
    let stage = Stage::at(platform.grpc());
    let reported = write_all(&stage).await;
    let (_, _, all) = &reported[0];
    // Each change once, in the order of the write.
    let all = events(all);
    let keys = |events: &[WatchEvent]| -> Vec<Bytes> {
        events.iter().map(|event| event.key.clone()).collect()
    };
    let expected: Vec<Bytes> = (0..MAX_OPERATIONS)
        .map(|number| key(number).into())
        .collect();
    assert_eq!(keys(&all[..MAX_OPERATIONS]), expected);
    assert_eq!(keys(&all[all.len() - MAX_OPERATIONS..]), expected);
    let versions: BTreeSet<u64> = all.iter().map(|event| event.version).collect();
    assert_eq!(versions.len(), 3);
    let is_whole = |event: &&WatchEvent| matches!(&event.kind, Some(Kind::Written(written)) if written.value.len() == 1 << 20);
    assert_eq!(all.iter().filter(is_whole).count(), 3);
    for (prefix, begin, answers) in &reported {
        check_tokens(&stage, prefix, begin, answers).await;
    }

    // After a restart, the changes are no longer in memory.
    platform.kill9().unwrap();
    platform.restart().await.unwrap();
    let stage = Stage::at(platform.grpc());
    for (prefix, begin, answers) in &reported {
        check_tokens(&stage, prefix, begin, answers).await;
    }
    assert!(platform.stop().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn server_sent_events_resume_within_a_write() {
    let platform = TierKv::start(Options::default()).await.unwrap();
    let stage = Stage::at(platform.grpc());
    let begin = Request::new("GET", "/v1/watch/default?prefix=a/");
    let mut stream = begin.open(platform.rest()).await.unwrap();
    let puts = (0..MAX_OPERATIONS).map(|number| put(key(number), vec![b'v'; VALUE_BYTES]));
    stage.write(puts.collect()).await;
    let count = (0..MAX_OPERATIONS).filter(|number| key(*number).starts_with("a/"));
    let reported = sent(&mut stream, count.clone().count()).await;
    let ids: Vec<&String> = reported.iter().filter_map(|(_, id)| id.as_ref()).collect();
    assert!(ids.len() > 2, "{} ids", ids.len());
    // A watch from the first id reports the rest, each change once.
    let first = reported.iter().position(|(_, id)| id.is_some()).unwrap();
    let again = Request::new("GET", "/v1/watch/default?prefix=a/").header("last-event-id", ids[0]);
    let mut stream = again.open(platform.rest()).await.unwrap();
    let rest = sent(&mut stream, reported.len() - first - 1).await;
    let keys = |reported: &[(String, Option<String>)]| -> Vec<String> {
        reported.iter().map(|(key, _)| key.clone()).collect()
    };
    assert_eq!(keys(&rest), keys(&reported[first + 1..]));
    assert_eq!(keys(&reported), count.map(key).collect::<Vec<_>>());
}

/// The next `count` changes: their keys, and their event ids, if they have one.
async fn sent(
    stream: &mut tierkv_tests::http::Stream,
    count: usize,
) -> Vec<(String, Option<String>)> {
    let (mut reported, mut text) = (Vec::new(), String::new());
    while reported.len() < count {
        let chunk = stream.chunk(PATIENCE).await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
        while let Some((event, rest)) = text.split_once("\n\n") {
            let field = |name: &str| {
                let line = event.lines().find_map(|line| line.strip_prefix(name))?;
                Some(line.trim().to_owned())
            };
            if field("event:").as_deref() == Some("written") {
                let data: serde_json::Value =
                    serde_json::from_str(&field("data:").unwrap()).unwrap();
                reported.push((data["key"].as_str().unwrap().to_owned(), field("id:")));
            }
            text = rest.to_owned();
        }
    }
    reported
}

/// As documented for `BatchGet`: its answer may be over the default limit of a client, and a
/// client with a larger limit can read it.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_batch_of_reads_needs_a_larger_limit() {
    let platform = TierKv::start(Options::default()).await.unwrap();
    let stage = Stage::at(platform.grpc());
    let puts = (0..MAX_OPERATIONS).map(|number| put(key(number), vec![7; VALUE_BYTES]));
    stage.write(puts.collect()).await;
    let more = (0..10).map(|number| put(format!("more/{number}"), vec![7; 400_000]));
    stage.write(more.collect()).await;
    let keys = (0..MAX_OPERATIONS - 10).map(|number| key(number).into());
    let more = (0..10).map(|number| format!("more/{number}").into());
    let request = BatchGetRequest {
        keys: keys.chain(more).collect(),
        ..BatchGetRequest::default()
    };
    let refused = stage
        .client
        .clone()
        .batch_get(request.clone())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    let larger = stage.client.clone().max_decoding_message_size(17 << 20);
    let answer = { larger }.batch_get(request).await.unwrap().into_inner();
    assert!(answer.encoded_len() > DEFAULT_LIMIT);
    assert!(answer.answers.iter().all(|answer| answer.found));
}
