//! Invalid and hostile gRPC requests: each is refused with a message, and the server keeps
//! serving other clients in bounded memory.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tierkv::rpc::{
    channel,
    proto::{
        status::detail,
        v1::{
            BatchGetRequest, Condition, DeleteOperation, DeleteRequest, GetRequest,
            IncrementOperation, IncrementRequest, PutOperation, PutRequest, ReadOptions, RequestId,
            SessionOperation, SessionRequest, TouchOperation, TouchRequest, WriteOperation,
            WriteRequest, condition, kv_client::KvClient, session_operation::Operation,
            write_operation,
        },
    },
};
use tierkv_tests::{ephemeral::Ephemeral, resident::resident};
use tierkv_types::limits::{
    MAX_KEY_BYTES, MAX_OPERATIONS, MAX_REQUEST_BYTES, MAX_TTL, MAX_VALUE_BYTES,
};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, transport::Channel};

/// Timeout for everything that must happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// The memory limit of the process while a client sends requests and reads no answer.
const RESIDENT_LIMIT_BYTES: u64 = 768 << 20;

struct Stage {
    platform: Ephemeral,
    client: KvClient<Channel>,
}

impl Stage {
    async fn start() -> Self {
        let platform = Ephemeral::start().await.unwrap();
        let client = KvClient::new(channel(&platform.grpc).unwrap());
        Self { platform, client }
    }

    /// Checks that the server still serves other clients.
    async fn is_unharmed(&self) {
        let mut client = self.client.clone();
        let put = PutRequest {
            key: "a sound key".into(),
            value: "its value".into(),
            ..PutRequest::default()
        };
        let mut put = Request::new(put);
        put.set_timeout(PATIENCE);
        let put = client.put(put).await.unwrap();
        let get = GetRequest {
            key: "a sound key".into(),
            options: Some(ReadOptions {
                consistency: 2,
                min_version: put.into_inner().version,
                ..ReadOptions::default()
            }),
            ..GetRequest::default()
        };
        let mut get = Request::new(get);
        get.set_timeout(PATIENCE);
        let read = client.get(get).await.unwrap();
        assert_eq!(read.into_inner().value, "its value");
    }
}

/// The message of a call refused with `InvalidArgument`.
fn words<T: std::fmt::Debug>(outcome: Result<T, Status>) -> String {
    let status = outcome.unwrap_err();
    let error = detail(&status).unwrap_or_else(|| panic!("a bare status: {status:?}"));
    assert_eq!(error.code, tierkv::Code::InvalidArgument, "{error}");
    error.message.into_owned()
}

/// Writes that name the key in each place where a write takes a key.
fn writes(namespace: &str, key: &Bytes) -> Vec<WriteRequest> {
    use write_operation::Kind;
    let operation = |kind| WriteOperation { kind: Some(kind) };
    let sound = || {
        operation(Kind::Put(PutOperation {
            key: "sound".into(),
            ..PutOperation::default()
        }))
    };
    let write = |conditions, operations| WriteRequest {
        namespace: namespace.to_owned(),
        conditions,
        operations,
        ..WriteRequest::default()
    };
    let key = || key.clone();
    let put = Kind::Put(PutOperation {
        key: key(),
        ..PutOperation::default()
    });
    let increment = Kind::Increment(IncrementOperation {
        key: key(),
        delta: 1,
    });
    let delete = Kind::Delete(DeleteOperation { key: key() });
    let touch = Kind::Touch(TouchOperation {
        key: key(),
        ttl_ms: 0,
    });
    let condition = Condition {
        key: key(),
        kind: Some(condition::Kind::IfVersion(1)),
    };
    vec![
        write(vec![], vec![sound(), operation(put)]),
        write(vec![], vec![operation(increment), sound()]),
        write(vec![], vec![operation(delete)]),
        write(vec![], vec![operation(touch)]),
        write(vec![condition], vec![sound()]),
    ]
}

