//! Reads at the members of a cluster of three, through the interface of server coordinators.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use tempfile::TempDir;
use tierkv_cache::EmbeddedCache;
use tierkv_coordination::{ConfigStore, MemoryCoordination, Swap, directory};
use tierkv_datanode::{DataNode, DataNodeSettings};
use tierkv_protocol::replication::{ClusterState, DEFAULT_F_MS};
use tierkv_rpc::{
    CallError, Multiplexer,
    proto::internal::{self, Read, ReadReply, reply, request},
    tiers::ToDataNode,
};
use tierkv_storage::StorageSettings;
use tierkv_types::{
    Clock, ClusterId, Code, Error, ItemKey, NodeId, Operation, OperationKind, PlatformId,
    SystemClock, Version, WriteRequest,
};
use tokio::time::{Instant, sleep};

use crate::stage::{DEADLINE, key, place, put, request_id, to};

const BOUND_MS: u32 = 5_000;

/// Three nodes of one cluster.
struct Trio {
    nodes: Vec<DataNode>,
    connections: Vec<Multiplexer<ToDataNode>>,
    _dir: TempDir,
}

impl Trio {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let coordination = MemoryCoordination::open(&dir.path().join("coordination")).unwrap();
        place(&coordination, &["c1"]).await;
        let cluster = ClusterId::new("c1").unwrap();
        let names = ["n1", "n2", "n3"].map(|name| NodeId::new(name).unwrap());
        let first = ClusterState::unfounded(names.to_vec(), DEFAULT_F_MS).encode();
        let record = directory::cluster_state(&cluster);
        let founded = coordination.put_if_absent(&record, first).await.unwrap();
        assert!(matches!(founded, Swap::Won(_)));
        let cache = Arc::new(EmbeddedCache::new(1 << 20, Arc::new(SystemClock)));
        let nodes = names.map(|name| {
            let storage = StorageSettings::new(dir.path().join(name.as_str()));
            let settings = DataNodeSettings::new(PlatformId(1), name, cluster.clone(), storage);
            let (coordination, cache) = (coordination.clone(), Arc::clone(&cache));
            async { DataNode::start(settings, coordination, cache, Arc::new(SystemClock)).await }
        });
        let nodes = join_all(nodes).await;
        let nodes: Vec<DataNode> = nodes.into_iter().map(Result::unwrap).collect();
        let connections = nodes
            .iter()
            .map(|node| Multiplexer::new(vec![to(node)], 1_000));
        let trio = Self {
            connections: connections.collect(),
            nodes,
            _dir: dir,
        };
        trio.until_all_serve().await;
        trio
    }

    /// Waits until each member answers reads with a bound.
    async fn until_all_serve(&self) {
        let limit = Instant::now() + DEADLINE;
        for at in 0..3 {
            while self.read(at, bounded("a")).await.is_err() {
                assert!(Instant::now() < limit, "node {at} serves nothing");
                sleep(Duration::from_millis(10)).await;
            }
        }
    }

    async fn call(&self, at: usize, kind: request::Kind) -> Result<reply::Kind, Error> {
        let answer = self.connections[at].call(kind, Instant::now() + DEADLINE);
        answer.await.map_err(CallError::for_write)
    }

    async fn read(&self, at: usize, read: Read) -> Result<ReadReply, Error> {
        match self.call(at, request::Kind::Read(read)).await? {
            reply::Kind::Read(answer) => Ok(answer),
            other => panic!("{other:?}"),
        }
    }

    /// Writes at the master; returns the version and the master's place.
    async fn write(&self, item: &ItemKey, kind: OperationKind) -> (u64, usize) {
        let limit = Instant::now() + DEADLINE;
        let name = request_id(0);
        loop {
            for at in 0..3 {
                let write = internal::Write::from_request(WriteRequest {
                    name: name.into(),
                    conditions: Vec::new(),
                    operations: vec![Operation {
                        key: item.clone(),
                        kind: kind.clone(),
                    }],
                    return_previous: false,
                });
                match self.call(at, request::Kind::Write(write)).await {
                    Ok(reply::Kind::Write(answer)) => return (answer.version, at),
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => assert_eq!(error.code, Code::NotMaster, "{error}"),
                }
            }
            assert!(Instant::now() < limit, "no node is master");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn stop(self) {
        let stopped = join_all(self.nodes.into_iter().map(DataNode::stop)).await;
        stopped.into_iter().for_each(Result::unwrap);
    }
}

/// What the cluster's clock shows now.
fn clock() -> u64 {
    Version::from_millis(SystemClock.wall_millis()).to_bits()
}

fn latest(item: &str) -> Read {
    Read {
        item_key: key(item).into(),
        ..Read::default()
    }
}

fn bounded(item: &str) -> Read {
    Read {
        max_staleness_ms: BOUND_MS,
        clock: clock(),
        ..latest(item)
    }
}

fn filling(item: &str) -> Read {
    Read {
        fills: true,
        ..bounded(item)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_member_answers_within_the_bound_and_with_its_age() {
    let trio = Trio::start().await;
    let (version, master) = trio.write(&key("a"), put("one", None)).await;
    for at in 0..3 {
        let limit = Instant::now() + DEADLINE;
        let read = loop {
            let read = trio.read(at, bounded("a")).await.unwrap();
            assert!(!read.confirmed, "nobody has to prove anything for it");
            assert!((1..=BOUND_MS).contains(&read.age_ms), "{}", read.age_ms);
            assert_eq!(read.from_replica, at != master);
            if read.version == version {
                break read;
            }
            assert!(Instant::now() < limit, "node {at} does not apply");
        };
        assert_eq!((read.found, &read.value[..]), (true, &b"one"[..]));
    }
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn confirmed_reads_see_every_acknowledged_write_at_each_member() {
    let trio = Trio::start().await;
    let mut confirmed = [0; 3];
    for n in 0..40 {
        let item = format!("k{}", n % 4);
        let (version, master) = trio.write(&key(&item), put("value", None)).await;
        for (at, confirmed) in confirmed.iter_mut().enumerate() {
            let newest = trio.read(at, latest(&item)).await.unwrap();
            assert_eq!((newest.version, newest.confirmed), (version, true));
            assert_eq!((newest.age_ms, newest.from_replica), (0, at != master));
            let fill = trio.read(at, filling(&item)).await.unwrap();
            // On a slow machine a proof may take too long.
            if fill.confirmed {
                assert_eq!((fill.version, fill.age_ms), (version, 0));
                *confirmed += 1;
            }
        }
    }
    assert!(confirmed.iter().all(|count| *count > 10), "{confirmed:?}");
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_wait_together_share_a_question() {
    let trio = Trio::start().await;
    let (version, _) = trio.write(&key("a"), put("one", None)).await;
    let reads = (0..900).map(|n| trio.read(n % 3, latest("a")));
    for read in join_all(reads).await {
        let read = read.unwrap();
        assert_eq!((read.version, read.confirmed), (version, true));
    }
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_refuses_what_it_can_not_vouch_for() {
    let trio = Trio::start().await;
    let (version, master) = trio.write(&key("a"), put("one", None)).await;
    let replica = (master + 1) % 3;
    let unapplied = Read {
        min_version: Version::from_bits(version).after(DEADLINE).to_bits(),
        ..bounded("a")
    };
    // With a proof that comes soon, the replica knows as well as the master that there is no such
    // version.
    let refused = trio.read(replica, unapplied.clone()).await.unwrap_err();
    let is_refused = matches!(refused.code, Code::NotMaster | Code::InvalidArgument);
    assert!(is_refused, "{refused}");
    let refused = trio.read(master, unapplied).await.unwrap_err();
    assert_eq!(refused.code, Code::InvalidArgument, "{refused}");
    let moved = Read {
        placement_version: 7,
        ..bounded("a")
    };
    let refused = trio.read(replica, moved).await.unwrap_err();
    assert_eq!(refused.code, Code::WrongOwner, "{refused}");
    // It does not show that the replica's machine was not paused.
    let timeless = Read {
        clock: 0,
        ..bounded("a")
    };
    let refused = trio.read(replica, timeless.clone()).await.unwrap_err();
    assert_eq!(refused.code, Code::NotMaster, "{refused}");
    // The master has a proof instead.
    let read = trio.read(master, timeless).await.unwrap();
    assert_eq!((read.version, read.confirmed), (version, true));
    trio.stop().await;
}

/// A replica hears of a commit up to a heartbeat later, so a session reads too early there.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_reads_its_own_write_at_a_replica() {
    const WRITES: usize = 50;
    let trio = Trio::start().await;
    let mut proven = 0;
    for n in 0..WRITES {
        let value = n.to_string();
        let (version, master) = trio.write(&key("a"), put(&value, None)).await;
        let own = Read {
            min_version: version,
            ..bounded("a")
        };
        match trio.read((master + 1) % 3, own).await {
            Ok(read) => {
                assert_eq!((read.version, &read.value[..]), (version, value.as_bytes()));
                assert!(read.from_replica);
                proven += usize::from(read.confirmed);
            }
            // On a machine that has other work, no proof came soon enough.
            Err(refused) => assert_eq!(refused.code, Code::NotMaster, "{refused}"),
        }
    }
    assert!(proven > 0, "none of {WRITES} reads waited for its write");
    trio.stop().await;
}

/// To a machine that was paused, the others' time is suddenly later.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_pause_ages_begin_anew() {
    let trio = Trio::start().await;
    let (_, master) = trio.write(&key("a"), put("one", None)).await;
    let pause = Duration::from_secs(3_600);
    let later = Read {
        clock: Version::from_bits(clock()).after(pause).to_bits(),
        ..bounded("a")
    };
    for at in 0..3 {
        let read = trio.read(at, later.clone()).await;
        if at == master {
            assert!(read.unwrap().confirmed, "it needs a proof now");
        } else {
            assert_eq!(read.unwrap_err().code, Code::NotMaster);
        }
    }
    trio.until_all_serve().await;
    for at in 0..3 {
        let read = trio.read(at, later.clone()).await.unwrap();
        assert!(!read.confirmed, "it was noticed once");
    }
    trio.stop().await;
}

/// No read of any member shows a key again that an earlier one has seen expired.
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_does_not_come_back() {
    let trio = Trio::start().await;
    for n in 0..5 {
        let item = format!("k{n}");
        let ttl = Some(Duration::from_millis(150));
        let (version, master) = trio.write(&key(&item), put("brief", ttl)).await;
        let limit = Instant::now() + DEADLINE;
        let mut first = n % 3;
        // A node that has applied the write does not find the key.
        let is_over = |read: Result<ReadReply, Error>| read.is_ok_and(|read| !read.found);
        loop {
            let applied = Read {
                min_version: version,
                ..bounded(&item)
            };
            if is_over(trio.read(first, applied).await) {
                break;
            }
            assert!(Instant::now() < limit, "it never expires");
            first = (first + 1) % 3;
        }
        for at in 0..3 {
            let newest = trio.read(at, latest(&item)).await.unwrap();
            assert!(
                !newest.found,
                "node {first} saw it expired, node {at} did not"
            );
        }
        let read = trio.read(master, latest(&item)).await.unwrap();
        assert!(!read.found);
    }
    trio.stop().await;
}
