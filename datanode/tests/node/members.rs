//! [`Members`]: a cluster of several nodes in one process.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;
use tierkv_cache::EmbeddedCache;
use tierkv_coordination::{ConfigStore, MemoryCoordination, directory};
use tierkv_datanode::{DataNode, DataNodeSettings, StartError};
use tierkv_protocol::replication::{ClusterState, DEFAULT_F_MS, Listed, Note};
use tierkv_rpc::{
    CallError, Multiplexer,
    proto::{
        internal::{self, InspectResponse, reply, request},
        v1,
    },
    tiers::ToDataNode,
};
use tierkv_storage::{Disk, RealDisk, Storage, StorageSettings};
use tierkv_types::{
    ClusterId, Error, Index, ItemKey, LogId, NodeId, Operation, PlatformId, RequestName,
    SystemClock, Version, WriteRequest,
};
use tokio::time::{Instant, sleep};

use super::{
    hanging_disk::HangingDisk,
    stage::{DEADLINE, place, put, request_id, to},
};

/// The nodes of the cluster c1, over one coordination store.
pub(crate) struct Members {
    pub(crate) dir: TempDir,
    pub(crate) coordination: Arc<MemoryCoordination>,
    pub(crate) nodes: BTreeMap<&'static str, DataNode>,
    /// The disks of nodes that have one of their own.
    disks: BTreeMap<&'static str, HangingDisk>,
}

