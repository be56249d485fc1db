//! Every tier in one process. The primary server coordinator goes away under load: reads, writes
//! and watches go on through the other (TXN-ROUTE), and no acknowledged write is lost.

#![allow(clippy::unwrap_used)] // A test may panic: that is how it fails.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tempfile::TempDir;
use tierkv::{Client, Code, Consistency, ReadOptions};
use tierkv_cache::EmbeddedCache;
use tierkv_client_coordinator::{ClientCoordinator, ClientCoordinatorSettings, MetricsPage};
use tierkv_coordination::{
    GroupMembership, MemoryCoordination,
    directory::{CLIENT_COORDINATORS, DATA_NODES, FoundingCluster, PRIMARY, SERVER_COORDINATORS},
};
use tierkv_datanode::{DataNode, DataNodeSettings};
use tierkv_harness::poll_until;
use tierkv_rpc::{
    channel,
    proto::v1::{WatchRequest, WatchResponse, kv_client::KvClient, watch_event},
};
use tierkv_server_coordinator::{Founding, ServerCoordinator, ServerCoordinatorSettings};
use tierkv_storage::StorageSettings;
use tierkv_types::{Clock, ClusterId, NodeId, PlatformId, SystemClock};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tonic::Streaming;

const PATIENCE: Duration = Duration::from_secs(60);
const WRITERS: usize = 16;
/// Acknowledged writes between two changes of the primary.
const WRITES_BETWEEN: u64 = 2_000;

/// A platform whose server coordinators come and go.
struct Platform {
    coordination: Arc<MemoryCoordination>,
    cache: Arc<EmbeddedCache>,
    datanode: DataNode,
    client_coordinator: ClientCoordinator,
    _data: TempDir,
}

impl Platform {
    async fn start() -> Self {
        let coordination = MemoryCoordination::ephemeral();
        let founding = Founding {
            platform: PlatformId(1),
            clusters: vec![FoundingCluster {
                id: cluster(),
                weight: 1,
                members: vec![NodeId::new("n1").unwrap()],
            }],
            f_ms: 1_000,
        };
        founding.carry_out(&*coordination).await.unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let cache = Arc::new(EmbeddedCache::new(16 << 20, Arc::clone(&clock)));
        let data = tempfile::tempdir().unwrap();
        let settings = DataNodeSettings::new(
            PlatformId(1),
            NodeId::new("n1").unwrap(),
            cluster(),
            StorageSettings::new(data.path()),
        );
        let datanode = DataNode::start(
            settings,
            coordination.clone(),
            Arc::clone(&cache),
            Arc::clone(&clock),
        );
        let datanode = datanode.await.unwrap();
        Self {
            client_coordinator: client_coordinator("cc1", &coordination, &cache).await,
            coordination,
            cache,
            datanode,
            _data: data,
        }
    }

    async fn server_coordinator(&self, node: &str) -> ServerCoordinator {
        let settings = ServerCoordinatorSettings::new(PlatformId(1), NodeId::new(node).unwrap());
        ServerCoordinator::start(settings, self.coordination.clone())
            .await
            .unwrap()
    }

    async fn another_client_coordinator(&self) -> ClientCoordinator {
        let another = client_coordinator("cc2", &self.coordination, &self.cache).await;
        until_ready(&another).await;
        another
    }

    async fn client(&self) -> Client {
        let address = self.client_coordinator.grpc_address().to_string();
        Client::builder().address(address).connect().await.unwrap()
    }

    async fn until_ready(&self) {
        until_ready(&self.client_coordinator).await;
    }

    async fn stop(self) {
        self.client_coordinator.stop().await;
        self.datanode.stop().await.unwrap();
    }
}

async fn client_coordinator(
    node: &str,
    coordination: &Arc<MemoryCoordination>,
    cache: &Arc<EmbeddedCache>,
) -> ClientCoordinator {
    let page = MetricsPage(Arc::new(String::new));
    let mut settings =
        ClientCoordinatorSettings::new(PlatformId(1), NodeId::new(node).unwrap(), page);
    settings.grpc_listen = "127.0.0.1:0".parse().unwrap();
    settings.rest_listen = "127.0.0.1:0".parse().unwrap();
    let (coordination, cache) = (coordination.clone(), Arc::clone(cache));
    ClientCoordinator::start(settings, coordination, cache, Arc::new(SystemClock))
        .await
        .unwrap()
}

