//! Heartbeat rounds wait for no other part of the node.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use tempfile::TempDir;
use tierkv_cache::EmbeddedCache;
use tierkv_coordination::MemoryCoordination;
use tierkv_datanode::{DataNode, DataNodeSettings};
use tierkv_rpc::{
    Multiplexer,
    proto::internal::{InspectRequest, data_node_client::DataNodeClient},
};
use tierkv_storage::StorageSettings;
use tierkv_types::{ClusterId, NodeId, PlatformId, SystemClock};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    faulty_cache::{Fault, FaultyCache},
    stage::{AheadClock, DEADLINE, Stage, found, key, place, put, to},
};

/// More commits than the invalidator's queue takes.
const COMMITS: u64 = 600;
/// Longer than the test takes.
const INVALIDATION_WAIT: Duration = Duration::from_secs(60);
/// Twenty rounds take a second.
const ROUNDS: u64 = 20;

/// A ready node whose cache answers no delete while `standstill` is true.
async fn stage(dir: &TempDir, standstill: watch::Receiver<bool>) -> Stage {
    let coordination = MemoryCoordination::ephemeral();
    place(&coordination, &["c1"]).await;
    found(&coordination).await;
    let settings = DataNodeSettings {
        invalidation_wait: INVALIDATION_WAIT,
        ..DataNodeSettings::new(
            PlatformId(1),
            NodeId::new("n1").unwrap(),
            ClusterId::new("c1").unwrap(),
            StorageSettings::new(dir.path()),
        )
    };
    let clock = Arc::new(AheadClock::default());
    let cache = Arc::new(EmbeddedCache::new(1 << 20, Arc::new(SystemClock)));
    let faulty = Arc::new(FaultyCache {
        inner: Arc::clone(&cache),
        fault: Fault::Standstill(standstill),
    });
    let node = DataNode::start(settings, coordination.clone(), faulty, clock.clone());
    let node = node.await.unwrap();
    let connection = Multiplexer::new(vec![to(&node)], 1_000);
    let stage = Stage {
        node,
        clock,
        coordination,
        cache,
        connection,
    };
    stage.until_master().await;
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_stands_still_delays_no_heartbeat() {
    let dir = TempDir::new().unwrap();
    let (stand, standstill) = watch::channel(true);
    let stage = stage(&dir, standstill).await;
    let mut client = DataNodeClient::new(to(&stage.node));
    let mut committed = async || {
        let inspected = client.inspect(InspectRequest {}).await.unwrap();
        inspected.into_inner().commit_index
    };
    let limit = Instant::now() + DEADLINE;
    let item = key("a");
    let mut writes = FuturesUnordered::new();
    for _ in 0..COMMITS {
        // Each in a commit of its own.
        let before = committed().await;
        writes.push(stage.change(&item, put("x", None)));
        while committed().await == before {
            assert!(Instant::now() < limit, "commits wait for the cache");
            assert!(
                writes.next().now_or_never().is_none(),
                "a writer does not wait for the cache"
            );
            sleep(Duration::from_millis(1)).await;
        }
    }
    let first = stage.vouch("c1").await.unwrap().round;
    let limit = Instant::now() + DEADLINE;
    while stage.vouch("c1").await.unwrap().round < first + ROUNDS {
        assert!(
            Instant::now() < limit,
            "heartbeat rounds wait for the cache"
        );
        sleep(Duration::from_millis(5)).await;
    }
    assert!(writes.next().now_or_never().is_none(), "the cache is back");

    stand.send_replace(false);
    while let Some(written) = timeout(DEADLINE, writes.next()).await.unwrap() {
        written.unwrap();
    }
    drop(writes);
    stage.stop().await;
}
