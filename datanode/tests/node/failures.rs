//! A node without one of its tasks stops and reports why, instead of leaving requests unanswered.

use std::sync::Arc;

use tempfile::TempDir;
use tierkv_cache::EmbeddedCache;
use tierkv_coordination::MemoryCoordination;
use tierkv_datanode::{DataNode, DataNodeSettings};
use tierkv_storage::StorageSettings;
use tierkv_types::{ClusterId, NodeId, PlatformId, SystemClock};
use tokio::time::timeout;

use super::{
    faulty_cache::{Fault, FaultyCache},
    stage::{DEADLINE, found},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_task_is_the_nodes_failure() {
    let dir = TempDir::new().unwrap();
    let settings = DataNodeSettings::new(
        PlatformId(1),
        NodeId::new("n1").unwrap(),
        ClusterId::new("c1").unwrap(),
        StorageSettings::new(dir.path()),
    );
    let clock = Arc::new(SystemClock);
    let cache = FaultyCache {
        inner: Arc::new(EmbeddedCache::new(1 << 20, clock.clone())),
        fault: Fault::Panic,
    };
    let coordination = MemoryCoordination::ephemeral();
    found(&coordination).await;
    let node = DataNode::start(settings, coordination, Arc::new(cache), clock);
    let node = node.await.unwrap();
    let why = timeout(DEADLINE, node.failed())
        .await
        .expect("the node went on without its invalidator");
    assert!(
        why.contains("the data node's invalidator panicked"),
        "{why}"
    );
    node.stop().await.unwrap();
}