/// The message with which each operation refuses this key.
async fn refusals_of(stage: &Stage, namespace: &str, key: impl Into<Bytes>) -> Vec<String> {
    let mut client = stage.client.clone();
    let key: Bytes = key.into();
    let namespace_of = || namespace.to_owned();
    let mut refusals = Vec::new();
    let get = GetRequest {
        namespace: namespace_of(),
        key: key.clone(),
        options: None,
    };
    refusals.push(words(client.get(get).await));
    let batch = BatchGetRequest {
        namespace: namespace_of(),
        keys: vec!["sound".into(), key.clone()],
        options: None,
    };
    refusals.push(words(client.batch_get(batch).await));
    let put = PutRequest {
        namespace: namespace_of(),
        key: key.clone(),
        ..PutRequest::default()
    };
    refusals.push(words(client.put(put).await));
    let delete = DeleteRequest {
        namespace: namespace_of(),
        key: key.clone(),
        request_id: None,
    };
    refusals.push(words(client.delete(delete).await));
    let increment = IncrementRequest {
        namespace: namespace_of(),
        key: key.clone(),
        delta: 1,
        request_id: None,
    };
    refusals.push(words(client.increment(increment).await));
    let touch = TouchRequest {
        namespace: namespace_of(),
        key: key.clone(),
        ..TouchRequest::default()
    };
    refusals.push(words(client.touch(touch).await));
    for write in writes(namespace, &key) {
        refusals.push(words(client.write(write).await));
    }
    refusals
}

#[tokio::test]
async fn a_bad_key_or_namespace_is_refused_by_every_operation() {
    let stage = Stage::start().await;
    for refusal in refusals_of(&stage, "", "").await {
        assert!(refusal.contains("empty"), "{refusal}");
    }
    for refusal in refusals_of(&stage, "", vec![b'k'; MAX_KEY_BYTES + 1]).await {
        assert!(refusal.contains("max_key_bytes"), "{refusal}");
    }
    let long = "a".repeat(64);
    for namespace in ["No", "-a", "a/b", "a b", "\u{e4}", "a\0b", long.as_str()] {
        for refusal in refusals_of(&stage, namespace, "k").await {
            assert!(refusal.contains("namespace"), "{refusal}");
        }
    }
    stage.is_unharmed().await;
}

#[tokio::test]
async fn keys_and_values_are_any_bytes() {
    let stage = Stage::start().await;
    let mut client = stage.client.clone();
    let all: Vec<u8> = (0..=255).collect();
    let keys: [&[u8]; 9] = [
        b"+",
        b"/",
        b"//",
        b".",
        b"..",
        b"\0",
        b"\xff\xfe",
        b"a%2Fb",
        &all,
    ];
    for (nth, key) in keys.iter().enumerate() {
        let key = Bytes::copy_from_slice(key);
        let value = Bytes::from([key.as_ref(), &[0, 0xff]].concat());
        let put = PutRequest {
            key: key.clone(),
            value: value.clone(),
            ..PutRequest::default()
        };
        let version = client.put(put).await.unwrap().into_inner().version;
        let batch = BatchGetRequest {
            keys: keys.iter().map(|key| Bytes::copy_from_slice(key)).collect(),
            options: Some(ReadOptions {
                consistency: 3,
                ..ReadOptions::default()
            }),
            ..BatchGetRequest::default()
        };
        let answers = client.batch_get(batch).await.unwrap().into_inner().answers;
        assert_eq!(
            (&answers[nth].value, answers[nth].version),
            (&value, version)
        );
        assert!(answers[nth + 1..].iter().all(|answer| !answer.found));
    }
    for key in keys {
        let delete = DeleteRequest {
            key: Bytes::copy_from_slice(key),
            ..DeleteRequest::default()
        };
        assert!(client.delete(delete).await.unwrap().into_inner().existed);
    }
}

