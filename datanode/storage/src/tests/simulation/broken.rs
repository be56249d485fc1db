//! Each rule switched off is caught by the seeds that every run goes through.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use tierkv_types::{Incarnation, ItemKey, ItemRange};

use super::{
    SEEDS, first_broken,
    script::{Broken, Script},
};
use crate::{
    Entry, Item, StorageError,
    disk::Tear,
    locked,
    store::{
        CheckpointBatch, Store, StoreSnapshot,
        delegate::{Around, Wrapped},
    },
};

async fn is_caught(broken: Broken) {
    let script = Script::broken(Tear::InOrder, broken);
    let found = first_broken(0..SEEDS / 2, script).await;
    let (seed, violation) = found.expect_err(&format!("{broken:?} went unnoticed"));
    println!("{broken:?} is caught by seed {seed}: {violation}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_not_synced_is_caught() {
    is_caught(Broken::LogSync).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_segments_that_are_not_synced_are_caught() {
    is_caught(Broken::LogNames).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_state_that_is_not_synced_is_caught() {
    is_caught(Broken::NodeStateSync).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_not_synced_is_caught() {
    is_caught(Broken::StoreSync).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trimming_the_log_before_the_checkpoint_is_durable_is_caught() {
    is_caught(Broken::EarlyTrim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applying_before_the_commit_is_caught() {
    is_caught(Broken::EarlyApply).await;
}

/// A store that reports a checkpoint as durable while it is still in memory. Its answers are
/// right as long as the power stays on.
#[derive(Debug)]
pub(super) struct LateStore {
    store: Arc<dyn Store>,
    late: Mutex<Option<(Incarnation, CheckpointBatch)>>,
}

impl LateStore {
    pub(super) fn over(store: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(Wrapped(Self {
            store,
            late: Mutex::new(None),
        }))
    }

    async fn catch_up(&self) -> Result<(), StorageError> {
        let late = locked(&self.late).clone();
        if let Some((incarnation, batch)) = late {
            self.store.checkpoint(incarnation, batch).await?;
            *locked(&self.late) = None;
        }
        Ok(())
    }
}

#[async_trait]
impl Around for LateStore {
    fn inner(&self) -> &dyn Store {
        &*self.store
    }

    async fn get_many(&self, keys: &[ItemKey]) -> Result<Vec<Option<Item>>, StorageError> {
        let mut found = self.store.get_many(keys).await?;
        let late: HashMap<ItemKey, Entry> = match &*locked(&self.late) {
            Some((_, batch)) => batch.changes.iter().cloned().collect(),
            None => HashMap::new(),
        };
        for (key, found) in keys.iter().zip(&mut found) {
            if let Some(entry) = late.get(key) {
                *found = entry.item().cloned();
            }
        }
        Ok(found)
    }

    async fn snapshot(&self, range: &ItemRange) -> Result<Box<dyn StoreSnapshot>, StorageError> {
        self.catch_up().await?;
        self.store.snapshot(range).await
    }

    async fn checkpoint(
        &self,
        incarnation: Incarnation,
        batch: CheckpointBatch,
    ) -> Result<(), StorageError> {
        self.catch_up().await?;
        *locked(&self.late) = Some((incarnation, batch));
        Ok(())
    }

    async fn close(&self) {
        // An orderly stop writes everything: only a power cut finds the mistake.
        drop(self.catch_up().await);
        self.store.close().await;
    }
}
