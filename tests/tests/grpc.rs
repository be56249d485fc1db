//! The gRPC service `tierkv.v1.Kv`, called through its generated client.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use tierkv::rpc::{
    channel,
    proto::{
        status::detail,
        v1::{
            Absent, BatchGetRequest, Condition, Consistency, DeleteOperation, DeleteRequest,
            GetRequest, Hop, IncrementOperation, IncrementRequest, Present, PutOperation,
            PutRequest, ReadOptions, RequestId, SessionOperation, SessionRequest, SessionResponse,
            Source, TouchOperation, TouchRequest, WriteOperation, WriteRequest, condition,
            kv_client::KvClient, session_answer::Answer, session_operation::Operation,
            write_operation,
        },
    },
};
use tierkv_harness::poll_until;
use tierkv_tests::ephemeral::Ephemeral;
use tierkv_types::limits::{
    MAX_KEY_BYTES, MAX_OPERATIONS, MAX_REQUEST_BYTES, MAX_SESSION_IN_FLIGHT, MAX_VALUE_BYTES,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

const PATIENCE: Duration = Duration::from_secs(30);

async fn start() -> (Ephemeral, KvClient<Channel>) {
    let platform = Ephemeral::start().await.unwrap();
    let client = KvClient::new(channel(&platform.grpc).unwrap());
    (platform, client)
}

fn get(key: impl Into<Bytes>) -> GetRequest {
    GetRequest {
        key: key.into(),
        ..GetRequest::default()
    }
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> PutRequest {
    PutRequest {
        key: key.into(),
        value: value.into(),
        ..PutRequest::default()
    }
}

/// Checks that a call was refused with `InvalidArgument` and a detail; returns its message.
fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>) -> String {
    let status = outcome.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let error = detail(&status).expect("the status carries tierkv.v1.Error");
    assert_eq!(error.code, tierkv::Code::InvalidArgument);
    assert_eq!(error.message, status.message());
    error.message.into_owned()
}

#[tokio::test]
async fn unary_calls_put_read_and_delete_keys() {
    let (_platform, mut client) = start().await;
    let absent = client.get(get("k")).await.unwrap().into_inner();
    assert!(!absent.found);
    let version = client
        .put(put("k", "v"))
        .await
        .unwrap()
        .into_inner()
        .version;
    assert!(version > absent.version);
    let mut latest = get("k");
    latest.options = Some(ReadOptions {
        consistency: Consistency::Latest.into(),
        ..ReadOptions::default()
    });
    let found = client.get(latest).await.unwrap().into_inner();
    assert_eq!(
        (found.found, &found.value[..], found.version),
        (true, &b"v"[..], version)
    );
    assert_eq!(found.source(), Source::Master);
    let batch = BatchGetRequest {
        keys: vec!["k".into(), "absent".into(), "k".into()],
        ..BatchGetRequest::default()
    };
    let answers = client.batch_get(batch).await.unwrap().into_inner().answers;
    let found: Vec<bool> = answers.iter().map(|answer| answer.found).collect();
    assert_eq!(found, [true, false, true]);
    let delete = DeleteRequest {
        key: "k".into(),
        ..DeleteRequest::default()
    };
    let deleted = client.delete(delete).await.unwrap().into_inner();
    assert!(deleted.existed && deleted.version > version);
    assert!(!client.get(get("k")).await.unwrap().into_inner().found);
}

#[tokio::test]
async fn a_key_expires_at_its_time_to_live() {
    let (_platform, mut client) = start().await;
    let mut for_a_while = put("k", "v");
    for_a_while.ttl_ms = 300;
    let version = client.put(for_a_while).await.unwrap().into_inner().version;
    let read = client.get(get("k")).await.unwrap().into_inner();
    assert_eq!(read.expires_at_ms, (version >> 16) + 300);
    let hidden = poll_until(PATIENCE, || {
        let mut client = client.clone();
        async move {
            let read = client.get(get("k")).await.ok()?.into_inner();
            (!read.found).then_some(())
        }
    });
    hidden.await.expect("the key did not expire");
}

fn increment(key: &'static str, delta: i64) -> IncrementRequest {
    IncrementRequest {
        key: key.into(),
        delta,
        ..IncrementRequest::default()
    }
}

fn written(kind: write_operation::Kind) -> WriteOperation {
    WriteOperation { kind: Some(kind) }
}

fn put_operation(key: &'static str, value: &'static str) -> WriteOperation {
    written(write_operation::Kind::Put(PutOperation {
        key: key.into(),
        value: value.into(),
        ttl_ms: 0,
    }))
}

fn condition(key: &'static str, kind: condition::Kind) -> Condition {
    Condition {
        key: key.into(),
        kind: Some(kind),
    }
}

#[tokio::test]
async fn a_number_is_incremented_and_decremented() {
    let (_platform, mut client) = start().await;
    for (delta, value) in [(5, 5), (-7, -2), (0, -2)] {
        let answer = client.increment(increment("n", delta)).await.unwrap();
        assert_eq!(answer.into_inner().value, value);
    }
    let read = client.get(get("n")).await.unwrap().into_inner();
    assert_eq!(read.value, "-2");
    let words = refused(client.increment(increment("n", i64::MIN)).await);
    assert!(words.contains("64-bit"), "{words}");
    client.put(put("text", "x")).await.unwrap();
    let words = refused(client.increment(increment("text", 1)).await);
    assert!(words.contains("decimal"), "{words}");
}

fn touch(key: &'static str, ttl_ms: u64) -> TouchRequest {
    TouchRequest {
        key: key.into(),
        ttl_ms,
        ..TouchRequest::default()
    }
}

#[tokio::test]
async fn a_touch_changes_nothing_but_the_expiry() {
    let (_platform, mut client) = start().await;
    let status = client.touch(touch("k", 0)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let error = detail(&status).unwrap();
    assert_eq!(error.code, tierkv::Code::NotFound);
    let written = client.put(put("k", "v")).await.unwrap().into_inner();
    let hour = 3_600_000;
    let mut touching = touch("k", hour);
    touching.request_id = Some(RequestId {
        random: vec![9; 16].into(),
        birth_ms: written.version >> 16,
    });
    let touched = client.touch(touching.clone()).await.unwrap().into_inner();
    assert!(touched.version > written.version, "I5");
    let again = client.touch(touching.clone()).await.unwrap().into_inner();
    assert_eq!(again, touched);
    let read = client.get(get("k")).await.unwrap().into_inner();
    assert_eq!(
        (&read.value[..], read.version),
        (&b"v"[..], touched.version)
    );
    assert_eq!(read.expires_at_ms, (touched.version >> 16) + hour);
    touching.ttl_ms = 0;
    let words = refused(client.touch(touching).await);
    assert!(words.contains("another write"), "{words}");
    let words = refused(client.touch(touch("k", u64::MAX)).await);
    assert!(words.contains("max_ttl"), "{words}");

    let operation = written_touch("k");
    let batch = WriteRequest {
        conditions: vec![condition("k", condition::Kind::IfVersion(touched.version))],
        operations: vec![operation.clone()],
        return_previous: true,
        ..WriteRequest::default()
    };
    let cleared = client.write(batch).await.unwrap().into_inner();
    let previous = cleared.results[0].previous_value.as_deref();
    assert_eq!(previous, Some(&b"v"[..]));
    let read = client.get(get("k")).await.unwrap().into_inner();
    assert_eq!((read.version, read.expires_at_ms), (cleared.version, 0));
    let batch = WriteRequest {
        operations: vec![put_operation("other", "1"), written_touch("absent")],
        ..WriteRequest::default()
    };
    let status = client.write(batch).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(!client.get(get("other")).await.unwrap().into_inner().found);
}

fn written_touch(key: &'static str) -> WriteOperation {
    written(write_operation::Kind::Touch(TouchOperation {
        key: key.into(),
        ttl_ms: 0,
    }))
}

#[tokio::test]
async fn a_batch_is_applied_if_its_conditions_hold() {
    use condition::Kind;
    let (_platform, mut client) = start().await;
    let first = WriteRequest {
        conditions: vec![condition("a", Kind::IfAbsent(Absent {}))],
        operations: vec![
            put_operation("a", "1"),
            put_operation("b", "2"),
            written(write_operation::Kind::Increment(IncrementOperation {
                key: "n".into(),
                delta: 3,
            })),
        ],
        return_previous: true,
        ..WriteRequest::default()
    };
    let answer = client.write(first.clone()).await.unwrap().into_inner();
    assert_eq!(answer.results.len(), 3);
    assert_eq!(answer.results[2].number, 3);
    assert!(answer.results.iter().all(|result| !result.existed));

    let status = client.write(first).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let error = detail(&status).unwrap();
    assert_eq!(error.code, tierkv::Code::ConditionFailed);
    assert!(
        error
            .message
            .starts_with("the condition on 'a' does not hold"),
        "{error}"
    );

    let second = WriteRequest {
        conditions: vec![
            condition("a", Kind::IfVersion(answer.version)),
            condition("b", Kind::IfPresent(Present {})),
        ],
        operations: vec![written(write_operation::Kind::Delete(DeleteOperation {
            key: "a".into(),
        }))],
        return_previous: true,
        ..WriteRequest::default()
    };
    let deleted = client.write(second.clone()).await.unwrap().into_inner();
    let result = &deleted.results[0];
    assert_eq!(result.previous_value.as_deref(), Some(&b"1"[..]));
    assert_eq!(
        (result.existed, result.previous_version),
        (true, answer.version)
    );
    assert!(client.write(second).await.is_err());
    assert!(!client.get(get("a")).await.unwrap().into_inner().found);
}

#[tokio::test]
async fn a_request_that_is_sent_twice_is_applied_once() {
    let (_platform, mut client) = start().await;
    let version = client
        .put(put("k", "v"))
        .await
        .unwrap()
        .into_inner()
        .version;
    let id = RequestId {
        random: vec![7; 16].into(),
        // Its birth is the time in the version of the first write.
        birth_ms: version >> 16,
    };
    let mut adding = increment("n", 1);
    adding.request_id = Some(id.clone());
    let first = client.increment(adding.clone()).await.unwrap().into_inner();
    let again = client.increment(adding.clone()).await.unwrap().into_inner();
    assert_eq!((first.value, &first), (1, &again));
    adding.delta = 2;
    let words = refused(client.increment(adding).await);
    assert!(words.contains("another write"), "{words}");

    let batch = WriteRequest {
        operations: vec![put_operation("k", "w")],
        request_id: Some(RequestId {
            random: vec![8; 16].into(),
            ..id
        }),
        return_previous: true,
        ..WriteRequest::default()
    };
    let first = client.write(batch.clone()).await.unwrap().into_inner();
    let again = client.write(batch).await.unwrap().into_inner();
    assert_eq!(again.version, first.version);
    assert!(!first.replayed && again.replayed);
    assert_eq!(first.results[0].previous_value.as_deref(), Some(&b"v"[..]));
    assert_eq!(again.results[0].previous_value, None);
}

/// The tiers on the path of a read.
fn tiers(path: &[Hop]) -> Vec<&str> {
    // A tier waits for the tiers below it.
    assert!(path.iter().all(|hop| !hop.node.is_empty()), "{path:?}");
    path.iter().map(|hop| hop.tier.as_str()).collect()
}

#[tokio::test]
async fn a_read_returns_its_path_if_asked_to_explain() {
    let (_platform, mut client) = start().await;
    client.put(put("k", "v")).await.unwrap();
    let explained = |consistency: Consistency| GetRequest {
        options: Some(ReadOptions {
            consistency: consistency.into(),
            explain: true,
            ..ReadOptions::default()
        }),
        ..get("k")
    };
    let latest = client.get(explained(Consistency::Latest)).await.unwrap();
    let latest = latest.into_inner();
    let below = ["client-coordinator", "server-coordinator", "datanode"];
    assert_eq!(tiers(&latest.path), below);
    let micros: Vec<u64> = latest.path.iter().map(|hop| hop.micros).collect();
    assert!(micros.is_sorted_by(|a, b| a >= b), "{micros:?}");
    // The cache answers once its entry is filled and valid.
    let hit = poll_until(PATIENCE, || {
        let mut client = client.clone();
        async move {
            let read = client.get(explained(Consistency::Cached)).await.ok()?;
            let read = read.into_inner();
            (read.source() == Source::Cache).then_some(read)
        }
    });
    let hit = hit.await.unwrap();
    assert_eq!(tiers(&hit.path), ["client-coordinator", "cache"]);
    let silent = client.get(get("k")).await.unwrap().into_inner();
    assert_eq!(silent.path, []);
}

#[tokio::test]
async fn an_invalid_request_is_refused_with_a_detail() {
    let (_platform, mut client) = start().await;
    refused(client.get(get("")).await);
    refused(client.get(get(vec![0; MAX_KEY_BYTES + 1])).await);
    let mut elsewhere = get("k");
    elsewhere.namespace = "No/Namespace".to_owned();
    refused(client.get(elsewhere).await);
    refused(client.put(put("k", vec![0; MAX_VALUE_BYTES + 1])).await);
    let mut short_id = put("k", "v");
    short_id.request_id = Some(RequestId {
        random: vec![0; 15].into(),
        birth_ms: 1,
    });
    refused(client.put(short_id).await);
    let mut for_ages = put("k", "v");
    for_ages.ttl_ms = u64::MAX;
    refused(client.put(for_ages).await);

    let options = |options: ReadOptions| GetRequest {
        options: Some(options),
        ..get("k")
    };
    let unknown = options(ReadOptions {
        consistency: 99,
        ..ReadOptions::default()
    });
    let words = refused(client.get(unknown).await);
    assert!(words.contains("99"), "{words}");
    let ignored = options(ReadOptions {
        min_version: 7,
        ..ReadOptions::default()
    });
    refused(client.get(ignored).await);
}

#[tokio::test]
async fn the_limits_of_the_contract_are_enforced() {
    let (_platform, mut client) = start().await;
    let batch = |count: usize| BatchGetRequest {
        keys: (0..count)
            .map(|n| Bytes::from(format!("key-{n}")))
            .collect(),
        ..BatchGetRequest::default()
    };
    let answers = client.batch_get(batch(MAX_OPERATIONS)).await.unwrap();
    assert_eq!(answers.into_inner().answers.len(), MAX_OPERATIONS);
    let words = refused(client.batch_get(batch(MAX_OPERATIONS + 1)).await);
    assert!(words.contains("max_operations"), "{words}");

    // One byte more than an answer may have: the client must ask in two requests.
    let value = Bytes::from(vec![7; MAX_VALUE_BYTES]);
    for n in 0..17 {
        client
            .put(put(format!("large-{n}"), value.clone()))
            .await
            .unwrap();
    }
    let large = |count: usize| BatchGetRequest {
        keys: (0..count)
            .map(|n| Bytes::from(format!("large-{n}")))
            .collect(),
        ..BatchGetRequest::default()
    };
    let mut roomy = client.clone().max_decoding_message_size(17 << 20);
    let answers = roomy
        .batch_get(large(16))
        .await
        .unwrap()
        .into_inner()
        .answers;
    assert!(answers.iter().all(|answer| answer.value == value));
    let status = roomy.batch_get(large(17)).await.unwrap_err();
    assert_eq!(
        detail(&status).unwrap().code,
        tierkv::Code::ResourceExhausted
    );

    // A request over the limit is refused by the transport: a status without a promise.
    let status = client
        .put(put("k", vec![0; MAX_REQUEST_BYTES + (1 << 20)]))
        .await
        .unwrap_err();
    assert_eq!(detail(&status), None);
    assert!(!client.get(get("k")).await.unwrap().into_inner().found);
}

/// A session and its first frame.
async fn session(
    client: &mut KvClient<Channel>,
) -> (mpsc::Sender<SessionRequest>, Streaming<SessionResponse>) {
    let (sender, requests) = mpsc::channel(8);
    let answers = client.session(ReceiverStream::new(requests)).await.unwrap();
    (sender, answers.into_inner())
}

/// Collects `count` answers by id.
async fn collect(answers: &mut Streaming<SessionResponse>, count: usize) -> HashMap<u64, Answer> {
    let mut collected = HashMap::new();
    while collected.len() < count {
        let frame = answers.message().await.unwrap().expect("the stream ended");
        assert_eq!(frame.greeting, None);
        for answer in frame.answers {
            let known = collected.insert(answer.id, answer.answer.unwrap());
            assert_eq!(known, None, "operation {} was answered twice", answer.id);
        }
    }
    collected
}

fn operation(id: u64, operation: Operation) -> SessionOperation {
    SessionOperation {
        id,
        timeout_ms: 0,
        operation: Some(operation),
    }
}

fn code_of(answer: &Answer) -> Option<tierkv::Code> {
    match answer {
        Answer::Error(error) => tierkv::Code::from_number(error.code),
        _ => None,
    }
}

#[tokio::test]
async fn a_session_answers_each_operation_by_its_id() {
    let (_platform, mut client) = start().await;
    let (requests, mut answers) = session(&mut client).await;
    let greeting = answers.message().await.unwrap().unwrap().greeting.unwrap();
    assert_eq!(greeting.max_in_flight as usize, MAX_SESSION_IN_FLIGHT);
    assert_eq!(greeting.max_request_bytes as usize, MAX_REQUEST_BYTES);
    assert_eq!(greeting.max_operations as usize, MAX_OPERATIONS);
    assert!(greeting.platform_time_ms > 1_600_000_000_000);

    let puts = (0..100).map(|id| operation(id, Operation::Put(put(format!("key-{id}"), "v"))));
    let operations = puts.collect();
    requests.send(SessionRequest { operations }).await.unwrap();
    let written = collect(&mut answers, 100).await;
    assert!(
        written
            .values()
            .all(|answer| matches!(answer, Answer::Put(_)))
    );

    // Valid and invalid operations in one frame: each gets its own answer.
    let mut unknown = get("key-1");
    unknown.options = Some(ReadOptions {
        consistency: 99,
        ..ReadOptions::default()
    });
    let empty = SessionOperation {
        id: 3,
        ..SessionOperation::default()
    };
    let operations = vec![
        operation(1, Operation::Get(get("key-1"))),
        operation(2, Operation::Get(unknown)),
        empty,
        operation(4, Operation::Get(get(""))),
        operation(5, Operation::Increment(IncrementRequest::default())),
        operation(6, Operation::Write(WriteRequest::default())),
        operation(7, Operation::Touch(TouchRequest::default())),
        operation(8, Operation::Touch(touch("key-1", 60_000))),
        operation(9, Operation::Touch(touch("nothing", 0))),
        operation(u64::MAX, Operation::Get(get("absent"))),
    ];
    requests.send(SessionRequest { operations }).await.unwrap();
    let mixed = collect(&mut answers, 10).await;
    assert!(matches!(&mixed[&1], Answer::Get(found) if found.found && found.value == "v"));
    assert!(matches!(&mixed[&u64::MAX], Answer::Get(found) if !found.found));
    assert!(matches!(&mixed[&8], Answer::Touch(touched) if touched.version > 0));
    assert_eq!(code_of(&mixed[&9]), Some(tierkv::Code::NotFound));
    for id in 2..=7 {
        let code = code_of(&mixed[&id]);
        assert_eq!(code, Some(tierkv::Code::InvalidArgument), "operation {id}");
    }

    // An empty frame gets no answer and does not end the stream.
    requests.send(SessionRequest::default()).await.unwrap();
    let operations = vec![operation(8, Operation::Get(get("key-8")))];
    requests.send(SessionRequest { operations }).await.unwrap();
    collect(&mut answers, 1).await;

    // After the client closes its side, operations under way are answered; then the stream ends.
    let operations = (0..200)
        .map(|id| operation(id, Operation::Put(put(format!("last-{id}"), "v"))))
        .collect();
    requests.send(SessionRequest { operations }).await.unwrap();
    drop(requests);
    collect(&mut answers, 200).await;
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn health_is_served() {
    let (platform, _) = start().await;
    let mut health = HealthClient::new(channel(&platform.grpc).unwrap());
    for service in ["", "tierkv.v1.Kv"] {
        let serving = poll_until(PATIENCE, || {
            let mut health = health.clone();
            async move {
                let request = HealthCheckRequest {
                    service: service.to_owned(),
                };
                let answer = health.check(request).await.ok()?.into_inner();
                (answer.status().as_str_name() == "SERVING").then_some(())
            }
        });
        serving.await.expect("the platform does not serve");
    }
    let request = HealthCheckRequest {
        service: "nobody".to_owned(),
    };
    assert_eq!(
        health.check(request).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let (platform, _) = start().await;
    let mut reflection = ServerReflectionClient::new(channel(&platform.grpc).unwrap());
    let ask = |message| {
        tokio_stream::once(ServerReflectionRequest {
            host: String::new(),
            message_request: Some(message),
        })
    };
    let list = MessageRequest::ListServices(String::new());
    let mut answers = reflection
        .server_reflection_info(ask(list))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("no list: {answer:?}");
    };
    let services: Vec<&str> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for service in ["tierkv.v1.Kv", "tierkv.v1.Admin", "grpc.health.v1.Health"] {
        assert!(
            services.contains(&service),
            "{service} is not in {services:?}"
        );
    }
    let symbol = MessageRequest::FileContainingSymbol("tierkv.v1.Kv.Session".to_owned());
    let mut answers = reflection
        .server_reflection_info(ask(symbol))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    assert!(
        matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))),
        "{answer:?}"
    );
}