async fn until_ready(coordinator: &ClientCoordinator) {
    let ready = poll_until(PATIENCE, || async { coordinator.is_ready().then_some(()) });
    ready.await.expect("the platform becomes ready");
}

fn cluster() -> ClusterId {
    ClusterId::new("c1").unwrap()
}

/// Writers that count up, each with its own key, until stopped.
struct Load {
    writers: JoinSet<(u64, u64)>,
    acknowledged: Arc<AtomicU64>,
    ending: Arc<AtomicBool>,
}

impl Load {
    fn start(client: &Client) -> Self {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let ending = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let client = client.clone();
            let (acknowledged, ending) = (Arc::clone(&acknowledged), Arc::clone(&ending));
            writers.spawn(async move {
                let (key, mut count, mut version) = (format!("writer-{writer}"), 0_u64, 0);
                while !ending.load(Ordering::Relaxed) {
                    count += 1;
                    let written = client.put(&key, count.to_string()).await;
                    let now = written.unwrap_or_else(|error| panic!("{key} {count}: {error}"));
                    assert!(now > version, "{key}: I5");
                    version = now;
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    // Through the cache, and never older than its own write.
                    let found = client.get(&key).await;
                    let found = found.unwrap_or_else(|error| panic!("{key}: {error}"));
                    assert_eq!(found.value.unwrap(), count.to_string(), "{key}");
                }
                (count, version)
            });
        }
        Self {
            writers,
            acknowledged,
            ending,
        }
    }

    /// Waits for this many more acknowledged writes.
    async fn go_on(&self, more: u64) {
        let wanted = self.acknowledged.load(Ordering::Relaxed) + more;
        let reached = poll_until(PATIENCE, || async {
            let all_write = self.writers.len() == WRITERS;
            (self.acknowledged.load(Ordering::Relaxed) >= wanted || !all_write).then_some(())
        });
        reached.await.expect("writes go on");
    }

    /// The last count and version of each writer.
    async fn end(self) -> Vec<(u64, u64)> {
        self.ending.store(true, Ordering::Relaxed);
        let ordered = self.writers.join_all();
        ordered.await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_when_the_primary_stops() {
    let platform = Platform::start().await;
    let mut primary = platform.server_coordinator("s1").await;
    // It is elected before the other starts.
    let elected = poll_until(PATIENCE, || async { primary.primary() });
    elected.await.expect("the only one is elected");
    let mut backup = platform.server_coordinator("s2").await;
    platform.until_ready().await;
    let client = platform.client().await;
    let load = Load::start(&client);
    load.go_on(WRITES_BETWEEN).await;
    for turn in 0..3 {
        let epoch = primary.primary().expect("the first of the two is primary");
        primary.stop().await;
        load.go_on(WRITES_BETWEEN).await;
        let next = backup.primary().expect("the other has taken over");
        assert!(next > epoch);
        // The stopped one comes back as the backup.
        let returned = platform.server_coordinator(["s1", "s2"][turn % 2]).await;
        primary = std::mem::replace(&mut backup, returned);
        load.go_on(WRITES_BETWEEN).await;
    }
    let ends = load.end().await;
    let latest = ReadOptions {
        consistency: Consistency::Latest,
        ..ReadOptions::default()
    };
    let mut held = Vec::new();
    for writer in 0..WRITERS {
        let found = client
            .get_with(format!("writer-{writer}"), latest)
            .await
            .unwrap();
        let count = String::from_utf8(found.value.unwrap().to_vec()).unwrap();
        held.push((count.parse::<u64>().unwrap(), found.version));
    }
    // Writers end in any order.
    let sorted = |mut ends: Vec<(u64, u64)>| {
        ends.sort_unstable();
        ends
    };
    assert_eq!(sorted(held), sorted(ends));
    drop(client);
    primary.stop().await;
    backup.stop().await;
    platform.stop().await;
}

/// Reads a watch until the key `end`; returns the values of each key, in order.
async fn values_of(mut answers: Streaming<WatchResponse>) -> BTreeMap<Bytes, Vec<(u64, u64)>> {
    let mut changes: BTreeMap<Bytes, Vec<(u64, u64)>> = BTreeMap::new();
    while !changes.contains_key(&b"end"[..]) {
        let answer = timeout(PATIENCE, answers.message()).await;
        let answer = answer.expect("the watch goes on").unwrap().unwrap();
        for event in answer.events {
            let Some(watch_event::Kind::Written(written)) = event.kind else {
                panic!("nobody removes a key");
            };
            let count = String::from_utf8(written.value.to_vec()).unwrap();
            let of_key = changes.entry(event.key).or_default();
            of_key.push((count.parse().unwrap(), event.version));
        }
    }
    changes
}

/// A watch's user does not notice when its server coordinator goes away.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_when_the_primary_stops() {
    let platform = Platform::start().await;
    let mut primary = platform.server_coordinator("s1").await;
    let mut backup = platform.server_coordinator("s2").await;
    platform.until_ready().await;
    let address = platform.client_coordinator.grpc_address().to_string();
    let mut watches = KvClient::new(channel(&address).unwrap());
    let answers = watches.watch(WatchRequest::default()).await.unwrap();
    let watching = tokio::spawn(values_of(answers.into_inner()));
    let client = platform.client().await;
    let load = Load::start(&client);
    for turn in 0..4 {
        load.go_on(WRITES_BETWEEN / 2).await;
        primary.stop().await;
        let returned = platform.server_coordinator(["s1", "s2"][turn % 2]).await;
        primary = std::mem::replace(&mut backup, returned);
    }
    load.go_on(WRITES_BETWEEN / 2).await;
    let mut ends = load.end().await;
    client.put("end", "0").await.unwrap();
    let mut changes = watching.await.unwrap();
    changes.remove(&b"end"[..]);
    let mut last = Vec::new();
    for of_key in changes.values() {
        let counts: Vec<u64> = of_key.iter().map(|(count, _)| *count).collect();
        let all: Vec<u64> = (1..=counts.len() as u64).collect();
        assert_eq!(counts, all, "each change is sent once, in order");
        assert!(of_key.is_sorted_by(|a, b| a.1 < b.1), "I5");
        last.extend(of_key.last().copied());
    }
    ends.sort_unstable();
    last.sort_unstable();
    assert_eq!(last, ends);
    drop((client, watches));
    primary.stop().await;
    backup.stop().await;
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_when_the_primary_loses_its_office() {
    let platform = Platform::start().await;
    let coordinators = [
        ("s1", platform.server_coordinator("s1").await),
        ("s2", platform.server_coordinator("s2").await),
    ];
    platform.until_ready().await;
    let client = platform.client().await;
    let load = Load::start(&client);
    let mut last = None;
    for _ in 0..4 {
        let primary = poll_until(PATIENCE, || async {
            (coordinators.iter())
                .find(|(_, coordinator)| coordinator.primary() > last)
                .map(|(node, coordinator)| (*node, coordinator.primary()))
        });
        let (node, epoch) = primary.await.expect("a primary of a later epoch");
        last = epoch;
        // The process lives and still routes; only its office goes to the other.
        assert!(platform.coordination.expire(PRIMARY, node));
        load.go_on(WRITES_BETWEEN / 4).await;
    }
    load.end().await;
    drop(client);
    for (_, coordinator) in coordinators {
        coordinator.stop().await;
    }
    platform.stop().await;
}

/// The names of the tiers' processes, each with its group.
const NAMES: [(&str, &str); 4] = [
    (DATA_NODES, "n1"),
    (SERVER_COORDINATORS, "s1"),
    (SERVER_COORDINATORS, "s2"),
    (CLIENT_COORDINATORS, "cc1"),
];

/// A presence that lapses takes nobody out of service, and is back soon (COORD-PRESENCE).
#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_while_presences_lapse() {
    let platform = Platform::start().await;
    let primary = platform.server_coordinator("s1").await;
    let backup = platform.server_coordinator("s2").await;
    platform.until_ready().await;
    let coordination = &platform.coordination;
    let mut listed = Vec::new();
    for (group, _) in NAMES {
        listed.push(coordination.list(group).await.unwrap());
    }
    let client = platform.client().await;
    let load = Load::start(&client);
    for _ in 0..4 {
        for ((group, name), listed) in NAMES.into_iter().zip(&listed) {
            assert!(coordination.expire(group, name), "{name}");
            load.go_on(WRITES_BETWEEN / 20).await;
            let mut members = coordination.observe(group).await.unwrap();
            let again = members.wait_for(|members| members == listed);
            timeout(PATIENCE, again).await.expect(name).unwrap();
        }
    }
    load.end().await;
    drop(client);
    primary.stop().await;
    backup.stop().await;
    platform.stop().await;
}

