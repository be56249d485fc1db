//! Scans and counts over gRPC, while other clients write.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tierkv::{
    Client,
    rpc::{
        channel,
        proto::{
            status::detail,
            v1::{
                Consistency, CountRequest, KeyRange, PutRequest, ReadOptions, ScanItem,
                ScanRequest, ScanResponse, count_request, kv_client::KvClient, scan_request,
            },
        },
    },
};
use tierkv_harness::poll_until;
use tierkv_tests::{ephemeral::Ephemeral, resident::resident};
use tierkv_types::limits::{MAX_KEY_BYTES, MAX_OPEN_SCANS};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Code, Request, Status, Streaming, transport::Channel};

const PATIENCE: Duration = Duration::from_secs(30);
/// Concurrent writing tasks.
const WRITERS: usize = 32;
/// Keys that stay during a scan, while others are put and deleted.
const STABLE: u32 = 3_000;

type Scans = KvClient<Channel>;

async fn start() -> (Ephemeral, Scans, Client) {
    let platform = Ephemeral::start().await.unwrap();
    let scans = KvClient::new(channel(&platform.grpc).unwrap());
    let client = Client::builder().address(&platform.grpc);
    let client = client.timeout(PATIENCE).connect().await.unwrap();
    (platform, scans, client)
}

/// Puts all of `keys`, many concurrently.
async fn fill(client: &Client, keys: impl Iterator<Item = String>, value: &Bytes) {
    let mut under_way = JoinSet::new();
    for key in keys {
        if under_way.len() >= 16 * WRITERS {
            under_way.join_next().await.unwrap().unwrap();
        }
        let (client, value) = (client.clone(), value.clone());
        under_way.spawn(async move { client.put(key, value).await.map(drop).unwrap() });
    }
    under_way.join_all().await;
}

fn prefix(prefix: impl Into<Bytes>) -> ScanRequest {
    ScanRequest {
        selection: Some(scan_request::Selection::Prefix(prefix.into())),
        ..ScanRequest::default()
    }
}

fn range(start: impl Into<Bytes>, end: impl Into<Bytes>) -> ScanRequest {
    let range = KeyRange {
        start: start.into(),
        end: end.into(),
    };
    ScanRequest {
        selection: Some(scan_request::Selection::Range(range)),
        ..ScanRequest::default()
    }
}

fn with(options: ReadOptions) -> ScanRequest {
    ScanRequest {
        options: Some(options),
        ..prefix("")
    }
}

/// A count with the selection of a scan.
fn count_of(scan: ScanRequest) -> CountRequest {
    CountRequest {
        namespace: scan.namespace,
        selection: scan.selection.map(|selection| match selection {
            scan_request::Selection::Prefix(prefix) => count_request::Selection::Prefix(prefix),
            scan_request::Selection::Range(range) => count_request::Selection::Range(range),
        }),
        options: scan.options,
    }
}

async fn open(scans: &Scans, request: ScanRequest) -> Result<Streaming<ScanResponse>, Status> {
    let opened = scans.clone().scan(request).await;
    opened.map(tonic::Response::into_inner)
}

/// All items of one stream, and the page token at its end.
async fn scan(scans: &Scans, request: ScanRequest) -> Result<(Vec<ScanItem>, Bytes), Status> {
    let mut responses = open(scans, request).await?;
    let (mut items, mut token) = (Vec::new(), None);
    while let Some(response) = responses.message().await? {
        assert_ne!(token, Some(Bytes::new()), "a response after the last one");
        items.extend(response.items);
        token = Some(response.next_page_token);
    }
    let keys = items.iter().map(|item| &item.key);
    assert!(keys.is_sorted_by(|one, next| one < next), "not in order");
    Ok((items, token.expect("there was no response")))
}

