//! A store in memory: rows that a checkpoint changes at one moment, durable at once.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use tierkv_storage::{
    Entry, Item, Outcome, ScrubbedRows, StorageError, Store,
    store::{CheckpointBatch, StoreMeta, StoreSnapshot},
};
use tierkv_types::{Incarnation, ItemKey, ItemRange, RequestId, Version};

/// What such a store holds; it outlives the process. Clones are the same file.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryFile(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    incarnation: Option<Incarnation>,
    meta: StoreMeta,
    rows: BTreeMap<ItemKey, Entry>,
    outcomes: BTreeMap<[u8; 16], (u64, Outcome)>,
}

/// A store in a [`MemoryFile`].
#[derive(Debug)]
pub(super) struct MemoryStore(MemoryFile);

impl MemoryStore {
    pub(super) fn open(file: &MemoryFile) -> Self {
        Self(file.clone())
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.0.lock().unwrap()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn claim(&self, incarnation: Incarnation) -> Result<StoreMeta, StorageError> {
        let mut content = self.content();
        content.incarnation = Some(incarnation);
        Ok(content.meta.clone())
    }

    async fn get_many(&self, keys: &[ItemKey]) -> Result<Vec<Option<Item>>, StorageError> {
        let content = self.content();
        let found = keys
            .iter()
            .map(|key| content.rows.get(key)?.item().cloned());
        Ok(found.collect())
    }

    async fn snapshot(&self, _: &ItemRange) -> Result<Box<dyn StoreSnapshot>, StorageError> {
        Err(StorageError::Busy)
    }

    async fn outcomes(&self) -> Result<Vec<(RequestId, Outcome)>, StorageError> {
        let content = self.content();
        let outcomes = content.outcomes.iter();
        let outcomes = outcomes.map(|(random, (birth_millis, outcome))| {
            let id = RequestId {
                birth_millis: *birth_millis,
                random: *random,
            };
            (id, outcome.clone())
        });
        Ok(outcomes.collect())
    }

    async fn expired(
        &self,
        now: Version,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Version)>, StorageError> {
        let content = self.content();
        let items = content
            .rows
            .iter()
            .filter_map(|(key, entry)| Some((key, entry.item()?)));
        let mut expired: Vec<(Version, ItemKey, Version)> = items
            .filter_map(|(key, item)| Some((item.expires?, key.clone(), item.version)))
            .filter(|(expires, ..)| *expires <= now)
            .collect();
        expired.sort_unstable();
        let first = expired.into_iter().take(limit);
        Ok(first.map(|(_, key, version)| (key, version)).collect())
    }

    async fn oldest_tombstone(&self) -> Result<Option<Version>, StorageError> {
        let content = self.content();
        let tombstones = content.rows.values().filter_map(|entry| match entry {
            Entry::Tombstone(version) => Some(*version),
            Entry::Value(_) => None,
        });
        Ok(tombstones.min())
    }

    async fn scrub(&self, _: Option<ItemKey>, _: usize) -> Result<ScrubbedRows, StorageError> {
        Ok(ScrubbedRows::default())
    }

    async fn checkpoint(
        &self,
        incarnation: Incarnation,
        batch: CheckpointBatch,
    ) -> Result<(), StorageError> {
        let mut content = self.content();
        if content.incarnation != Some(incarnation) {
            let dir = PathBuf::from("memory");
            return Err(StorageError::Superseded { dir });
        }
        content.meta = batch.meta;
        content.rows.extend(batch.changes);
        if let Some(up_to) = batch.forgotten {
            content.rows.retain(|_, entry| match entry {
                Entry::Tombstone(version) => *version > up_to,
                Entry::Value(_) => true,
            });
        }
        for (id, outcome) in batch.outcomes {
            content
                .outcomes
                .insert(id.random, (id.birth_millis, outcome));
        }
        let horizon = batch.request_horizon;
        content.outcomes.retain(|_, (birth, _)| *birth >= horizon);
        Ok(())
    }

    async fn close(&self) {}
}