/// A client coordinator whose name another process has serves while it waits, then gives up.
#[tokio::test(flavor = "multi_thread")]
async fn the_second_of_a_name_serves_until_it_knows_that_the_first_one_lives() {
    let platform = Platform::start().await;
    let primary = platform.server_coordinator("s1").await;
    platform.until_ready().await;
    let twin = client_coordinator("cc1", &platform.coordination, &platform.cache).await;
    until_ready(&twin).await;
    let address = twin.grpc_address().to_string();
    let client = Client::builder().address(address).connect().await.unwrap();
    client.put("k", "1").await.unwrap();
    let first = &platform.client_coordinator;
    let why = tokio::select! {
        why = timeout(PATIENCE, twin.failed()) => why.expect("the name is taken"),
        why = first.failed() => panic!("the first one fails: {why}"),
    };
    let address = first.grpc_address().to_string();
    assert!(why.contains("'cc1'") && why.contains(&address), "{why}");
    drop(client);
    twin.stop().await;
    primary.stop().await;
    platform.stop().await;
}

/// Adds 1 to the key `visits` over REST under an idempotency key; returns status and body.
async fn visit(coordinator: &ClientCoordinator, idempotency_key: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(coordinator.rest_address())
        .await
        .unwrap();
    let body = "{\"delta\": 1}";
    let request = format!(
        "POST /v1/increment/default/visits HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\nidempotency-key: {idempotency_key}\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    (status.parse().unwrap(), body.to_owned())
}

/// A retry under an idempotency key may take another path through every tier.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_recognised_by_way_of_other_coordinators() {
    const VISITS: usize = 50;
    let platform = Platform::start().await;
    let primary = platform.server_coordinator("s1").await;
    let backup = platform.server_coordinator("s2").await;
    platform.until_ready().await;
    let other = platform.another_client_coordinator().await;
    let first = &platform.client_coordinator;
    let keys: Vec<String> = (0..VISITS).map(|nth| format!("visit-{nth}")).collect();
    // Both coordinators are asked at the same time.
    let asked = keys
        .iter()
        .flat_map(|key| [visit(first, key), visit(&other, key)]);
    let answers = futures::future::join_all(asked).await;
    primary.stop().await;
    for (key, pair) in keys.iter().zip(answers.chunks(2)) {
        assert_eq!(pair[0], pair[1], "{key}");
        assert_eq!(pair[0].0, 200, "{key}: {pair:?}");
        for coordinator in [first, &other] {
            assert_eq!(visit(coordinator, key).await, pair[0], "{key}");
        }
    }
    let found = platform.client().await.get("visits").await.unwrap();
    assert_eq!(found.value.unwrap(), VISITS.to_string());
    other.stop().await;
    backup.stop().await;
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_coordinator_writes_are_refused_and_later_go_on() {
    let platform = Platform::start().await;
    let primary = platform.server_coordinator("s1").await;
    platform.until_ready().await;
    let client = platform.client().await;
    client.put("k", "1").await.unwrap();
    primary.stop().await;
    // No coordinator routes: a write is refused for certain, before its timeout.
    let hasty = Client::builder()
        .address(platform.client_coordinator.grpc_address().to_string())
        .timeout(Duration::from_secs(2))
        .connect()
        .await
        .unwrap();
    let error = hasty.put("k", "2").await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    let second = platform.server_coordinator("s2").await;
    let latest = ReadOptions {
        consistency: Consistency::Latest,
        ..ReadOptions::default()
    };
    let found = client.get_with("k", latest).await.unwrap();
    assert_eq!(found.value.unwrap(), "1");
    assert!(client.put("k", "3").await.unwrap() > found.version);
    drop((client, hasty));
    second.stop().await;
    platform.stop().await;
}