/// The keys of all pages of `limit` items each.
async fn pages(scans: &Scans, request: &ScanRequest, mut limit: impl FnMut() -> u32) -> Vec<Bytes> {
    let (mut keys, mut page_token) = (Vec::new(), Bytes::new());
    loop {
        let limit = limit();
        let page = ScanRequest {
            limit,
            page_token,
            ..request.clone()
        };
        let (items, next) = scan(scans, page).await.unwrap();
        let count = u32::try_from(items.len()).unwrap();
        assert!(
            count == limit || count < limit && next.is_empty(),
            "{count} of {limit}"
        );
        keys.extend(items.into_iter().map(|item| item.key));
        if next.is_empty() {
            return keys;
        }
        page_token = next;
    }
}

async fn count(scans: &Scans, request: ScanRequest) -> u64 {
    let counted = scans.clone().count(count_of(request)).await;
    counted.unwrap().into_inner().count
}

fn stable(number: u32) -> String {
    format!("item-{number:05}")
}

/// Overwrites the stable keys, and puts and deletes others between them, until `done` is set.
async fn churn(client: Client, seed: u32, value: Bytes, done: Arc<AtomicBool>) {
    let mut number = seed * 997;
    while !done.load(Ordering::Relaxed) {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let near = stable(number / 3 % STABLE);
        let between = format!("{near}+{seed}");
        match number % 3 {
            0 => client.put(near, value.clone()).await.map(drop).unwrap(),
            1 => client.put(between, value.clone()).await.map(drop).unwrap(),
            _ => client.delete(between).await.map(drop).unwrap(),
        }
    }
}

/// Writers overwrite the stable keys, and put and delete others between them.
#[tokio::test(flavor = "multi_thread")]
async fn pages_list_each_stable_key_once_during_writes() {
    let (_platform, scans, client) = start().await;
    let value = Bytes::from(vec![7; 100]);
    fill(&client, (0..STABLE).map(stable), &value).await;
    fill(&client, (0..100).map(|n| format!("before-{n}")), &value).await;
    fill(&client, (0..100).map(|n| format!("item.{n}")), &value).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for seed in 0..8_u32 {
        let (client, done, value) = (client.clone(), Arc::clone(&done), value.clone());
        writers.spawn(churn(client, seed, value, done));
    }
    let expected: Vec<Bytes> = (0..STABLE).map(|number| stable(number).into()).collect();
    let mut came_and_went = 0;
    for limits in [[7, 1_000], [500, 501], [1_000, 3]] {
        let mut turn = 0;
        let limit = || {
            turn += 1;
            limits[turn % 2]
        };
        let keys = pages(&scans, &prefix("item-"), limit).await;
        assert!(keys.is_sorted_by(|one, next| one < next), "over pages");
        let stay: Vec<Bytes> = keys
            .iter()
            .filter(|key| !key.contains(&b'+'))
            .cloned()
            .collect();
        assert_eq!(stay, expected);
        came_and_went += keys.len() - stay.len();
        let (items, token) = scan(&scans, prefix("item-")).await.unwrap();
        let stay = items.iter().filter(|item| !item.key.contains(&b'+'));
        assert!(stay.map(|item| &item.key).eq(&expected) && token.is_empty());
        let counted = count(&scans, prefix("item-")).await;
        assert!(counted >= u64::from(STABLE), "{counted}");
    }
    assert!(came_and_went > 0, "nothing was written during the scans");
    done.store(true, Ordering::Relaxed);
    writers.join_all().await;
    // Without writes, all ways to read the keys agree.
    let (items, _) = scan(&scans, prefix("item-")).await.unwrap();
    let keys: Vec<Bytes> = items.into_iter().map(|item| item.key).collect();
    assert_eq!(pages(&scans, &prefix("item-"), || 99).await, keys);
    assert_eq!(count(&scans, prefix("item-")).await, keys.len() as u64);
    let ranged = range("item-", "item.");
    assert_eq!(count(&scans, ranged).await, keys.len() as u64);
    assert_eq!(count(&scans, prefix("")).await, keys.len() as u64 + 200);
}

