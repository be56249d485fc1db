//! One data node over a real disk, asked as a server coordinator asks it.

#![allow(clippy::unwrap_used)] // A test may panic: that is how it fails.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;
use tierkv_cache::{Cache, EmbeddedCache};
use tierkv_coordination::{ConfigStore, MemoryCoordination, Swap, directory::PLACEMENT};
use tierkv_datanode::{DataNode, DataNodeSettings};
use tierkv_protocol::placement::{PlacementMap, WeightedCluster};
use tierkv_rpc::{
    CallError, Multiplexer, channel,
    proto::internal::{self, Read, ReadReply, Vouch, VouchReply, WriteReply, reply, request},
    tiers::ToDataNode,
};
use tierkv_storage::StorageSettings;
use tierkv_types::{
    Clock, ClusterId, Code, Error, ItemKey, NodeId, Operation, OperationKind, RequestId,
    SystemClock, WriteRequest,
};
use tokio::time::{Instant, sleep, timeout};

const DEADLINE: Duration = Duration::from_secs(20);

fn cluster(name: &str) -> WeightedCluster {
    WeightedCluster {
        id: ClusterId::new(name).unwrap(),
        weight: 1,
    }
}

fn key(key: &str) -> ItemKey {
    ItemKey::new("default", key.as_bytes()).unwrap()
}

/// A node, its coordination store and a connection to it.
struct Stage {
    node: DataNode,
    coordination: Arc<MemoryCoordination>,
    cache: Arc<EmbeddedCache>,
    connection: Multiplexer<ToDataNode>,
}

impl Stage {
    async fn start(dir: &Path, clusters: &[&str]) -> Self {
        let coordination = MemoryCoordination::open(&dir.join("coordination")).unwrap();
        let clusters = clusters.iter().map(|name| cluster(name)).collect();
        let map = PlacementMap::initial(clusters).unwrap();
        let _: Swap = coordination
            .put_if_absent(PLACEMENT, map.encode())
            .await
            .unwrap();
        let cache = Arc::new(EmbeddedCache::new(1 << 20, Arc::new(SystemClock)));
        let node = launch(dir, &coordination, &cache).await;
        let channel = channel(&node.address().to_string()).unwrap();
        let connection = Multiplexer::new(vec![channel], 1_000);
        Self {
            node,
            coordination,
            cache,
            connection,
        }
    }

    async fn ready(dir: &Path) -> Self {
        let stage = Self::start(dir, &["c1"]).await;
        let limit = Instant::now() + DEADLINE;
        while stage.vouch("c1").await.is_err() {
            assert!(
                Instant::now() < limit,
                "the node never mastered its cluster"
            );
            sleep(Duration::from_millis(10)).await;
        }
        stage
    }

    async fn call(&self, kind: request::Kind) -> Result<reply::Kind, Error> {
        let answer = self.connection.call(kind, Instant::now() + DEADLINE).await;
        answer.map_err(CallError::for_write)
    }