#[tokio::test]
async fn an_invalid_write_is_refused_with_a_message() {
    let stage = Stage::start().await;
    let mut client = stage.client.clone();
    let put = |ttl_ms, value: usize| PutRequest {
        key: "k".into(),
        value: vec![0; value].into(),
        ttl_ms,
        ..PutRequest::default()
    };
    let refusal = words(client.put(put(0, MAX_VALUE_BYTES + 1)).await);
    assert!(refusal.contains("max_value_bytes"), "{refusal}");
    // A negative 64-bit number of a client arrives as a huge one.
    let longest = u64::try_from(MAX_TTL.as_millis()).unwrap();
    for ttl_ms in [longest + 1, u64::MAX, -1_i64 as u64] {
        let refusal = words(client.put(put(ttl_ms, 0)).await);
        assert!(refusal.contains("max_ttl"), "{refusal}");
    }
    client.put(put(longest, 0)).await.unwrap();

    for (random, birth_ms) in [(15, 1), (17, 1), (0, 1), (16, 1 << 48), (16, 0)] {
        let mut named = put(0, 0);
        named.request_id = Some(RequestId {
            random: vec![1; random].into(),
            birth_ms,
        });
        let refusal = words(client.put(named).await);
        assert!(refusal.contains("request id"), "{refusal}");
    }

    let write = |operations: Vec<WriteOperation>, conditions: Vec<Condition>| WriteRequest {
        operations,
        conditions,
        ..WriteRequest::default()
    };
    let delete = |nth: usize| WriteOperation {
        kind: Some(write_operation::Kind::Delete(DeleteOperation {
            key: format!("key-{nth}").into(),
        })),
    };
    let refusal = words(client.write(write(vec![], vec![])).await);
    assert!(refusal.contains("at least one"), "{refusal}");
    let empty = WriteOperation { kind: None };
    let refusal = words(client.write(write(vec![delete(0), empty], vec![])).await);
    assert!(refusal.contains("is empty"), "{refusal}");
    let nothing = Condition {
        key: "k".into(),
        kind: None,
    };
    let refusal = words(client.write(write(vec![delete(0)], vec![nothing])).await);
    assert!(refusal.contains("if_absent"), "{refusal}");
    let refusal = words(
        client
            .write(write(vec![delete(7), delete(7)], vec![]))
            .await,
    );
    assert!(refusal.contains("twice"), "{refusal}");
    let many = (0..=MAX_OPERATIONS).map(delete).collect();
    let refusal = words(client.write(write(many, vec![])).await);
    assert!(refusal.contains("max_operations"), "{refusal}");
    let most = (0..MAX_OPERATIONS).map(delete).collect();
    let done = client.write(write(most, vec![])).await.unwrap();
    assert_eq!(done.into_inner().results.len(), MAX_OPERATIONS);
    stage.is_unharmed().await;
}

#[tokio::test]
async fn a_read_with_contradictory_options_is_refused() {
    let stage = Stage::start().await;
    let mut client = stage.client.clone();
    let options = [
        (
            ReadOptions {
                consistency: 99,
                ..Default::default()
            },
            "99",
        ),
        (
            ReadOptions {
                consistency: -1,
                ..Default::default()
            },
            "-1",
        ),
        (
            ReadOptions {
                min_version: 7,
                ..Default::default()
            },
            "SESSION",
        ),
        (
            ReadOptions {
                consistency: 3,
                max_staleness_ms: Some(1),
                ..Default::default()
            },
            "LATEST",
        ),
        (
            ReadOptions {
                consistency: 2,
                min_version: u64::MAX,
                ..Default::default()
            },
            "min_version",
        ),
    ];
    for (options, word) in options {
        let get = GetRequest {
            key: "k".into(),
            options: Some(options),
            ..GetRequest::default()
        };
        let refusal = words(client.get(get.clone()).await);
        assert!(refusal.contains(word), "{refusal}");
        let batch = BatchGetRequest {
            keys: vec![get.key],
            options: get.options,
            ..BatchGetRequest::default()
        };
        let refusal = words(client.batch_get(batch).await);
        assert!(refusal.contains(word), "{refusal}");
    }
}