/// A writer increments the first key and, after the acknowledgement, the last key. A scan that
/// did not read one snapshot could find the last key ahead of the first.
#[tokio::test(flavor = "multi_thread")]
async fn one_stream_reads_one_snapshot() {
    let (_platform, scans, client) = start().await;
    fill(
        &client,
        (0..20_000).map(|number| format!("between-{number}")),
        &Bytes::from(vec![7; 500]),
    )
    .await;
    let count = |bytes: &Bytes| -> u64 { str::from_utf8(bytes).unwrap().parse().unwrap() };
    for key in ["a", "z"] {
        client.put(key, "0").await.unwrap();
    }
    let (done, written) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let writer = tokio::spawn({
        let (done, written) = (Arc::clone(&done), Arc::clone(&written));
        async move {
            for number in 1_u64.. {
                for key in ["a", "z"] {
                    client.put(key, number.to_string()).await.unwrap();
                }
                written.store(number, Ordering::Release);
                if done.load(Ordering::Acquire) {
                    return;
                }
            }
        }
    });
    let mut moved = 0;
    for _ in 0..10 {
        let before = written.load(Ordering::Acquire);
        let (items, _) = scan(&scans, prefix("")).await.unwrap();
        assert_eq!(items.len(), 20_002);
        let [first, .., last] = &items[..] else {
            unreachable!("the stream has more responses");
        };
        let (first, last) = (count(&first.value), count(&last.value));
        assert!(first == last || first == last + 1, "{first} and {last}");
        assert!(last >= before, "{last} after {before} was acknowledged");
        moved += u64::from(written.load(Ordering::Acquire) > before);
    }
    assert!(moved > 0, "nothing was written during any scan");
    done.store(true, Ordering::Release);
    writer.await.unwrap();
}

