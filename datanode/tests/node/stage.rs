//! [`Stage`]: a node, its surroundings, and a connection to it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tierkv_cache::EmbeddedCache;
use tierkv_coordination::{
    ConfigStore, MemoryCoordination, Swap,
    directory::{self, PLACEMENT},
};
use tierkv_datanode::{DataNode, DataNodeSettings};
use tierkv_protocol::{
    placement::{PlacementMap, WeightedCluster},
    replication::{ClusterState, DEFAULT_F_MS},
};
use tierkv_rpc::{
    AddressedChannel, CallError, Multiplexer, channel,
    proto::internal::{self, Read, ReadReply, Vouch, VouchReply, WriteReply, reply, request},
    tiers::ToDataNode,
    unhurried_channel,
};
use tierkv_storage::StorageSettings;
use tierkv_types::{
    Boot, BootTime, Clock, ClusterId, Error, ItemKey, NodeId, Operation, OperationKind, PlatformId,
    RequestId, RequestName, SystemClock, WriteRequest,
};
use tokio::time::{Instant, sleep};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn cluster(name: &str) -> WeightedCluster {
    WeightedCluster {
        id: ClusterId::new(name).unwrap(),
        weight: 1,
    }
}

pub(crate) fn key(key: &str) -> ItemKey {
    ItemKey::new("default", key.as_bytes()).unwrap()
}

/// The machine's clocks, so many milliseconds ahead.
#[derive(Default)]
pub(crate) struct AheadClock(AtomicU64);

impl AheadClock {
    pub(crate) fn advance(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap();
        self.0.fetch_add(millis, Ordering::SeqCst);
    }

