//! A platform starts on the data of an earlier release that was killed. It serves all of the
//! data, watches resume, and no write is applied a second time.
//!
//! The data is older than the two minutes for which request ids are remembered, and older than
//! its shortest times to live. Its log stays readable at any age, because only checkpoints
//! remove segments; tests that resume a watch make no checkpoints.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde_json::Value;
use tierkv::{
    Change, Client, Consistency, Event, ReadOptions, ScanOptions, Selection,
    rpc::{
        channel,
        proto::{
            status::read_error,
            v1::{
                DeleteOperation, IncrementOperation, PutOperation, RequestId, WriteOperation,
                WriteRequest, WriteResult, kv_client::KvClient, write_operation::Kind,
            },
        },
    },
};
use tierkv_harness::{
    DataFolder, Options, Surroundings, TierKv,
    fixture::{AnsweredOperation, Fixture, HeldItem, NamedWrite},
    poll_until,
};
use tierkv_tests::{binary::repository, http};
use tierkv_types::{Code, Version};
use tokio::time::timeout;

/// Timeout for everything that must happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// The namespace of the keys that have expired since.
const OVER: &str = "brief";

fn fixture() -> Fixture {
    Fixture::read(&repository().join("datanode/storage/fixtures/format-3")).unwrap()
}

/// Starts a platform on a copy of the data, with these settings.
async fn start(fixture: &Fixture, surroundings: Surroundings) -> TierKv {
    let folder = DataFolder::new("upgrade").unwrap();
    folder.place(&fixture.data(), Path::new("")).unwrap();
    let options = Options {
        folder: Some(folder),
        surroundings,
        ..Options::default()
    };
    TierKv::start(options).await.unwrap()
}

/// Settings without checkpoints during the test, so that the log keeps all its records.
fn without_checkpoints() -> Surroundings {
    Surroundings::default().set("TIERKV_STORE_CHECKPOINT_INTERVAL_MS", 3_600_000)
}

async fn connect(platform: &TierKv, namespace: &str) -> Client {
    let builder = Client::builder().address(platform.grpc());
    let builder = builder.namespace(namespace).timeout(PATIENCE);
    builder.connect().await.unwrap()
}

fn latest() -> ReadOptions {
    ReadOptions {
        consistency: Consistency::Latest,
        ..ReadOptions::default()
    }
}

/// When a key expires, in the form that clients receive.
fn expires_at(expires: Option<u64>) -> Option<SystemTime> {
    let millis = Version::from_bits(expires?).millis();
    Some(UNIX_EPOCH + Duration::from_millis(millis))
}