/// The items of a scan, after a check that a count of the same selection agrees.
async fn counted_items(scans: &Scans, request: ScanRequest) -> Vec<ScanItem> {
    let counted = count(scans, request.clone()).await;
    let (items, token) = scan(scans, request).await.unwrap();
    assert_eq!((items.len() as u64, token), (counted, Bytes::new()));
    items
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_select_by_prefix_range_and_namespace() {
    let (_platform, scans, client) = start().await;
    let keys: [&[u8]; 8] = [
        b"\0",
        b"a",
        b"a\0",
        b"a\xFF",
        b"a\xFFb",
        b"b",
        b"\xFF",
        b"\xFF\xFF",
    ];
    for namespace in ["default", "defaul", "default-", "n"] {
        let client = client.in_namespace(namespace).unwrap();
        for key in keys {
            client.put(key, namespace).await.unwrap();
        }
    }
    let keys_of = async |request: ScanRequest| {
        let items = counted_items(&scans, request).await.into_iter();
        items.map(|item| item.key.to_vec()).collect::<Vec<_>>()
    };
    let sections: [(ScanRequest, &[&[u8]]); 12] = [
        (prefix(""), &keys),
        (range("", ""), &keys),
        (prefix("a"), &keys[1..5]),
        (prefix(&b"a\xFF"[..]), &keys[3..5]),
        (prefix(&b"\xFF"[..]), &keys[6..]),
        (prefix("c"), &[]),
        (range("a", "b"), &keys[1..5]),
        (range("b", ""), &keys[5..]),
        (range("", "a"), &keys[..1]),
        (range("b", "b"), &[]),
        (range(&b"a\0"[..], &b"a\xFF"[..]), &keys[2..3]),
        (range("x", &b"\xFF"[..]), &[]),
    ];
    for (request, expected) in sections {
        assert_eq!(keys_of(request.clone()).await, expected, "{request:?}");
    }
    for namespace in ["", "defaul", "default-", "n"] {
        let request = ScanRequest {
            namespace: namespace.to_owned(),
            ..prefix("")
        };
        let items = counted_items(&scans, request).await;
        let name = if namespace.is_empty() {
            "default"
        } else {
            namespace
        };
        assert!(items.len() == keys.len() && items.iter().all(|item| item.value == name));
    }
    let elsewhere = ScanRequest {
        namespace: "nothing-here".to_owned(),
        ..prefix("")
    };
    assert_eq!(counted_items(&scans, elsewhere).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn items_have_their_version_and_expiry_and_are_absent_once_expired() {
    let (_platform, scans, client) = start().await;
    let stays = client.put("stays", "v").await.unwrap();
    let expiring = PutRequest {
        key: "expires".into(),
        value: "v".into(),
        ttl_ms: 300,
        ..PutRequest::default()
    };
    let put = scans.clone().put(expiring).await.unwrap();
    let version = put.into_inner().version;
    let (items, _) = scan(&scans, prefix("")).await.unwrap();
    if items.len() == 2 {
        assert_eq!(items[0].version, version);
        assert_eq!(items[0].expires_at_ms, (version >> 16) + 300);
    }
    let hidden = poll_until(PATIENCE, || async {
        (count(&scans, prefix("")).await == 1).then_some(())
    });
    hidden.await.expect("the key did not expire");
    let (items, _) = scan(&scans, prefix("")).await.unwrap();
    let seen = |item: &ScanItem| (item.key.clone(), item.version, item.expires_at_ms);
    let seen: Vec<_> = items.iter().map(seen).collect();
    assert_eq!(seen, [("stays".into(), stays, 0)]);
}

/// Checks that a call was refused with `InvalidArgument` and a detail; returns its message.
fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>) -> String {
    let status = outcome.unwrap_err();
    let error = detail(&status).expect("the status carries tierkv.v1.Error");
    assert_eq!(error.code, tierkv::Code::InvalidArgument, "{status:?}");
    assert_eq!(status.code(), Code::InvalidArgument);
    error.message.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_scans_are_refused_with_a_message() {
    let (_platform, scans, client) = start().await;
    let version = client.put("k", "v").await.unwrap();
    let long = Bytes::from(vec![b'k'; MAX_KEY_BYTES + 1]);
    let consistency = |consistency| ReadOptions {
        consistency,
        ..ReadOptions::default()
    };
    let session = |min_version| ReadOptions {
        min_version,
        ..consistency(Consistency::Session.into())
    };
    let latest = consistency(Consistency::Latest.into());
    let cases = [
        (ScanRequest::default(), "neither prefix nor range"),
        (prefix(long.clone()), "max_key_bytes is 1024"),
        (range(long.clone(), ""), "max_key_bytes is 1024"),
        (range("", long), "max_key_bytes is 1024"),
        (range("b", "a"), "starts after its end"),
        (
            ScanRequest {
                namespace: "No/Namespace".to_owned(),
                ..prefix("")
            },
            "namespace",
        ),
        (with(consistency(99)), "consistency 99 is unknown"),
        (
            with(ReadOptions {
                explain: true,
                ..ReadOptions::default()
            }),
            "leave explain out",
        ),
        (
            with(ReadOptions {
                min_version: 1,
                ..latest
            }),
            "SESSION consistency",
        ),
        (
            with(ReadOptions {
                max_staleness_ms: Some(5),
                ..latest
            }),
            "max_staleness_ms",
        ),
        (with(session(u64::MAX)), "min_version is newer"),
    ];
    for (request, words) in cases {
        let refusal = refused(scan(&scans, request.clone()).await);
        assert!(refusal.contains(words), "{request:?}: {refusal}");
        let refusal = refused(scans.clone().count(count_of(request.clone())).await);
        assert!(refusal.contains(words), "{request:?}: {refusal}");
    }
    for sound in [latest, session(version), consistency(0)] {
        assert_eq!(scan(&scans, with(sound)).await.unwrap().0.len(), 1);
        assert_eq!(count(&scans, with(sound)).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_is_valid_only_for_its_selection() {
    let (_platform, scans, client) = start().await;
    for key in ["a1", "a2", "a3", "b1"] {
        client.put(key, "v").await.unwrap();
    }
    let paged = |request: ScanRequest, page_token: Bytes| ScanRequest {
        page_token,
        ..request
    };
    let first = ScanRequest {
        limit: 1,
        ..prefix("a")
    };
    let (items, token) = scan(&scans, first).await.unwrap();
    assert_eq!((items.len(), token.is_empty()), (1, false));
    // The key of the token may be deleted.
    client.delete("a1").await.unwrap();
    let (items, end) = scan(&scans, paged(prefix("a"), token.clone()))
        .await
        .unwrap();
    let keys: Vec<Bytes> = items.into_iter().map(|item| item.key).collect();
    assert_eq!((keys, end), (vec!["a2".into(), "a3".into()], Bytes::new()));
    let mut damaged = token.to_vec();
    damaged[1] ^= 1;
    let cut = token.slice(..token.len() - 1);
    let elsewhere = ScanRequest {
        namespace: "elsewhere".to_owned(),
        ..prefix("a")
    };
    for (request, token) in [
        (prefix("a"), Bytes::from_static(b"nonsense")),
        (prefix("a"), damaged.into()),
        (prefix("a"), cut),
        (prefix("b"), token.clone()),
        (prefix(""), token.clone()),
        (elsewhere, token),
    ] {
        let refusal = refused(scan(&scans, paged(request, token)).await);
        assert!(
            refusal.contains("page token is not one of this selection"),
            "{refusal}"
        );
    }
}

/// Clients that stop reading use little memory of the server and block no write. Their scans
/// end at the deadline, with a page token to continue from.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_stop_reading_block_no_writes() {
    const VALUES: u32 = 64;
    let (mut platform, scans, client) = start().await;
    let value = Bytes::from(vec![7; 1 << 20]);
    fill(&client, (0..VALUES).map(stable), &value).await;
    let pid = platform.process().pid();
    let before = resident(pid).unwrap().now;
    let (began, time) = (Instant::now(), Duration::from_secs(8));
    let mut stalled = Vec::new();
    for _ in 0..MAX_OPEN_SCANS {
        // Each has its own connection, so that no two share a flow-control window.
        let mut scans = KvClient::new(channel(&platform.grpc).unwrap());
        let mut request = Request::new(prefix("item-"));
        request.set_timeout(time);
        let mut responses = scans.scan(request).await.unwrap().into_inner();
        let first = responses.message().await.unwrap().unwrap();
        stalled.push((responses, first));
    }
    if began.elapsed() < time {
        let over = open(&scans, prefix("item-")).await.unwrap_err();
        assert_eq!(over.code(), Code::ResourceExhausted, "{over:?}");
        assert!(over.message().contains("max_open_scans"), "{over:?}");
    }
    let wrote = timeout(PATIENCE, client.put("later", "v")).await;
    wrote.unwrap().unwrap();
    let grown = resident(pid).unwrap().now.saturating_sub(before);
    // Each tier buffers a few of the 64 answers of each scan.
    let each = (grown >> 20) / MAX_OPEN_SCANS as u64;
    assert!(each < 32, "{each} MiB more for each, of {VALUES}");
    let free = poll_until(PATIENCE, || async {
        open(&scans, prefix("item-")).await.ok().map(drop)
    });
    free.await.expect("no scan slot is free after the deadline");
    // All scans began before now.
    sleep(time).await;
    for (mut responses, first) in stalled.into_iter() {
        let mut found = first.items;
        let mut page_token = first.next_page_token;
        let end = loop {
            match responses.message().await {
                Ok(Some(response)) => {
                    found.extend(response.items);
                    page_token = response.next_page_token;
                }
                Ok(None) => panic!("the scan sent all answers to a client that did not read"),
                Err(status) => break status,
            }
        };
        assert_eq!(end.code(), Code::DeadlineExceeded, "{end:?}");
        assert!(end.message().contains("page token"), "{end:?}");
        let rest = ScanRequest {
            page_token,
            ..prefix("item-")
        };
        found.extend(scan(&scans, rest).await.unwrap().0);
        let keys: Vec<String> = (found.into_iter())
            .map(|item| String::from_utf8(item.key.to_vec()).unwrap())
            .collect();
        assert_eq!(keys, (0..VALUES).map(stable).collect::<Vec<_>>());
    }
    platform.process().check().unwrap();
}
