//! A node without one of its tasks stops and reports why, instead of leaving requests unanswered.

use std::sync::Arc;

use tempfile::TempDir;
use tierkv_cache::{Cache, CacheKey, EmbeddedCache, Fill, Found, Lease, NodeReport, Undelivered};
use tierkv_coordination::MemoryCoordination;
use tierkv_datanode::{DataNode, DataNodeSettings};
use tierkv_protocol::cache::{Entry, Mark};
use tierkv_storage::StorageSettings;
use tierkv_types::{ClusterId, NodeId, PlatformId, SystemClock};
use tokio::time::timeout;

use super::stage::{DEADLINE, found};

/// A cache with a bug: it panics when it is asked what a new master asks first.
struct PanickingCache(EmbeddedCache);

impl Cache for PanickingCache {
    async fn holds_anything(&self) -> bool {
        panic!("this panic is part of a test")
    }

    async fn lookup(&self, cluster: &ClusterId, keys: &[CacheKey<'_>], results: &mut Vec<Found>) {
        self.0.lookup(cluster, keys, results).await;
    }

    async fn fill(&self, key: CacheKey<'_>, lease: Lease, entry: Entry) -> Fill {
        self.0.fill(key, lease, entry).await
    }

    async fn release(&self, key: CacheKey<'_>, lease: Lease) {
        self.0.release(key, lease).await;
    }

    async fn delete(&self, keys: &[CacheKey<'_>]) -> Result<(), Undelivered> {
        self.0.delete(keys).await
    }

    async fn write_mark(&self, cluster: &ClusterId, mark: Mark) -> Result<(), Undelivered> {
        self.0.write_mark(cluster, mark).await
    }

    async fn read_marks(&self, cluster: &ClusterId) -> Vec<(String, Option<Mark>)> {
        self.0.read_marks(cluster).await
    }

    fn node_of(&self, key: CacheKey<'_>) -> &str {
        self.0.node_of(key)
    }

    async fn nodes(&self) -> Vec<NodeReport> {
        self.0.nodes().await
    }
}

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
    let cache = PanickingCache(EmbeddedCache::new(1 << 20, clock.clone()));
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
