//! A store in memory, for simulations: it follows the rules of every store, has no files, and is
//! deterministic.

mod content;

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use tierkv_types::{Incarnation, ItemKey, ItemRange, RequestId, Version};

use self::content::{Content, Items};
use super::{
    CheckpointBatch, NODE_SNAPSHOTS, OPEN_SNAPSHOTS, Store, StoreMeta, StoreNodeSnapshot,
    StoreSnapshot, StoreState,
};
use crate::{Item, Outcome, ScrubbedRows, StorageError, locked};

/// An estimate of a row's bytes beside its key and value.
const ROW_OVERHEAD_BYTES: usize = 64;

/// The content of a [`MemoryStore`], like a file of it. Clones are the same file, and a
/// checkpoint is durable in it at once.
#[derive(Clone, Debug, Default)]
pub struct MemoryFile(Arc<Mutex<Content>>);

impl MemoryFile {
    /// A separate file with a copy of the content.
    #[must_use]
    pub fn fork(&self) -> Self {
        let content = locked(&self.0).clone();
        Self(Arc::new(Mutex::new(content)))
    }
}

/// A store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    file: MemoryFile,
    is_closed: AtomicBool,
    /// Each open snapshot has a clone.
    snapshots: Arc<()>,
    /// Each open snapshot of the whole store has a clone.
    node_snapshots: Arc<()>,
}

impl MemoryStore {
    /// Opens the store in `file`, which may be open elsewhere.
    #[must_use]
    pub fn open(file: &MemoryFile) -> Self {
        Self {
            file: file.clone(),
            is_closed: AtomicBool::new(false),
            snapshots: Arc::new(()),
            node_snapshots: Arc::new(()),
        }
    }