    fn ahead(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Clock for AheadClock {
    fn boot_time(&self) -> BootTime {
        SystemClock
            .boot_time()
            .after(Duration::from_millis(self.ahead()))
    }

    fn boot(&self) -> Option<Boot> {
        SystemClock.boot()
    }

    fn wall_millis(&self) -> u64 {
        SystemClock.wall_millis() + self.ahead()
    }

    fn is_synchronised(&self) -> bool {
        SystemClock.is_synchronised()
    }
}

/// A node, its coordination store and a connection to it.
pub(crate) struct Stage {
    pub(crate) node: DataNode,
    /// The node's clock.
    pub(crate) clock: Arc<AheadClock>,
    pub(crate) coordination: Arc<MemoryCoordination>,
    pub(crate) cache: Arc<EmbeddedCache>,
    pub(crate) connection: Multiplexer<ToDataNode>,
}

impl Stage {
    pub(crate) async fn start(dir: &Path, clusters: &[&str]) -> Self {
        let coordination = MemoryCoordination::open(&dir.join("coordination")).unwrap();
        place(&coordination, clusters).await;
        Self::on(coordination, StorageSettings::new(dir.join("n1"))).await
    }

    /// Starts the node over an existing coordination store.
    pub(crate) async fn on(
        coordination: Arc<MemoryCoordination>,
        storage: StorageSettings,
    ) -> Self {
        let cache = Arc::new(EmbeddedCache::new(1 << 20, Arc::new(SystemClock)));
        let clock = Arc::new(AheadClock::default());
        let node = launch(storage, &coordination, &cache, clock.clone()).await;
        let connection = Multiplexer::new(vec![to(&node)], 1_000);
        Self {
            node,
            clock,
            coordination,
            cache,
            connection,
        }
    }

    pub(crate) async fn ready(dir: &Path) -> Self {
        let stage = Self::start(dir, &["c1"]).await;
        stage.until_master().await;
        stage
    }

    pub(crate) async fn until_master(&self) {
        let limit = Instant::now() + DEADLINE;
        while !self.node.readiness().is_ready() {
            assert!(
                Instant::now() < limit,
                "the node never mastered its cluster"
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn call(&self, kind: request::Kind) -> Result<reply::Kind, Error> {
        let answer = self.connection.call(kind, Instant::now() + DEADLINE).await;
        answer.map_err(CallError::for_write)
    }

    pub(crate) async fn vouch(&self, cluster: &str) -> Result<VouchReply, Error> {
        match self
            .call(request::Kind::Vouch(Vouch {
                cluster: cluster.to_owned(),
            }))
            .await?
        {
            reply::Kind::Vouch(answer) => Ok(answer),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn read(&self, item: &ItemKey) -> Result<ReadReply, Error> {
        let item_key = item.as_bytes().clone();
        let read = Read {
            item_key,
            placement_version: 1,
            ..Read::default()
        };
        match self.call(request::Kind::Read(read)).await? {
            reply::Kind::Read(answer) => Ok(answer),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn change(
        &self,
        item: &ItemKey,
        kind: OperationKind,
    ) -> Result<WriteReply, Error> {
        self.write(
            item,
            kind,
            RequestId {
                birth_millis: SystemClock.wall_millis(),
                random: rand::random(),
            },
        )
        .await
    }

    /// The end of the node's log.
    pub(crate) async fn log_index(&self) -> u64 {
        let mut client = internal::data_node_client::DataNodeClient::new(to(&self.node));
        let inspected = client.inspect(internal::InspectRequest {}).await.unwrap();
        inspected.into_inner().log_index
    }

    pub(crate) async fn write(
        &self,
        item: &ItemKey,
        kind: OperationKind,
        name: impl Into<RequestName>,
    ) -> Result<WriteReply, Error> {
        self.apply(WriteRequest {
            name: name.into(),
            conditions: Vec::new(),
            operations: vec![Operation {
                key: item.clone(),
                kind,
            }],
            return_previous: false,
        })
        .await
    }

    pub(crate) async fn apply(&self, write: WriteRequest) -> Result<WriteReply, Error> {
        let write = internal::Write::from_request(write);
        match self.call(request::Kind::Write(write)).await? {
            reply::Kind::Write(answer) => Ok(answer),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn put(&self, item: &ItemKey, value: &str) -> u64 {
        let value = Bytes::copy_from_slice(value.as_bytes());
        self.change(item, OperationKind::Put { value, ttl: None })
            .await
            .unwrap()
            .version
    }

    pub(crate) async fn stop(self) {
        self.node.stop().await.unwrap();
    }
}

/// A channel to a node.
pub(crate) fn to(node: &DataNode) -> AddressedChannel {
    AddressedChannel::new(channel(&node.address().to_string()).unwrap(), node.name())
}

/// A channel to a node for streams.
pub(crate) fn unhurried_to(node: &DataNode) -> AddressedChannel {
    let channel = unhurried_channel(&node.address().to_string()).unwrap();
    AddressedChannel::new(channel, node.name())
}

/// Makes the placement map, unless there is one.
pub(crate) async fn place(coordination: &MemoryCoordination, clusters: &[&str]) {
    let clusters = clusters.iter().map(|name| cluster(name)).collect();
    let map = PlacementMap::initial(clusters).unwrap();
    let _: Swap = coordination
        .put_if_absent(PLACEMENT, map.encode())
        .await
        .unwrap();
}

/// Makes the cluster's first record, unless there is one.
pub(crate) async fn found(coordination: &MemoryCoordination) {
    let key = directory::cluster_state(&ClusterId::new("c1").unwrap());
    let first = ClusterState::unfounded(vec![NodeId::new("n1").unwrap()], DEFAULT_F_MS);
    let _: Swap = coordination
        .put_if_absent(&key, first.encode())
        .await
        .unwrap();
}

pub(crate) async fn launch(
    storage: StorageSettings,
    coordination: &Arc<MemoryCoordination>,
    cache: &Arc<EmbeddedCache>,
    clock: Arc<dyn Clock>,
) -> DataNode {
    let name = NodeId::new("n1").unwrap();
    found(coordination).await;
    let settings = DataNodeSettings {
        // As much as the watches of one node may hold together.
        stream_bytes: 1 << 30,
        ..DataNodeSettings::new(PlatformId(1), name, ClusterId::new("c1").unwrap(), storage)
    };
    DataNode::start(settings, coordination.clone(), Arc::clone(cache), clock)
        .await
        .unwrap()
}

/// Which changes of a write deleted a present key.
pub(crate) fn existed(answer: &WriteReply) -> Vec<bool> {
    (answer.results.iter())
        .map(|result| result.existed)
        .collect()
}

pub(crate) fn request_id(age_millis: i64) -> RequestId {
    RequestId {
        birth_millis: SystemClock.wall_millis().saturating_add_signed(-age_millis),
        random: rand::random(),
    }
}

pub(crate) fn put(value: &str, ttl: Option<Duration>) -> OperationKind {
    OperationKind::Put {
        value: Bytes::copy_from_slice(value.as_bytes()),
        ttl,
    }
}
