//! Scans and counts of one data node, through the interface of server coordinators.

use std::{collections::BTreeMap, path::Path, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;
use tierkv_coordination::{ConfigStore, Swap, directory::PLACEMENT};
use tierkv_protocol::placement::{PlacementMap, WeightedCluster};
use tierkv_rpc::{
    AddressedChannel,
    proto::{
        internal::{
            self, CountRequest, ScanReply, ScanRequest, ScannedItem,
            data_node_client::DataNodeClient,
        },
        status::detail,
    },
    tiers::MAX_TIER_FRAME_BYTES,
    within,
};
use tierkv_types::{
    ClusterId, Code, Error, ItemKey, ItemRange, OperationKind, Version,
    limits::{FRAME_BYTES, MAX_OPEN_SCANS},
};
use tokio::time::{Instant, sleep};
use tonic::{Status, Streaming};

use crate::stage::{DEADLINE, Stage, unhurried_to};

fn key(name: &str) -> ItemKey {
    ItemKey::new("n", name.as_bytes()).unwrap()
}

fn named(number: u32) -> String {
    format!("{number:04}")
}

fn map(version: u64, clusters: &[&str]) -> PlacementMap {
    let clusters = clusters.iter().map(|name| WeightedCluster {
        id: ClusterId::new(name).unwrap(),
        weight: 1,
    });
    let mut map = PlacementMap::initial(clusters.collect()).unwrap();
    map.version = version;
    map
}

/// A node that is master of a cluster with all slots, and a connection for scans.
struct Scannable {
    stage: Stage,
    client: DataNodeClient<AddressedChannel>,
}

impl Scannable {
    async fn start(dir: &Path) -> Self {
        let stage = Stage::ready(dir).await;
        let client = connect(&stage);
        Self { stage, client }
    }

    async fn write(&self, name: &str, kind: OperationKind) -> u64 {
        self.stage.change(&key(name), kind).await.unwrap().version
    }

    async fn put(&self, name: &str, value: impl Into<Bytes>) -> u64 {
        let value = value.into();
        self.write(name, OperationKind::Put { value, ttl: None })
            .await
    }

    async fn open(
        &self,
        request: ScanRequest,
        time: Duration,
    ) -> Result<Streaming<ScanReply>, Error> {
        open(self.client.clone(), request, time).await
    }

    async fn scan(&self, request: ScanRequest) -> Result<Vec<ScannedItem>, Error> {
        let mut replies = self.open(request, DEADLINE).await?;
        let mut found = Vec::new();
        while let Some(reply) = replies.message().await.map_err(ours)? {
            assert!(!reply.items.is_empty());
            found.extend(reply.items);
        }
        Ok(found)
    }

    async fn count(&self, prefix: &[u8]) -> Result<u64, Error> {
        let request = CountRequest {
            range: scan(prefix).range,
            min_version: 0,
            placement_version: 0,
        };
        let counted = self.client.clone().count(request).await;
        counted
            .map(|counted| counted.into_inner().count)
            .map_err(ours)
    }

    async fn stop(self) {
        self.stage.stop().await;
    }
}

/// A separate connection.
fn connect(stage: &Stage) -> DataNodeClient<AddressedChannel> {
    DataNodeClient::new(unhurried_to(&stage.node)).max_decoding_message_size(MAX_TIER_FRAME_BYTES)
}

async fn open(
    mut client: DataNodeClient<AddressedChannel>,
    request: ScanRequest,
    time: Duration,
) -> Result<Streaming<ScanReply>, Error> {
    let opened = client.scan(within(request, Instant::now() + time)).await;
    opened.map(tonic::Response::into_inner).map_err(ours)
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let limit = Instant::now() + DEADLINE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < limit, "not in time: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The node's own error code of a refusal.
// By value, as `map_err` hands it over.
#[allow(clippy::needless_pass_by_value)]
fn ours(status: Status) -> Error {
    detail(&status).unwrap_or_else(|| panic!("a bare status: {status:?}"))
}

fn scan(prefix: &[u8]) -> ScanRequest {
    ranged(&ItemRange::of_prefix("n", prefix).unwrap())
}

fn ranged(range: &ItemRange) -> ScanRequest {
    ScanRequest {
        range: Some(internal::ItemRange {
            start: range.start().clone(),
            end: range.end().clone(),
        }),
        ..ScanRequest::default()
    }
}

fn names(items: &[ScannedItem]) -> Vec<String> {
    let keys = items.iter().map(|item| {
        let key = ItemKey::from_bytes(item.item_key.clone()).unwrap();
        assert_eq!(key.namespace(), "n");
        String::from_utf8(key.key().to_vec()).unwrap()
    });
    keys.collect()
}

/// A node whose store has three hundred keys, some of which have changed in memory since, and
/// the current version of each key.
async fn spread_over_the_tiers(dir: &Path) -> (Scannable, BTreeMap<String, u64>) {
    let stage = Scannable::start(dir).await;
    let mut expected = BTreeMap::new();
    for number in (0..300).rev() {
        let name = named(number);
        expected.insert(name.clone(), stage.put(&name, name.clone()).await);
    }
    stage.stop().await;
    let stage = Scannable::start(dir).await;
    for number in (0..300).step_by(7) {
        stage.write(&named(number), OperationKind::Delete).await;
        expected.remove(&named(number));
    }
    for number in (0..300).step_by(3) {
        let name = named(number);
        expected.insert(name.clone(), stage.put(&name, name.clone()).await);
    }
    (stage, expected)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_has_its_range_in_order_whatever_tier_holds_it() {
    let dir = TempDir::new().unwrap();
    let (stage, expected) = spread_over_the_tiers(dir.path()).await;
    let expiring = OperationKind::Put {
        value: Bytes::from_static(b"for a while"),
        ttl: Some(Duration::from_millis(300)),
    };
    let expires = Version::from_bits(stage.write("0001x", expiring).await);
    let expires = expires.after(Duration::from_millis(300)).to_bits();
    let held = async |prefix: &[u8]| {
        let items = stage.scan(scan(prefix)).await.unwrap();
        for item in &items {
            let is_expiring = item.item_key == key("0001x").as_bytes();
            let name = item.value == item.item_key[2..];
            assert!(if is_expiring {
                item.expires == expires
            } else {
                name
            });
        }
        let versions = items.iter().map(|item| item.version);
        names(&items).into_iter().zip(versions).collect::<Vec<_>>()
    };
    until("0001x expires", async || {
        let found = held(b"").await;
        let (count, others) = (found.len(), found.into_iter());
        let others: BTreeMap<_, _> = others.filter(|(name, _)| name != "0001x").collect();
        assert_eq!(others, expected);
        (count == others.len()).then_some(())
    })
    .await;
    let of = |prefix: &str| {
        let with = expected.iter().filter(|(name, _)| name.starts_with(prefix));
        with.map(|(name, version)| (name.clone(), *version))
            .collect::<Vec<_>>()
    };
    for prefix in ["", "0", "01", "012", "0123", "9"] {
        assert_eq!(held(prefix.as_bytes()).await, of(prefix), "{prefix}");
        let count = stage.count(prefix.as_bytes()).await.unwrap();
        assert_eq!(count, of(prefix).len() as u64, "{prefix}");
    }
    for limit in [1, 2, 100] {
        let limited = ScanRequest {
            limit,
            ..scan(b"01")
        };
        let found = names(&stage.scan(limited).await.unwrap());
        let expected = of("01").into_iter().map(|(name, _)| name);
        let expected: Vec<String> = expected.take(usize::try_from(limit).unwrap()).collect();
        assert_eq!(found, expected, "{limit}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_come_in_replies_of_about_a_frame() {
    let dir = TempDir::new().unwrap();
    let stage = Scannable::start(dir.path()).await;
    for number in 0..20 {
        stage.put(&named(number), vec![7; 400_000]).await;
    }
    stage.put(&named(20), vec![7; FRAME_BYTES]).await;
    let mut replies = stage.open(scan(b""), DEADLINE).await.unwrap();
    let mut found = Vec::new();
    while let Some(reply) = replies.message().await.unwrap() {
        let bytes: usize = reply.items.iter().map(|item| item.value.len()).sum();
        assert!(bytes <= FRAME_BYTES, "{bytes} in one reply");
        found.extend(names(&reply.items));
    }
    assert_eq!(found, (0..=20).map(named).collect::<Vec<_>>());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_nobody_reads_does_not_keep_a_node_from_stopping() {
    let dir = TempDir::new().unwrap();
    let stage = Scannable::start(dir.path()).await;
    for number in 0..40 {
        stage.put(&named(number), vec![7; 400_000]).await;
    }
    let mut resting = stage.open(scan(b""), DEADLINE).await.unwrap();
    assert!(resting.message().await.unwrap().is_some());
    stage.stop().await;
    // The directory is unlocked at once.
    let stage = Scannable::start(dir.path()).await;
    assert_eq!(stage.count(b"").await.unwrap(), 40);
    drop(resting);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_slots_that_are_owned_elsewhere_are_not_told() {
    let dir = TempDir::new().unwrap();
    let stage = Scannable::start(dir.path()).await;
    for number in 0..200 {
        stage.put(&named(number), "v").await;
    }
    let routed = |placement_version| ScanRequest {
        placement_version,
        ..scan(b"")
    };
    assert_eq!(stage.scan(routed(1)).await.unwrap().len(), 200);
    let code = |outcome: Result<_, Error>| outcome.map(|_: Vec<_>| ()).unwrap_err().code;
    assert_eq!(code(stage.scan(routed(2)).await), Code::WrongOwner);

    let shared = map(2, &["c1", "c2"]);
    let stored = stage
        .stage
        .coordination
        .get(PLACEMENT)
        .await
        .unwrap()
        .unwrap();
    let swapped =
        stage
            .stage
            .coordination
            .compare_and_swap(PLACEMENT, stored.revision, shared.encode());
    let _: Swap = swapped.await.unwrap();
    let ours: Vec<String> = (0..200)
        .map(named)
        .filter(|name| shared.owner(key(name).slot()).0.as_str() == "c1")
        .collect();
    assert!(!ours.is_empty() && ours.len() < 200);
    let found = until("the node learns the new map", async || {
        stage.scan(routed(2)).await.ok()
    });
    assert_eq!(names(&found.await), ours);
    assert_eq!(stage.count(b"").await.unwrap(), ours.len() as u64);
    assert_eq!(code(stage.scan(routed(1)).await), Code::WrongOwner);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_in_words() {
    let dir = TempDir::new().unwrap();
    let stage = Scannable::start(dir.path()).await;
    let version = stage.put("a", "v").await;
    let refused = async |request: ScanRequest| {
        let error = stage.scan(request).await.unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
        error.message.into_owned()
    };
    assert!(refused(ScanRequest::default()).await.contains("range"));
    let mut backwards = scan(b"a");
    if let Some(range) = &mut backwards.range {
        std::mem::swap(&mut range.start, &mut range.end);
    }
    assert!(refused(backwards).await.contains("item range"));
    let at_least = |min_version| ScanRequest {
        min_version,
        ..scan(b"")
    };
    assert!(refused(at_least(version + 1)).await.contains("min_version"));
    assert_eq!(stage.scan(at_least(version)).await.unwrap().len(), 1);
    stage.stop().await;
}

/// The answers of as many scans as may be open are not read: writes go on, more scans are
/// refused, and at their deadline the places are free again.
#[tokio::test(flavor = "multi_thread")]
async fn scans_that_nobody_reads_hold_nothing_up_and_end_at_their_deadline() {
    let dir = TempDir::new().unwrap();
    let stage = Scannable::start(dir.path()).await;
    for number in 0..30 {
        stage.put(&named(number), vec![7; 1 << 20]).await;
    }
    // All deadlines pass within the test, even if opening the scans takes long.
    let (began, time) = (Instant::now(), Duration::from_secs(4));
    let mut unread = Vec::new();
    for _ in 0..MAX_OPEN_SCANS {
        // Unread answers fill the window of their own connection only.
        unread.push(open(connect(&stage.stage), scan(b""), time).await.unwrap());
    }
    if began.elapsed() < time {
        let refused = stage.open(scan(b""), DEADLINE).await.unwrap_err();
        assert_eq!(refused.code, Code::ResourceExhausted, "{refused}");
        assert!(refused.message.contains("open_snapshots"), "{refused}");
    }
    let version = stage.put("later", "v").await;
    let found = until("the first of them ends", async || {
        stage.scan(scan(b"later")).await.ok()
    });
    assert_eq!(found.await[0].version, version);
    // All of them began before now.
    sleep(time).await;
    for mut replies in unread {
        let end = loop {
            match replies.message().await {
                Ok(Some(reply)) => assert!(!names(&reply.items).contains(&"later".to_owned())),
                Ok(None) => panic!("it told all, though nobody asked"),
                Err(status) => break ours(status),
            }
        };
        assert_eq!(end.code, Code::DeadlineExceeded, "{end}");
        assert!(end.message.contains("page token"), "{end}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_in_time_though_a_scan_is_open() {
    let dir = TempDir::new().unwrap();
    let stage = Scannable::start(dir.path()).await;
    for number in 0..30 {
        stage.put(&named(number), vec![7; 1 << 20]).await;
    }
    let mut replies = stage.open(scan(b""), DEADLINE).await.unwrap();
    assert!(replies.message().await.unwrap().is_some());
    let began = Instant::now();
    stage.stop().await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    let end = loop {
        match replies.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it told all, though it was stopped"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), tonic::Code::Unavailable, "{end:?}");
}