    /// Calls `work` with the file's content, if the store is open.
    fn with<T>(&self, work: impl FnOnce(&mut Content) -> T) -> Result<T, StorageError> {
        match self.is_closed.load(Ordering::Acquire) {
            true => Err(StorageError::Closed),
            false => Ok(work(&mut locked(&self.file.0))),
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn claim(&self, incarnation: Incarnation) -> Result<StoreState, StorageError> {
        self.with(|content| content.claim(incarnation))
    }

    async fn get_many(&self, keys: &[ItemKey]) -> Result<Vec<Option<Item>>, StorageError> {
        self.with(|content| {
            let found = keys.iter().map(|key| content.items.get(key).cloned());
            found.collect()
        })
    }

    async fn snapshot(&self, range: &ItemRange) -> Result<Box<dyn StoreSnapshot>, StorageError> {
        let open = Arc::clone(&self.snapshots);
        if Arc::strong_count(&open) > OPEN_SNAPSHOTS + 1 {
            return Err(StorageError::Busy);
        }
        let items = self.with(|content| Arc::clone(&content.items))?;
        Ok(Box::new(MemorySnapshot {
            items,
            rest: range.clone(),
            _open: open,
        }))
    }

    async fn node_snapshot(
        &self,
        piece_bytes: usize,
    ) -> Result<Box<dyn StoreNodeSnapshot>, StorageError> {
        let open = Arc::clone(&self.node_snapshots);
        if Arc::strong_count(&open) > NODE_SNAPSHOTS + 1 {
            return Err(StorageError::Busy);
        }
        let (meta, pieces) = self.with(|content| content.pieces(piece_bytes))?;
        Ok(Box::new(MemoryNodeSnapshot {
            meta,
            pieces,
            _open: open,
        }))
    }

    async fn outcomes(&self) -> Result<Vec<(RequestId, Outcome)>, StorageError> {
        self.with(|content| content.outcomes())
    }

    async fn expired(
        &self,
        now: Version,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Version)>, StorageError> {
        self.with(|content| content.expired(now, limit))
    }

    async fn oldest_tombstone(&self) -> Result<Option<Version>, StorageError> {
        self.with(|content| content.tombstones.values().min().copied())
    }

    async fn scrub(
        &self,
        after: Option<ItemKey>,
        limit: usize,
    ) -> Result<ScrubbedRows, StorageError> {
        self.with(|content| content.scrub(after.as_ref(), limit))
    }

    async fn checkpoint(
        &self,
        incarnation: Incarnation,
        batch: CheckpointBatch,
    ) -> Result<(), StorageError> {
        let written = self.with(|content| content.checkpoint(incarnation, batch));
        written.and_then(unless_superseded)
    }

    async fn begin_install(&self, incarnation: Incarnation) -> Result<(), StorageError> {
        let begun = self.with(|content| content.begin_install(incarnation));
        begun.and_then(unless_superseded)
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }
}

/// The result of a write of an incarnation that was the last one to claim the store, or not.
fn unless_superseded(is_written: bool) -> Result<(), StorageError> {
    match is_written {
        true => Ok(()),
        false => Err(StorageError::Superseded {
            dir: Path::new("memory").to_owned(),
        }),
    }
}

/// A snapshot of everything, cut into pieces when it was opened.
#[derive(Debug)]
struct MemoryNodeSnapshot {
    meta: StoreMeta,
    pieces: VecDeque<Bytes>,
    _open: Arc<()>,
}

#[async_trait]
impl StoreNodeSnapshot for MemoryNodeSnapshot {
    fn meta(&self) -> &StoreMeta {
        &self.meta
    }

    async fn verified(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        Ok(self.pieces.pop_front())
    }
}

/// A snapshot of a range: it shares the rows with the store until the next write.
#[derive(Debug)]
struct MemorySnapshot {
    items: Arc<Items>,
    /// The range that was not returned yet.
    rest: ItemRange,
    _open: Arc<()>,
}

#[async_trait]
impl StoreSnapshot for MemorySnapshot {
    async fn next(&mut self, bytes: usize) -> Result<Vec<(ItemKey, Item)>, StorageError> {
        let mut found: Vec<(ItemKey, Item)> = Vec::new();
        let mut gathered = 0;
        for (key, item) in content::within(&self.items, &self.rest) {
            gathered += key.as_bytes().len() + item.value.len() + ROW_OVERHEAD_BYTES;
            found.push((key.clone(), item.clone()));
            if gathered >= bytes {
                break;
            }
        }
        if let Some((last, _)) = found.last() {
            self.rest = self.rest.after(last);
        }
        Ok(found)
    }

    async fn count(&mut self, now: Version) -> Result<u64, StorageError> {
        let (mut live, mut last) = (0, None);
        for (key, item) in content::within(&self.items, &self.rest) {
            live += u64::from(item.is_live(now));
            last = Some(key);
        }
        if let Some(last) = last {
            self.rest = self.rest.after(last);
        }
        Ok(live)
    }

    async fn count_among(&mut self, keys: &[ItemKey], now: Version) -> Result<u64, StorageError> {
        let items = keys.iter().filter_map(|key| self.items.get(key));
        Ok(items.filter(|item| item.is_live(now)).count() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store::conformance::{self, StoreBackend};

    /// The files, by their names.
    #[derive(Default)]
    struct Files(Mutex<BTreeMap<String, MemoryFile>>);

    #[async_trait]
    impl StoreBackend for Files {
        async fn open(&self, name: &str) -> Arc<dyn Store> {
            let mut files = locked(&self.0);
            let file = files.entry(name.to_owned()).or_default();
            Arc::new(MemoryStore::open(file))
        }
    }

    #[tokio::test]
    async fn the_store_in_memory_keeps_the_rules_of_a_store() {
        conformance::run(&Files::default()).await;
    }

    #[tokio::test]
    async fn a_closed_one_answers_nothing_and_a_fork_goes_its_own_way() {
        let file = MemoryFile::default();
        let store = MemoryStore::open(&file);
        store.claim(Incarnation(1)).await.unwrap();
        let fork = file.fork();
        let other = MemoryStore::open(&fork);
        other.claim(Incarnation(2)).await.unwrap();
        let batch = CheckpointBatch::default();
        store
            .checkpoint(Incarnation(1), batch.clone())
            .await
            .unwrap();
        other.checkpoint(Incarnation(2), batch).await.unwrap();
        store.close().await;
        let refused = store.outcomes().await;
        assert!(matches!(refused, Err(StorageError::Closed)), "{refused:?}");
    }

    #[tokio::test]
    async fn no_more_snapshots_are_open_than_the_limit() {
        let store = MemoryStore::open(&MemoryFile::default());
        let range = ItemRange::of_prefix("n", b"").unwrap();
        let mut open = Vec::new();
        for _ in 0..OPEN_SNAPSHOTS {
            open.push(store.snapshot(&range).await.unwrap());
        }
        let refused = store.snapshot(&range).await;
        assert!(matches!(refused, Err(StorageError::Busy)), "{refused:?}");
        open.pop();
        store.snapshot(&range).await.unwrap();
    }
}
