//! A platform of two clusters, of which one is silent or was removed: the other one is served.

#![allow(clippy::unwrap_used)] // A test may panic: that is how it fails.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;
use tierkv_cache::EmbeddedCache;
use tierkv_client_coordinator::{ClientCoordinator, ClientCoordinatorSettings, MetricsPage};
use tierkv_coordination::{
    ConfigStore, GroupMembership, Membership, MemoryCoordination,
    directory::{self, DATA_NODES, FoundingCluster, PLACEMENT, Presence},
};
use tierkv_datanode::{DataNode, DataNodeSettings};
use tierkv_harness::poll_until;
use tierkv_protocol::{
    placement::PlacementMap,
    replication::{ClusterState, DEFAULT_F_MS, Listed},
};
use tierkv_rpc::{
    channel,
    proto::{
        status::{from_wire, read_error},
        v1::{
            BatchGetRequest, GetClusterRequest, GetClusterResponse, GetRequest, GetResponse,
            PutRequest, SessionOperation, SessionRequest, Source, admin_client::AdminClient,
            kv_client::KvClient, session_answer::Answer, session_operation::Operation,
        },
    },
    within,
};
use tierkv_server_coordinator::{Founding, ServerCoordinator, ServerCoordinatorSettings};
use tierkv_storage::StorageSettings;
use tierkv_types::{
    ClusterId, Code, Epoch, Error, ItemKey, LogId, NodeId, PlatformId, SystemClock,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(30);
/// The time of a request on a key of the silent cluster.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The time in which a key of the other cluster is answered; far below [`TIMEOUT`].
const PROMPT: Duration = Duration::from_millis(900);

fn cluster(name: &str) -> ClusterId {
    ClusterId::new(name).unwrap()
}

/// Client and server coordinator over the clusters `c1` and `c2`, and the master `n1` of `c1`.
struct Platform {
    coordination: Arc<MemoryCoordination>,
    cache: Arc<EmbeddedCache>,
    first: DataNode,
    server_coordinator: ServerCoordinator,
    client_coordinator: ClientCoordinator,
    data: TempDir,
}

impl Platform {
    async fn start() -> Self {
        let coordination = MemoryCoordination::ephemeral();
        let cache = Arc::new(EmbeddedCache::new(16 << 20, Arc::new(SystemClock)));
        let data = tempfile::tempdir().unwrap();
        let clusters = [("c1", "n1"), ("c2", "n2")].map(|(name, node)| FoundingCluster {
            id: cluster(name),
            weight: 1,
            members: vec![NodeId::new(node).unwrap()],
        });
        let founding = Founding {
            platform: PlatformId(1),
            clusters: clusters.to_vec(),
            f_ms: DEFAULT_F_MS,
        };
        founding.carry_out(&*coordination).await.unwrap();
        let settings = ServerCoordinatorSettings::new(PlatformId(1), NodeId::new("s1").unwrap());
        let page = MetricsPage(Arc::new(String::new));
        let mut own =
            ClientCoordinatorSettings::new(PlatformId(1), NodeId::new("cc1").unwrap(), page);
        own.grpc_listen = "127.0.0.1:0".parse().unwrap();
        own.rest_listen = "127.0.0.1:0".parse().unwrap();
        own.max_staleness = Duration::from_millis(600);
        own.inquiry_interval = Duration::from_millis(20);
        let server_coordinator = ServerCoordinator::start(settings, coordination.clone());
        let client_coordinator = ClientCoordinator::start(
            own,
            coordination.clone(),
            Arc::clone(&cache),
            Arc::new(SystemClock),
        );
        Self {
            first: datanode("n1", "c1", data.path(), &coordination, &cache).await,
            server_coordinator: server_coordinator.await.unwrap(),
            client_coordinator: client_coordinator.await.unwrap(),
            coordination,
            cache,
            data,
        }
    }

    async fn second(&self) -> DataNode {
        let data = self.data.path();
        datanode("n2", "c2", data, &self.coordination, &self.cache).await
    }

    async fn until_ready(&self) {
        let ready = poll_until(PATIENCE, || async {
            self.client_coordinator.is_ready().then_some(())
        });
        ready.await.expect("it becomes ready");
    }

    /// Keys that a cluster owns.
    async fn keys(&self, name: &str, count: usize) -> Vec<String> {
        let map = poll_until(PATIENCE, || async {
            self.coordination.get(PLACEMENT).await.unwrap()
        });
        let map = PlacementMap::decode(&map.await.unwrap().value).unwrap();
        let owner = cluster(name);
        (0..)
            .map(|number| format!("{name}-{number}"))
            .filter(|key| {
                let slot = ItemKey::new("default", key.as_bytes()).unwrap().slot();
                *map.owner(slot).0 == owner
            })
            .take(count)
            .collect()
    }

    fn channel(&self) -> Channel {
        channel(&self.client_coordinator.grpc_address().to_string()).unwrap()
    }

    async fn get(&self, key: &str) -> Result<GetResponse, Error> {
        let deadline = Instant::now() + TIMEOUT;
        let mut kv = KvClient::new(self.channel());
        let got = kv.get(within(get(key), deadline)).await;
        got.map(tonic::Response::into_inner)
            .map_err(|status| read_error(&status))
    }

    async fn put(&self, key: &str) -> Result<u64, Error> {
        let put = PutRequest {
            namespace: "default".to_owned(),
            key: key.to_owned().into(),
            value: "value".into(),
            ..PutRequest::default()
        };
        let mut kv = KvClient::new(self.channel());
        let put = kv.put(within(put, Instant::now() + TIMEOUT)).await;
        put.map(|answer| answer.into_inner().version)
            .map_err(|status| read_error(&status))
    }

    async fn topology(&self) -> GetClusterResponse {
        let mut admin = AdminClient::new(self.channel());
        let answer = admin.get_cluster(GetClusterRequest {}).await;
        answer.unwrap().into_inner()
    }

    /// The clusters whose marks the cache has.
    async fn marked(&self) -> Vec<String> {
        let nodes = self.topology().await.cache;
        let marks = nodes.into_iter().flat_map(|node| node.marks);
        marks.map(|mark| mark.cluster).collect()
    }

    /// The status of the readiness page.
    async fn readiness(&self) -> String {
        let address = self.client_coordinator.rest_address();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = "GET /health/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    }

    /// The error of a read of `key`, once its cluster is known to be silent: in time, and with the
    /// reason.
    async fn refusal(&self, key: &str) -> Error {
        let refused = poll_until(PATIENCE, || async {
            let asked = Instant::now();
            let error = self.get(key).await.unwrap_err();
            let known = error.message.contains("cluster c2");
            // A read that began before the silence was known waits for its whole timeout.
            (known && asked.elapsed() < TIMEOUT).then_some(error)
        });
        refused.await.expect("the silence is the reason")
    }

    async fn stop(self) {
        self.client_coordinator.stop().await;
        self.server_coordinator.stop().await;
        self.first.stop().await.unwrap();
    }
}

async fn datanode(
    node: &str,
    of: &str,
    data: &Path,
    coordination: &Arc<MemoryCoordination>,
    cache: &Arc<EmbeddedCache>,
) -> DataNode {
    let storage = StorageSettings::new(data.join(node));
    let settings = DataNodeSettings::new(
        PlatformId(1),
        NodeId::new(node).unwrap(),
        cluster(of),
        storage,
    );
    let (coordination, cache) = (coordination.clone(), Arc::clone(cache));
    DataNode::start(settings, coordination, cache, Arc::new(SystemClock))
        .await
        .unwrap()
}

fn get(key: &str) -> GetRequest {
    GetRequest {
        namespace: "default".to_owned(),
        key: key.to_owned().into(),
        ..GetRequest::default()
    }
}

/// A master of `c2` that accepts connections and never says a word, as a stopped process does.
async fn mute(coordination: &MemoryCoordination) -> (TcpListener, Membership) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let presence = Presence::of_this_process(listener.local_addr().unwrap().to_string());
    let joined = coordination.join(DATA_NODES, "n2", presence.encode());
    let joined = joined.await.unwrap();
    let node = NodeId::new("n2").unwrap();
    let listed = Listed {
        node: node.clone(),
        log_id: LogId(1),
    };
    let state = ClusterState::new(Epoch(1), node.clone(), vec![listed], vec![node]);
    let record = directory::cluster_state(&cluster("c2"));
    let first = coordination.get(&record).await.unwrap().unwrap();
    let won = coordination.compare_and_swap(&record, first.revision, state.encode());
    assert!(won.await.unwrap().won().is_some());
    (listener, joined)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_cluster_silent_the_keys_of_the_other_are_served() {
    let platform = Platform::start().await;
    let _silent = mute(&platform.coordination).await;
    platform.until_ready().await;
    assert_eq!(platform.readiness().await, "200");
    let (spoken, silent) = (platform.keys("c1", 20).await, platform.keys("c2", 20).await);
    let refused = platform.refusal(&silent[0]).await;
    assert_eq!(refused.code, Code::Unavailable, "{refused}");
    assert!(
        refused.message.contains("has not answered for"),
        "{refused}"
    );
    // A write that could not be sent is refused for certain.
    let refused = platform.put(&silent[0]).await.unwrap_err();
    assert_eq!(refused.code, Code::Unavailable, "{refused}");
    assert!(refused.message.contains("cluster c2"), "{refused}");
    let asked = Instant::now();
    let version = platform.put(&spoken[0]).await.unwrap();
    assert!(asked.elapsed() < PROMPT, "{:?}", asked.elapsed());
    // Hits of the cache, too.
    let hit = poll_until(PATIENCE, || async {
        let found = platform.get(&spoken[0]).await.unwrap();
        assert_eq!(found.version, version);
        (found.source() == Source::Cache).then_some(())
    });
    hit.await.expect("a hit");
    // A batch is one answer, so it fails as a whole, with the reason.
    let mut kv = KvClient::new(platform.channel());
    let batch = BatchGetRequest {
        namespace: "default".to_owned(),
        keys: vec![spoken[0].clone().into(), silent[0].clone().into()],
        ..BatchGetRequest::default()
    };
    let asked = Instant::now();
    let failed = kv.batch_get(within(batch, asked + TIMEOUT)).await;
    let failed = read_error(&failed.unwrap_err());
    assert!(failed.message.contains("cluster c2"), "{failed}");
    assert!(asked.elapsed() < TIMEOUT);
    assert_eq!(platform.readiness().await, "200");
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_frame_the_keys_of_a_silent_cluster_hold_up_no_others() {
    let platform = Platform::start().await;
    let _silent = mute(&platform.coordination).await;
    platform.until_ready().await;
    let (spoken, silent) = (platform.keys("c1", 20).await, platform.keys("c2", 20).await);
    platform.refusal(&silent[0]).await;
    let keys: Vec<&String> = silent
        .iter()
        .zip(&spoken)
        .flat_map(|(s, l)| [s, l])
        .collect();
    let operations = keys.iter().zip(0..).map(|(key, id)| SessionOperation {
        id,
        timeout_ms: u32::try_from(TIMEOUT.as_millis()).unwrap(),
        operation: Some(Operation::Get(get(key))),
    });
    let operations = operations.collect();
    let mut kv = KvClient::new(platform.channel());
    let asked = Instant::now();
    let frames = tokio_stream::iter([SessionRequest { operations }]);
    let mut frames = kv.session(frames).await.unwrap().into_inner();
    let mut answers = BTreeMap::new();
    while let Some(frame) = frames.message().await.unwrap() {
        for answer in frame.answers {
            answers.insert(answer.id, (answer.answer.unwrap(), asked.elapsed()));
        }
    }
    assert_eq!(answers.len(), keys.len());
    for (id, (answer, took)) in answers {
        match answer {
            Answer::Get(_) => assert!(id % 2 == 1 && took < PROMPT, "{id}: {took:?}"),
            Answer::Error(error) => {
                let error = from_wire(error).unwrap();
                assert!(id % 2 == 0 && took < TIMEOUT, "{id}: {took:?}: {error}");
                assert_eq!(error.code, Code::Unavailable, "{error}");
                assert!(error.message.contains("cluster c2"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_cluster_is_forgotten() {
    let platform = Platform::start().await;
    let second = platform.second().await;
    let (spoken, removed) = (platform.keys("c1", 1).await, platform.keys("c2", 1).await);
    for key in [&spoken[0], &removed[0]] {
        let written = poll_until(PATIENCE, || async { platform.put(key).await.ok() });
        written.await.expect("both clusters are served");
    }
    let both = poll_until(PATIENCE, || async {
        (platform.marked().await == ["c1", "c2"]).then_some(())
    });
    both.await.expect("both clusters vouch");
    second.stop().await.unwrap();
    let record = directory::cluster_state(&cluster("c2"));
    let revision = platform.coordination.get(&record).await.unwrap();
    let revision = revision.unwrap().revision;
    let deleted = platform.coordination.delete(&record, revision).await;
    assert!(deleted.unwrap().won().is_some());
    let forgotten = poll_until(PATIENCE, || async {
        (platform.marked().await == ["c1"]).then_some(())
    });
    forgotten.await.expect("its marks are not shown any more");
    let refused = platform.refusal(&removed[0]).await;
    assert!(refused.message.contains("was removed"), "{refused}");
    assert_eq!(platform.topology().await.clusters.len(), 1);
    assert!(platform.get(&spoken[0]).await.unwrap().found);
    assert!(platform.client_coordinator.is_ready());
    platform.stop().await;
}