/// Sends a handmade call; returns its gRPC status, or `None` if the server closed it.
async fn status_of(stage: &Stage, path: &str, body: Bytes) -> Option<String> {
    let tcp = TcpStream::connect(&stage.platform.grpc).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(tcp).await.unwrap();
    let driving = tokio::spawn(connection);
    let request = http::Request::post(format!("http://tierkv{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (answer, mut stream) = sender.send_request(request, false).unwrap();
    // The server may close the call before it has received everything.
    let _ = stream.send_data(body, true);
    let status = async {
        let answer = answer.await.ok()?;
        if let Some(status) = answer.headers().get("grpc-status") {
            return Some(status.to_str().unwrap().to_owned());
        }
        let mut body = answer.into_body();
        while let Some(data) = body.data().await {
            let length = data.ok()?.len();
            let _ = body.flow_control().release_capacity(length);
        }
        let trailers = body.trailers().await.ok()??;
        Some(trailers.get("grpc-status")?.to_str().unwrap().to_owned())
    };
    let status = timeout(PATIENCE, status).await;
    driving.abort();
    status.expect("the call does not end")
}

/// A message in gRPC's framing, whose header announces `length` bytes.
fn framed(length: u32, message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5 + message.len());
    bytes.put_u8(0);
    bytes.put_u32(length);
    bytes.put_slice(message);
    bytes.freeze()
}

#[tokio::test]
async fn truncated_and_malformed_messages_are_refused_and_harm_no_other_client() {
    let stage = Stage::start().await;
    // A Get of the key "k", and malformed variants of it.
    let get: &[u8] = b"\x12\x01k";
    let path = "/tierkv.v1.Kv/Get";
    assert_eq!(
        status_of(&stage, path, framed(3, get)).await.as_deref(),
        Some("0")
    );
    let spoilt = [
        // Fewer bytes than announced, no bytes, half a length.
        framed(30, get),
        Bytes::new(),
        framed(3, get).slice(..3),
        // More bytes than any message may have.
        framed(u32::MAX, get),
        // A field that is longer than the message; an unknown wire type; a namespace that is not
        // UTF-8.
        framed(3, b"\x12\x7fk"),
        framed(3, b"\x17\x01k"),
        framed(6, b"\x0a\x01\xff\x12\x01k"),
        // Marked as compressed, but it is not.
        Bytes::from_static(b"\x01\0\0\0\x03\x12\x01k"),
    ];
    for body in spoilt {
        for path in [path, "/tierkv.v1.Kv/Put", "/tierkv.v1.Kv/Session"] {
            let status = status_of(&stage, path, body.clone()).await;
            // An empty stream is a session without operations.
            let is_fine = body.is_empty() && path.ends_with("Session");
            assert_eq!(status.as_deref() == Some("0"), is_fine, "{path} {body:?}");
        }
        stage.is_unharmed().await;
    }
    let nowhere = status_of(&stage, "/tierkv.v1.Kv/Nothing", framed(0, b"")).await;
    assert_eq!(nowhere.as_deref(), Some("12"), "UNIMPLEMENTED");
}

#[tokio::test]
async fn a_frame_over_the_limit_ends_its_session_and_no_other() {
    let stage = Stage::start().await;
    let mut client = stage.client.clone();
    let (requests, outbound) = mpsc::channel(1);
    let session = client.session(ReceiverStream::new(outbound)).await.unwrap();
    let mut answers = session.into_inner();
    assert!(answers.message().await.unwrap().unwrap().greeting.is_some());
    let large = Operation::Put(PutRequest {
        key: "k".into(),
        value: vec![0; MAX_REQUEST_BYTES + (1 << 20)].into(),
        ..PutRequest::default()
    });
    let operation = SessionOperation {
        id: 1,
        timeout_ms: 0,
        operation: Some(large),
    };
    let operations = vec![operation];
    requests.send(SessionRequest { operations }).await.unwrap();
    let ended = timeout(PATIENCE, answers.message()).await.unwrap();
    assert!(ended.is_err(), "{ended:?}");
    stage.is_unharmed().await;
}

#[tokio::test]
async fn a_session_that_never_reads_uses_bounded_memory_and_slows_nobody() {
    let mut stage = Stage::start().await;
    let pid = stage.platform.process().pid();
    let mut client = stage.client.clone();
    let value = Bytes::from(vec![7; MAX_VALUE_BYTES]);
    for nth in 0..64 {
        let put = PutRequest {
            key: format!("large-{nth}").into(),
            value: value.clone(),
            ..PutRequest::default()
        };
        client.put(put).await.unwrap();
    }
    let mut deaf = KvClient::new(channel(&stage.platform.grpc).unwrap());
    let (requests, outbound) = mpsc::channel(1);
    let _unread = deaf.session(ReceiverStream::new(outbound)).await.unwrap();
    // Every second read bypasses the cache.
    let operations: Vec<SessionOperation> = (0..500)
        .map(|id| SessionOperation {
            id,
            timeout_ms: 60_000,
            operation: Some(Operation::Get(GetRequest {
                key: format!("large-{}", id % 64).into(),
                options: Some(ReadOptions {
                    consistency: if id % 2 == 0 { 1 } else { 3 },
                    ..ReadOptions::default()
                }),
                ..GetRequest::default()
            })),
        })
        .collect();
    // The answers to one frame have 500 MiB. At some point the server stops reading frames.
    let (began, mut frames, mut taken_at) = (Instant::now(), 0, Instant::now());
    while taken_at.elapsed() < Duration::from_secs(3) {
        let operations = operations.clone();
        match requests.try_send(SessionRequest { operations }) {
            Ok(()) => (frames, taken_at) = (frames + 1, Instant::now()),
            Err(_) => stage.is_unharmed().await,
        }
        let now = resident(pid).unwrap().now;
        assert!(
            now < RESIDENT_LIMIT_BYTES,
            "{} MiB after {frames} frames",
            now >> 20
        );
        assert!(
            began.elapsed() < PATIENCE,
            "the server still reads after {frames} frames"
        );
    }
}
