//! [`FaultyCache`]: an embedded cache with a fault.

use std::{future::pending, sync::Arc};

use tierkv_cache::{Cache, CacheKey, EmbeddedCache, Fill, Found, Lease, NodeReport, Undelivered};
use tierkv_protocol::cache::{Entry, Mark};
use tierkv_types::ClusterId;
use tokio::sync::watch;

pub(crate) enum Fault {
    /// A bug: it panics when it is asked what a new master asks first.
    Panic,
    /// It answers no delete until this is false.
    Standstill(watch::Receiver<bool>),
}

pub(crate) struct FaultyCache {
    pub(crate) inner: Arc<EmbeddedCache>,
    pub(crate) fault: Fault,
}

impl Cache for FaultyCache {
    async fn holds_anything(&self) -> bool {
        match self.fault {
            Fault::Panic => panic!("this panic is part of a test"),
            Fault::Standstill(_) => self.inner.holds_anything().await,
        }
    }

    async fn delete(&self, keys: &[CacheKey<'_>]) -> Result<(), Undelivered> {
        if let Fault::Standstill(stands) = &self.fault
            && stands.clone().wait_for(|stands| !stands).await.is_err()
        {
            // The test is over.
            return pending().await;
        }
        self.inner.delete(keys).await
    }

    async fn lookup(&self, cluster: &ClusterId, keys: &[CacheKey<'_>], results: &mut Vec<Found>) {
        self.inner.lookup(cluster, keys, results).await;
    }

    async fn fill(&self, key: CacheKey<'_>, lease: Lease, entry: Entry) -> Fill {
        self.inner.fill(key, lease, entry).await
    }

    async fn release(&self, key: CacheKey<'_>, lease: Lease) {
        self.inner.release(key, lease).await;
    }

    async fn write_mark(&self, cluster: &ClusterId, mark: Mark) -> Result<(), Undelivered> {
        self.inner.write_mark(cluster, mark).await
    }

    async fn read_marks(&self, cluster: &ClusterId) -> Vec<(String, Option<Mark>)> {
        self.inner.read_marks(cluster).await
    }

    fn node_of(&self, key: CacheKey<'_>) -> &str {
        self.inner.node_of(key)
    }

    async fn nodes(&self) -> Vec<NodeReport> {
        self.inner.nodes().await
    }
}