    async fn vouch(&self, cluster: &str) -> Result<VouchReply, Error> {
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

    async fn read(&self, item: &ItemKey) -> Result<ReadReply, Error> {
        let item_key = item.as_bytes().clone();
        let read = Read {
            item_key,
            min_version: 0,
            placement_version: 1,
            explain: false,
        };
        match self.call(request::Kind::Read(read)).await? {
            reply::Kind::Read(answer) => Ok(answer),
            other => panic!("{other:?}"),
        }
    }

    async fn change(&self, item: &ItemKey, kind: OperationKind) -> Result<WriteReply, Error> {
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

    /// How far the node's log goes.
    async fn log_index(&self) -> u64 {
        let channel = channel(&self.node.address().to_string()).unwrap();
        let mut client = internal::data_node_client::DataNodeClient::new(channel);
        let inspected = client.inspect(internal::InspectRequest {}).await.unwrap();
        inspected.into_inner().log_index
    }

    async fn write(
        &self,
        item: &ItemKey,
        kind: OperationKind,
        id: RequestId,
    ) -> Result<WriteReply, Error> {
        let operations = vec![Operation {
            key: item.clone(),
            kind,
        }];
        let write = internal::Write::from_request(WriteRequest { id, operations });
        match self.call(request::Kind::Write(write)).await? {
            reply::Kind::Write(answer) => Ok(answer),
            other => panic!("{other:?}"),
        }
    }

    async fn put(&self, item: &ItemKey, value: &str) -> u64 {
        let value = Bytes::copy_from_slice(value.as_bytes());
        self.change(item, OperationKind::Put { value, ttl: None })
            .await
            .unwrap()
            .version
    }

    async fn stop(self) {
        self.node.stop().await.unwrap();
    }
}

async fn launch(
    dir: &Path,
    coordination: &Arc<MemoryCoordination>,
    cache: &Arc<EmbeddedCache>,
) -> DataNode {
    let storage = StorageSettings::new(dir.join("n1"));
    let name = NodeId::new("n1").unwrap();
    let settings = DataNodeSettings::new(name, ClusterId::new("c1").unwrap(), storage);
    DataNode::start(
        settings,
        coordination.clone(),
        Arc::clone(cache),
        Arc::new(SystemClock),
    )
    .await
    .unwrap()
}

/// Which changes of a write deleted a key that was there.
fn existed(answer: &WriteReply) -> Vec<bool> {
    (answer.results.iter())
        .map(|result| result.existed)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_read_back_and_outlive_the_node() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let first = stage.put(&key("a"), "one").await;
    let second = stage.put(&key("a"), "two").await;
    assert!(second > first, "I5");
    let epoch = stage.vouch("c1").await.unwrap().epoch;
    stage.stop().await;

    let stage = Stage::ready(dir.path()).await;
    let read = stage.read(&key("a")).await.unwrap();
    assert_eq!(
        (read.found, &read.value[..], read.version),
        (true, &b"two"[..], second)
    );
    assert!(
        stage.put(&key("a"), "three").await > second,
        "I5 over a restart"
    );
    assert!(
        stage.vouch("c1").await.unwrap().epoch > epoch,
        "REP-START: a new term"
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_says_whether_the_key_was_there_also_when_only_the_store_knows() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    stage.put(&key("a"), "one").await;
    stage.put(&key("b"), "one").await;
    let delete = |item| stage.change(item, OperationKind::Delete);
    let (a, b) = (key("a"), key("b"));
    assert_eq!(existed(&delete(&a).await.unwrap()), [true]);
    assert_eq!(existed(&delete(&a).await.unwrap()), [false]);
    let read = stage.read(&a).await.unwrap();
    assert!(
        !read.found && read.version > 0,
        "absence is known up to a version"
    );
    stage.stop().await;

    // Nothing is in memory now.
    let stage = Stage::ready(dir.path()).await;
    let deleted = stage.change(&a, OperationKind::Delete).await.unwrap();
    assert_eq!(existed(&deleted), [false]);
    let deleted = stage.change(&b, OperationKind::Delete).await.unwrap();
    assert_eq!(existed(&deleted), [true]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_keys_leave_the_cache_before_the_answer() {
    use tierkv_cache::{CacheKey, Fill, State};
    use tierkv_protocol::cache::{Entry, ValueEntry};
    use tierkv_types::Version;

    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let item = key("a");
    let cache_key = CacheKey {
        item: item.as_bytes(),
        slot_revision: 1,
    };
    let cluster = ClusterId::new("c1").unwrap();
    let mut found = Vec::new();
    stage.cache.lookup(&cluster, &[cache_key], &mut found).await;
    let State::Leased(lease) = found.pop().unwrap().state else {
        panic!("a lease was due")
    };
    let entry = Entry::Value(ValueEntry {
        version: Version::from_millis(1),
        expires: None,
        filled: Version::from_millis(u64::MAX >> 17),
        value: Bytes::from_static(b"old"),
    });
    assert_eq!(
        stage.cache.fill(cache_key, lease, entry).await,
        Fill::Stored
    );
    stage.put(&item, "new").await;
    stage.cache.lookup(&cluster, &[cache_key], &mut found).await;
    assert!(
        matches!(found.pop().unwrap().state, State::Leased(_)),
        "the entry is still there"
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_no_slot_of_another_cluster_and_nobody_who_knows_better() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::start(dir.path(), &["c1", "c2"]).await;
    let limit = Instant::now() + DEADLINE;
    while stage.vouch("c1").await.is_err() {
        assert!(Instant::now() < limit);
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stage.vouch("c2").await.unwrap_err().code, Code::NotMaster);
    let map = PlacementMap::initial(vec![cluster("c1"), cluster("c2")]).unwrap();
    let ours = |item: &ItemKey| map.owner(item.slot()).0.as_str() == "c1";
    let of = |mine| {
        (0..)
            .map(|n| key(&n.to_string()))
            .find(|item| ours(item) == mine)
            .unwrap()
    };
    let (own, foreign) = (of(true), of(false));
    assert!(stage.read(&own).await.is_ok());
    assert_eq!(
        stage.read(&foreign).await.unwrap_err().code,
        Code::WrongOwner
    );
    let refused = stage
        .change(&foreign, OperationKind::Delete)
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::WrongOwner);
    let newer = Read {
        item_key: own.into(),
        min_version: 0,
        placement_version: 2,
        explain: false,
    };
    let refused = stage.call(request::Kind::Read(newer)).await.unwrap_err();
    assert_eq!(refused.code, Code::WrongOwner);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_master_neither_writes_nor_confirms_before_its_waiting_time_is_over() {
    let dir = TempDir::new().unwrap();
    let started = Instant::now();
    let stage = Stage::start(dir.path(), &["c1"]).await;
    let refused = stage
        .change(&key("a"), OperationKind::Delete)
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::NotMaster);
    while stage.vouch("c1").await.is_err() {
        sleep(Duration::from_millis(5)).await;
    }
    assert!(
        started.elapsed() >= Duration::from_millis(1_050),
        "REP-WAIT"
    );
    stage.stop().await;
}

/// Starts a node that must give up, and returns its words.
async fn gives_up(dir: &Path) -> String {
    let stage = Stage::start(dir, &["c1"]).await;
    timeout(DEADLINE, stage.node.failed())
        .await
        .expect("the node went on")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_log_is_not_the_one_listed_gives_up_in_words() {
    let dir = TempDir::new().unwrap();
    Stage::ready(dir.path()).await.stop().await;
    std::fs::remove_dir_all(dir.path().join("n1")).unwrap();
    let why = gives_up(dir.path()).await;
    assert!(
        why.contains("lists no log") && why.contains("bring the right one back"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_saw_more_than_coordination_knows_gives_up_in_words() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let Stage {
        node,
        coordination,
        cache,
        connection,
    } = stage;
    drop((cache, connection));
    node.stop().await.unwrap();
    drop(coordination);
    std::fs::remove_dir_all(dir.path().join("coordination")).unwrap();
    let why = gives_up(dir.path()).await;
    assert!(
        why.contains("wiped") && why.contains("bring it back"),
        "{why}"
    );
}

fn request_id(age_millis: i64) -> RequestId {
    RequestId {
        birth_millis: SystemClock.wall_millis().saturating_add_signed(-age_millis),
        random: rand::random(),
    }
}

fn put(value: &str, ttl: Option<Duration>) -> OperationKind {
    OperationKind::Put {
        value: Bytes::copy_from_slice(value.as_bytes()),
        ttl,
    }
}

/// I8, and over a restart too: outcomes come from the store and from the log's tail.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_applied_once_whenever_it_is_repeated() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let (a, b) = (key("a"), key("b"));
    let (writing, deleting, missing) = (request_id(0), request_id(0), request_id(0));
    let first = stage.write(&a, put("one", None), writing).await.unwrap();
    let second = stage.put(&a, "two").await;
    let again = stage.write(&a, put("one", None), writing).await.unwrap();
    assert_eq!(again, first, "a repeated write was applied again");
    let other = stage.write(&a, put("other", None), writing).await;
    assert_eq!(other.unwrap_err().code, Code::InvalidArgument);

    let deleted = stage
        .write(&a, OperationKind::Delete, deleting)
        .await
        .unwrap();
    assert_eq!(existed(&deleted), [true]);
    let absent = stage
        .write(&b, OperationKind::Delete, missing)
        .await
        .unwrap();
    assert_eq!(existed(&absent), [false]);
    stage.put(&a, "three").await;
    stage.put(&b, "three").await;
    stage.stop().await;

    let stage = Stage::ready(dir.path()).await;
    let again = stage.write(&a, OperationKind::Delete, deleting).await;
    assert_eq!(again.unwrap(), deleted);
    let again = stage.write(&b, OperationKind::Delete, missing).await;
    assert_eq!(again.unwrap(), absent);
    let again = stage.write(&a, put("one", None), writing).await;
    assert_eq!(again.unwrap(), first);
    for item in [&a, &b] {
        let read = stage.read(item).await.unwrap();
        assert_eq!(&read.value[..], b"three");
        assert!(read.version > second);
    }
    stage.stop().await;
}

/// What is forgotten must be refused, else it could be applied again (TXN-IDS).
#[tokio::test(flavor = "multi_thread")]
async fn requests_of_another_time_are_refused() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let a = key("a");
    for age_millis in [121_000, -15_000] {
        let refused = stage
            .write(&a, put("x", None), request_id(age_millis))
            .await;
        assert_eq!(refused.unwrap_err().code, Code::InvalidArgument);
    }
    assert!(!stage.read(&a).await.unwrap().found);
    for age_millis in [110_000, -5_000] {
        let taken = stage
            .write(&a, put("x", None), request_id(age_millis))
            .await;
        assert!(taken.is_ok());
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_hidden_at_once_and_reclaimed_through_the_log() {
    let dir = TempDir::new().unwrap();
    let stage = Stage::ready(dir.path()).await;
    let (short, long) = (key("short"), key("long"));
    let ttl = Duration::from_millis(400);
    let written = stage
        .write(&short, put("x", Some(ttl)), request_id(0))
        .await;
    let version = written.unwrap().version;
    let hour = Some(Duration::from_secs(3_600));
    stage
        .write(&long, put("y", hour), request_id(0))
        .await
        .unwrap();
    let read = stage.read(&short).await.unwrap();
    assert_eq!(read.expires >> 16, (version >> 16) + 400);
    let deadline = Instant::now() + DEADLINE;
    let mut before = read;
    loop {
        let read = stage.read(&short).await.unwrap();
        assert_eq!(
            read.found,
            read.clock < before.expires,
            "it expires by the cluster clock"
        );
        if !read.found {
            break;
        }
        assert!(Instant::now() < deadline, "it did not expire");
        before = read;
        sleep(Duration::from_millis(20)).await;
    }
    // A deletion finds nothing, though the key is still in the log and the store.
    let absent = stage.change(&short, OperationKind::Delete).await.unwrap();
    assert_eq!(existed(&absent), [false]);
    stage
        .write(&short, put("z", Some(ttl)), request_id(0))
        .await
        .unwrap();
    // The master's own record raises the version up to which absence is known.
    loop {
        let read = stage.read(&short).await.unwrap();
        if !read.found && read.version > before.expires && stage.log_index().await > 5 {
            break;
        }
        assert!(Instant::now() < deadline, "it was not reclaimed");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(stage.read(&long).await.unwrap().found);
    stage.stop().await;

    let stage = Stage::ready(dir.path()).await;
    assert!(!stage.read(&short).await.unwrap().found);
    let read = stage.read(&long).await.unwrap();
    assert!(read.found && read.expires > 0);
    stage.stop().await;
}