impl Members {
    /// Founds the cluster and starts all its nodes.
    pub(crate) async fn start(names: &[&'static str]) -> Self {
        Self::start_on(names, &BTreeMap::new()).await
    }

    /// As [`Members::start`]; nodes with a disk in `disks` use that.
    pub(crate) async fn start_on(
        names: &[&'static str],
        disks: &BTreeMap<&'static str, HangingDisk>,
    ) -> Self {
        let dir = TempDir::new().unwrap();
        let coordination = MemoryCoordination::ephemeral();
        place(&coordination, &["c1"]).await;
        let nodes = names.iter().map(|name| NodeId::new(name).unwrap());
        let first = ClusterState::unfounded(nodes.collect(), DEFAULT_F_MS);
        let key = directory::cluster_state(&cluster());
        let founded = coordination.put_if_absent(&key, first.encode()).await;
        assert!(founded.unwrap().won().is_some());
        let mut members = Self {
            dir,
            coordination,
            nodes: BTreeMap::new(),
            disks: disks.clone(),
        };
        for name in names {
            members.launch(name).await;
        }
        members
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A log that keeps nothing that the store has, so that a node which lacks something needs a
    /// snapshot.
    pub(crate) fn storage(&self, name: &str) -> StorageSettings {
        StorageSettings {
            segment_bytes: 64 << 10,
            checkpoint_interval: Duration::from_millis(50),
            log_retention: Duration::ZERO,
            platform: Some(PlatformId(1)),
            ..StorageSettings::new(self.path(name))
        }
    }

    pub(crate) async fn launch(&mut self, name: &'static str) {
        let node = self.starting(name).await.unwrap();
        self.nodes.insert(name, node);
    }

    /// Starts a node; its start may take long.
    pub(crate) fn starting(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<DataNode, StartError>> + use<> {
        let node = NodeId::new(name).unwrap();
        let settings = DataNodeSettings::new(PlatformId(1), node, cluster(), self.storage(name));
        let clock = Arc::new(SystemClock);
        let cache = Arc::new(EmbeddedCache::new(1 << 20, clock.clone()));
        let disk: Arc<dyn Disk> = match self.disks.get(name) {
            Some(disk) => Arc::new(disk.clone()),
            None => Arc::new(RealDisk),
        };
        DataNode::start_on(disk, settings, self.coordination.clone(), cache, clock)
    }

    pub(crate) async fn stop(&mut self, name: &str) {
        self.nodes.remove(name).unwrap().stop().await.unwrap();
    }

    pub(crate) async fn state(&self) -> ClusterState {
        let key = directory::cluster_state(&cluster());
        let record = self.coordination.get(&key).await.unwrap().unwrap();
        ClusterState::decode(&record.value).unwrap()
    }

    pub(crate) async fn inspect(&self, name: &str) -> Result<InspectResponse, tonic::Status> {
        let node = &self.nodes[name];
        let mut client = internal::data_node_client::DataNodeClient::new(to(node));
        let inspected = client.inspect(internal::InspectRequest {}).await;
        inspected.map(tonic::Response::into_inner)
    }

    /// Waits until the logs of exactly these nodes are in sync, with the ids that the nodes have.
    pub(crate) async fn until_in_sync(&self, names: &[&str]) {
        let limit = Instant::now() + DEADLINE;
        loop {
            let state = self.state().await;
            let mut own = Vec::new();
            for name in names {
                let log_id = self.inspect(name).await.map_or(0, |it| it.log_id);
                own.push(Listed {
                    node: NodeId::new(name).unwrap(),
                    log_id: LogId(log_id),
                });
            }
            let mut listed = state.in_sync.clone();
            listed.sort_by(|one, other| one.node.cmp(&other.node));
            if listed == own && state.master.is_some() {
                return;
            }
            assert!(
                Instant::now() < limit,
                "not in sync: {listed:?}, the nodes have {own:?}"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the node has noted the end of the log that it has now.
    pub(crate) async fn until_noted(&self, name: &str, log_id: u64) {
        let key = directory::log_note(&cluster(), &NodeId::new(name).unwrap());
        let committed = self.inspect(name).await.unwrap().commit_index;
        let limit = Instant::now() + DEADLINE;
        loop {
            let note = self.coordination.get(&key).await.unwrap();
            let note = note.map(|note| Note::decode(&note.value).unwrap());
            let wanted = Note {
                log_id: LogId(log_id),
                commit: Index(committed),
            };
            if note.is_some_and(|note| note.log_id == wanted.log_id && note.commit >= wanted.commit)
            {
                return;
            }
            assert!(Instant::now() < limit, "{name} noted {note:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The node that serves as master.
    pub(crate) async fn master(&self) -> &'static str {
        let limit = Instant::now() + DEADLINE;
        loop {
            for name in self.nodes.keys() {
                let seen = self.inspect(name).await;
                if seen.is_ok_and(|seen| seen.role() == v1::NodeRole::Master) {
                    return name;
                }
            }
            assert!(Instant::now() < limit, "there is no master");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Writes at whatever node is master; returns the version.
    pub(crate) async fn put(&self, item: &ItemKey, value: &str) -> u64 {
        let limit = Instant::now() + DEADLINE;
        let id = request_id(0);
        loop {
            let master = self.master().await;
            match self.put_at(master, item, value, id).await {
                Ok(version) => return version,
                Err(error) => assert!(Instant::now() < limit, "{error}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn put_at(
        &self,
        name: &str,
        item: &ItemKey,
        value: &str,
        id: impl Into<RequestName>,
    ) -> Result<u64, Error> {
        match self.call(name, written(item, value, id)).await? {
            reply::Kind::Write(answer) => Ok(answer.version),
            other => panic!("{other:?}"),
        }
    }

    /// Writes at one node, which may be stopped meanwhile.
    pub(crate) fn writing(
        &self,
        name: &str,
        item: &ItemKey,
        value: &str,
    ) -> impl Future<Output = Result<reply::Kind, CallError>> + use<> {
        let connection: Multiplexer<ToDataNode> = Multiplexer::new(vec![to(&self.nodes[name])], 10);
        let write = written(item, value, request_id(0));
        async move { connection.call(write, Instant::now() + DEADLINE).await }
    }

    /// Hands mastership to a node.
    pub(crate) async fn hand_over(&self, successor: &str) {
        let limit = Instant::now() + DEADLINE;
        loop {
            let master = self.master().await;
            let mut client = internal::orders_client::OrdersClient::new(to(&self.nodes[master]));
            let order = v1::HandOverRequest {
                cluster: "c1".to_owned(),
                to: successor.to_owned(),
            };
            let handed = client.hand_over(order).await;
            if handed.is_ok() {
                return;
            }
            assert!(Instant::now() < limit, "{handed:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Calls one node.
    pub(crate) async fn call(&self, name: &str, kind: request::Kind) -> Result<reply::Kind, Error> {
        let connection: Multiplexer<ToDataNode> = Multiplexer::new(vec![to(&self.nodes[name])], 10);
        let answer = connection.call(kind, Instant::now() + DEADLINE / 4).await;
        answer.map_err(CallError::for_write)
    }

    /// Stops all nodes, and checks that each of `names` has the `written` values on its disk.
    pub(crate) async fn check(
        mut self,
        names: &[&str],
        written: &BTreeMap<ItemKey, (u64, String)>,
    ) {
        let running: Vec<&str> = self.nodes.keys().copied().collect();
        for name in running {
            self.stop(name).await;
        }
        for name in names {
            let opened = Storage::open(self.storage(name), Arc::new(RealDisk)).await;
            let (storage, found) = opened.unwrap();
            // All of it was acknowledged by every node, and is committed.
            storage.apply(&found.tail);
            let keys: Vec<ItemKey> = written.keys().cloned().collect();
            let items = storage.load(&keys).await.unwrap();
            for ((key, (version, value)), item) in written.iter().zip(items) {
                let item = item.unwrap_or_else(|| panic!("{name} lacks {key:?}"));
                assert_eq!(item.version, Version::from_bits(*version), "{name} {key:?}");
                assert_eq!(item.value, Bytes::from(value.clone()), "{name} {key:?}");
            }
            storage.close().await.unwrap();
        }
    }
}

/// A write of one key.
fn written(item: &ItemKey, value: &str, id: impl Into<RequestName>) -> request::Kind {
    request::Kind::Write(internal::Write::from_request(WriteRequest {
        name: id.into(),
        conditions: Vec::new(),
        operations: vec![Operation {
            key: item.clone(),
            kind: put(value, None),
        }],
        return_previous: false,
    }))
}

pub(crate) fn cluster() -> ClusterId {
    ClusterId::new("c1").unwrap()
}