/// Reads everything that was acknowledged, key by key and by scans of whole namespaces.
async fn check(platform: &TierKv, fixture: &Fixture) {
    let client = connect(platform, "default").await;
    let mut namespaces: BTreeMap<&str, BTreeMap<&str, &HeldItem>> = BTreeMap::new();
    for item in &fixture.complete.items {
        let of_namespace = namespaces.entry(&item.namespace).or_default();
        if item.namespace != OVER {
            of_namespace.insert(&item.key, item);
        }
    }
    for (namespace, items) in namespaces {
        let client = client.in_namespace(namespace).unwrap();
        let keys: Vec<&str> = items.keys().copied().collect();
        for (key, found) in keys
            .iter()
            .zip(client.batch_get_with(&keys, latest()).await.unwrap())
        {
            let item = items[key];
            assert_eq!(found.value.as_deref(), Some(item.value.as_bytes()), "{key}");
            assert_eq!(found.version, item.version, "{key}");
            assert_eq!(found.expires_at, expires_at(item.expires), "{key}");
        }
        let options = ScanOptions {
            read: latest(),
            ..ScanOptions::default()
        };
        let mut scan = client.scan_with(Selection::all(), options);
        let mut scanned = Vec::new();
        while let Some(item) = scan.next().await {
            let item = item.unwrap();
            scanned.push((item.key, item.value, item.version));
        }
        let expected = items.values().map(|item| {
            let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
            (bytes(&item.key), bytes(&item.value), item.version)
        });
        assert_eq!(scanned, expected.collect::<Vec<_>>(), "{namespace}");
    }
    for removed in &fixture.complete.removed {
        let client = client.in_namespace(&removed.namespace).unwrap();
        let found = client.get_with(&removed.key, latest()).await.unwrap();
        assert_eq!(found.value, None, "{}", removed.key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_acknowledged_data_of_the_earlier_release_is_served() {
    let fixture = fixture();
    let mut platform = start(&fixture, without_checkpoints()).await;
    check(&platform, &fixture).await;
    platform.kill9().unwrap();
    platform.restart().await.unwrap();
    check(&platform, &fixture).await;
    // This stores the records that only the log had.
    assert!(platform.stop().await.unwrap().success());
    platform.restart().await.unwrap();
    check(&platform, &fixture).await;

    let rest = "/v1/kv/shop/tail%2Foverwritten?consistency=latest";
    let got = http::Request::new("GET", rest);
    let got = got.send(platform.rest()).await.unwrap();
    let held = fixture.complete.items.iter();
    let held = held.clone().find(|item| item.key == "tail/overwritten");
    let held = held.unwrap();
    assert_eq!((got.status, &got.body[..]), (200, held.value.as_bytes()));
    let tag = format!("\"{}\"", held.version);
    assert_eq!(got.header("etag"), Some(&tag[..]));

    // New writes get later versions.
    let client = connect(&platform, "shop").await;
    let written = client.put("tail/overwritten", "by this release").await;
    assert!(written.unwrap() > fixture.log.last.version().to_bits());
    let count = client.increment("rest/count", 1).await.unwrap();
    let before = fixture.complete.items.iter();
    let before = before.clone().find(|item| item.key == "rest/count");
    let before: i64 = before.unwrap().value.parse().unwrap();
    assert_eq!(count.value, before + 1);
    assert!(platform.stop().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_is_served_during_checkpoints_and_cleanup() {
    let fixture = fixture();
    let checkpoints = Surroundings::default()
        .set("TIERKV_STORE_CHECKPOINT_INTERVAL_MS", 10)
        .set("TIERKV_WAL_SEGMENT_BYTES", 64 << 10);
    let mut platform = start(&fixture, checkpoints).await;
    check(&platform, &fixture).await;
    assert!(platform.stop().await.unwrap().success());
    platform.restart().await.unwrap();
    check(&platform, &fixture).await;
    assert!(platform.stop().await.unwrap().success());
}

/// The changes that a watch must report: key, version, value and expiry.
type Changes = Vec<(String, u64, Option<String>, Option<SystemTime>)>;

fn expected(fixture: &Fixture) -> Changes {
    let changes = fixture.watch.changes.iter();
    let changes = changes.cloned().map(|change| {
        let expires_at = expires_at(change.expires);
        (change.key, change.version, change.value, expires_at)
    });
    changes.collect()
}

fn reported(event: Event) -> (String, u64, Option<String>, Option<SystemTime>) {
    let text = |bytes: Bytes| String::from_utf8(bytes.into()).unwrap();
    let (value, expires_at) = match event.change {
        Change::Written { value, expires_at } => (Some(text(value)), expires_at),
        Change::Removed => (None, None),
    };
    (text(event.key), event.version, value, expires_at)
}

/// Resumes from the stored token through gRPC; returns the changes up to `last`.
async fn watched(platform: &TierKv, fixture: &Fixture, last: u64) -> Changes {
    let left = &fixture.watch;
    let client = connect(platform, &left.namespace).await;
    let watch = client.watch_from(&left.prefix, left.token()).await;
    let mut watch = watch.unwrap();
    let mut changes = Changes::new();
    while changes
        .last()
        .is_none_or(|(_, version, ..)| *version < last)
    {
        let event = timeout(PATIENCE, watch.next()).await.unwrap();
        changes.push(reported(event.unwrap().unwrap()));
    }
    changes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_resumes_and_reports_each_later_change_once() {
    let fixture = fixture();
    let mut expected = expected(&fixture);
    let mut platform = start(&fixture, without_checkpoints()).await;
    let last = expected.last().unwrap().1;
    assert_eq!(watched(&platform, &fixture, last).await, expected);

    // New changes follow without a gap, even after another kill.
    let client = connect(&platform, &fixture.watch.namespace).await;
    let version = client.put("new", "by this release").await.unwrap();
    let value = Some("by this release".to_owned());
    expected.push(("new".to_owned(), version, value, None));
    assert_eq!(watched(&platform, &fixture, version).await, expected);
    platform.kill9().unwrap();
    platform.restart().await.unwrap();
    assert_eq!(watched(&platform, &fixture, version).await, expected);
    assert!(platform.stop().await.unwrap().success());
}

/// The changes in a stream of server-sent events.
fn changes_of(text: &str) -> Changes {
    let mut changes = Changes::new();
    // The event after the last empty line may be incomplete.
    let Some((whole, _)) = text.rsplit_once("\n\n") else {
        return changes;
    };
    for event in whole.split("\n\n") {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        let kind = field("event: ");
        if !matches!(kind, Some("written" | "removed")) {
            continue;
        }
        let data: Value = serde_json::from_str(field("data: ").unwrap()).unwrap();
        let text = |name: &str| data[name].as_str().map(ToOwned::to_owned);
        let version = text("version").unwrap().parse().unwrap();
        let millis = data["expires_at"].as_u64();
        let expires_at = millis.map(|millis| UNIX_EPOCH + Duration::from_millis(millis));
        changes.push((text("key").unwrap(), version, text("value"), expires_at));
    }
    changes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_resumes_through_rest() {
    let fixture = fixture();
    let mut platform = start(&fixture, without_checkpoints()).await;
    let expected = expected(&fixture);
    let path = format!("/v1/watch/{}", fixture.watch.namespace);
    let token = URL_SAFE_NO_PAD.encode(fixture.watch.token());
    let request = http::Request::new("GET", &path).header("last-event-id", &token);
    let mut stream = request.open(platform.rest()).await.unwrap();
    assert_eq!(stream.status, 200);
    let (mut text, mut changes) = (String::new(), Changes::new());
    while changes.len() < expected.len() {
        let chunk = stream.chunk(PATIENCE).await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
        changes = changes_of(&text);
    }
    assert_eq!(changes, expected);
    drop(stream);
    assert!(platform.stop().await.unwrap().success());
}

/// Sends the write again with its request id.
fn again(write: &NamedWrite) -> WriteRequest {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let operation = |operation: &AnsweredOperation| WriteOperation {
        kind: Some(match operation {
            AnsweredOperation::Put { key, value, ttl_ms } => Kind::Put(PutOperation {
                key: bytes(key),
                value: bytes(value),
                ttl_ms: ttl_ms.unwrap_or(0),
            }),
            AnsweredOperation::Delete { key, .. } => {
                Kind::Delete(DeleteOperation { key: bytes(key) })
            }
            AnsweredOperation::Increment { key, delta, .. } => {
                Kind::Increment(IncrementOperation {
                    key: bytes(key),
                    delta: *delta,
                })
            }
        }),
    };
    let id = write.id();
    WriteRequest {
        namespace: write.namespace.clone(),
        operations: write.operations.iter().map(operation).collect(),
        request_id: Some(RequestId {
            random: id.random.to_vec().into(),
            birth_ms: id.birth_millis,
        }),
        ..WriteRequest::default()
    }
}

/// The first answer to each operation.
fn results(write: &NamedWrite) -> Vec<WriteResult> {
    let result = |operation: &AnsweredOperation| match operation {
        AnsweredOperation::Put { .. } => WriteResult::default(),
        AnsweredOperation::Delete { existed, .. } => WriteResult {
            existed: *existed,
            ..WriteResult::default()
        },
        AnsweredOperation::Increment { number, .. } => WriteResult {
            number: *number,
            ..WriteResult::default()
        },
    };
    write.operations.iter().map(result).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_repeated_under_its_old_request_id_is_not_applied_again() {
    let fixture = fixture();
    let mut platform = start(&fixture, without_checkpoints()).await;
    let client = KvClient::new(channel(platform.grpc()).unwrap());
    for write in &fixture.requests {
        // A node that has just started may not have forgotten old ids yet; until then it repeats
        // the first answer.
        let refused = poll_until(PATIENCE, || async {
            match client.clone().write(again(write)).await {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    let answered = (answer.replayed, answer.version, answer.results);
                    let expected = (true, write.version, results(write));
                    assert_eq!(answered, expected, "{}", write.name);
                    None
                }
                Err(status) => Some(read_error(&status)),
            }
        });
        let refused = refused.await.expect("the old request id is not refused");
        let name = &write.name;
        assert_eq!(refused.code, Code::InvalidArgument, "{name}: {refused}");
        assert!(refused.message.contains("over two minutes old"), "{name}");
    }
    check(&platform, &fixture).await;
    assert!(platform.stop().await.unwrap().success());
}
