//! The faulty store's client for one life of a node.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use tierkv_coordination::{
    Candidacy, ConfigStore, CoordinationError, GroupMembership, Leader, LeaderElection, Membership,
    Revision, Swap, Versioned, Watch, Watched,
};
use tokio::sync::watch;

use super::FaultyCoordination;

/// One life's client of the store.
#[derive(Debug)]
pub(in crate::simulation) struct Client {
    /// One for each record.
    stores: Vec<Arc<FaultyCoordination>>,
    life: u64,
    /// The presences of data nodes: none, ever.
    present: watch::Sender<Arc<BTreeMap<String, Bytes>>>,
    observed: Watched<BTreeMap<String, Bytes>>,
}

impl Client {
    pub(super) fn new(stores: Vec<Arc<FaultyCoordination>>, life: u64) -> Self {
        let (present, observed) = Watched::channel(BTreeMap::new());
        Self {
            stores,
            life,
            present,
            observed,
        }
    }

    /// The store of a record.
    fn store(&self, key: &str) -> Result<&Arc<FaultyCoordination>, CoordinationError> {
        let store = self.stores.iter().find(|store| store.key == key);
        store.ok_or_else(|| {
            CoordinationError::InvalidArgument(format!("{key} is no simulated record"))
        })
    }

    async fn swap(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: Option<Bytes>,
    ) -> Result<Swap, CoordinationError> {
        let store = self.store(key)?;
        let flight = store.send(self.life, expected, value);
        store.wait().await;
        let answer = store.settle(&flight);
        store.wait().await;
        answer
    }
}

#[async_trait]
impl ConfigStore for Client {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, CoordinationError> {
        let store = self.store(key)?;
        store.wait().await;
        let found = store.read(self.life);
        store.wait().await;
        found
    }

    async fn put_if_absent(&self, key: &str, value: Bytes) -> Result<Swap, CoordinationError> {
        self.swap(key, None, Some(value)).await
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Revision,
        value: Bytes,
    ) -> Result<Swap, CoordinationError> {
        self.swap(key, Some(expected), Some(value)).await
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Swap, CoordinationError> {
        self.swap(key, Some(expected), None).await
    }
}

#[async_trait]
impl Watch for Client {
    async fn watch(&self, key: &str) -> Result<Watched<Option<Versioned>>, CoordinationError> {
        let store = self.store(key)?;
        store.wait().await;
        let watched = store.follow(self.life);
        store.wait().await;
        watched
    }

    async fn watch_prefix(
        &self,
        _: &str,
    ) -> Result<Watched<BTreeMap<String, Versioned>>, CoordinationError> {
        Err(not_simulated())
    }
}

#[async_trait]
impl GroupMembership for Client {
    async fn join(&self, _: &str, _: &str, _: Bytes) -> Result<Membership, CoordinationError> {
        Err(not_simulated())
    }

    async fn list(&self, _: &str) -> Result<BTreeMap<String, Bytes>, CoordinationError> {
        Err(not_simulated())
    }

    async fn observe(
        &self,
        _: &str,
    ) -> Result<Watched<BTreeMap<String, Bytes>>, CoordinationError> {
        debug_assert!(!self.present.is_closed(), "the client keeps one receiver");
        Ok(self.observed.clone())
    }
}

#[async_trait]
impl LeaderElection for Client {
    async fn nominate(&self, _: &str, _: &str, _: Bytes) -> Result<Candidacy, CoordinationError> {
        Err(not_simulated())
    }

    async fn observe_leader(&self, _: &str) -> Result<Watched<Option<Leader>>, CoordinationError> {
        Err(not_simulated())
    }
}

/// The error of calls that the node's driver never makes.
fn not_simulated() -> CoordinationError {
    CoordinationError::Unavailable(
        "the simulated store has one record: no prefixes and no elections".into(),
    )
}
