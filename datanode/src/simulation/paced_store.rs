//! A store with delayed answers, so that checkpoints overtake reads, and with checkpoints that
//! find the database busy or the disk full.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use tierkv_storage::{
    Item, Outcome, ScrubbedRows, StorageError, Store,
    store::{CheckpointBatch, StoreMeta, StoreNodeSnapshot, StoreSnapshot, StoreState},
};
use tierkv_types::{Incarnation, ItemKey, ItemRange, RequestId, Version};

use super::{chance::Chance, pace::Pace, trace::Trace};

/// The faults, each in checkpoints of a hundred, and the delays.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoreFaults {
    /// Checkpoints that are refused because something else holds the database.
    pub(super) busy: u32,
    /// Checkpoints that are refused because the disk is full.
    pub(super) full: u32,
    /// The delay of a call before it takes effect, and again before its answer.
    pub(super) pace: Pace,
}

impl StoreFaults {
    pub(super) const NONE: Self = Self {
        busy: 0,
        full: 0,
        pace: Pace::PROMPT,
    };
}

/// Read by every call; the world keeps a handle to change the faults.
#[derive(Debug)]
pub(super) struct StoreWeather {
    chance: Chance,
    trace: Trace,
    faults: Mutex<StoreFaults>,
}

impl StoreWeather {
    pub(super) fn new(seed: u64, faults: StoreFaults, trace: Trace) -> Arc<Self> {
        Arc::new(Self {
            chance: Chance::of(seed, "store"),
            trace,
            faults: Mutex::new(faults),
        })
    }

    /// Changes the faults from here on.
    pub(super) fn set_faults(&self, faults: StoreFaults) {
        *self.faults.lock().unwrap() = faults;
    }

    async fn wait(&self) {
        let pace = self.faults.lock().unwrap().pace;
        pace.wait(&self.chance).await;
    }

    /// Waits, runs `call`, notes its name in the trace, and waits again.
    async fn around<T>(&self, name: &str, call: impl Future<Output = T>) -> T {
        self.wait().await;
        let answer = call.await;
        self.trace.note(format_args!("store: {name}"));
        self.wait().await;
        answer
    }

    /// Whether a checkpoint is refused, with nothing written.
    fn refusal(&self) -> Option<StorageError> {
        let faults = *self.faults.lock().unwrap();
        if self.chance.percent(faults.busy) {
            return Some(StorageError::Busy);
        }
        let file = PathBuf::from("store");
        (self.chance.percent(faults.full)).then_some(StorageError::NoSpace { file })
    }
}

/// A store with faults and delays. They outlive it: each life of a node has its own wrapper over
/// the same rows.
pub(super) struct PacedStore {
    inner: Arc<dyn Store>,
    weather: Arc<StoreWeather>,
}

impl PacedStore {
    pub(super) fn over(inner: Arc<dyn Store>, weather: Arc<StoreWeather>) -> Arc<dyn Store> {
        Arc::new(Self { inner, weather })
    }
}

impl fmt::Debug for PacedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PacedStore").field(&self.inner).finish()
    }
}

#[async_trait]
impl Store for PacedStore {
    async fn claim(&self, incarnation: Incarnation) -> Result<StoreState, StorageError> {
        let claimed = self.inner.claim(incarnation);
        self.weather.around("claim", claimed).await
    }

    async fn get_many(&self, keys: &[ItemKey]) -> Result<Vec<Option<Item>>, StorageError> {
        let found = self.inner.get_many(keys);
        self.weather.around("get_many", found).await
    }

    async fn snapshot(&self, range: &ItemRange) -> Result<Box<dyn StoreSnapshot>, StorageError> {
        let opened = self.inner.snapshot(range);
        let inner = self.weather.around("snapshot", opened).await?;
        Ok(Box::new(PacedSnapshot {
            inner,
            weather: Arc::clone(&self.weather),
        }))
    }

    async fn node_snapshot(
        &self,
        piece_bytes: usize,
    ) -> Result<Box<dyn StoreNodeSnapshot>, StorageError> {
        let opened = self.inner.node_snapshot(piece_bytes);
        let inner = self.weather.around("node_snapshot", opened).await?;
        Ok(Box::new(PacedNodeSnapshot {
            inner,
            weather: Arc::clone(&self.weather),
        }))
    }

    async fn outcomes(&self) -> Result<Vec<(RequestId, Outcome)>, StorageError> {
        let outcomes = self.inner.outcomes();
        self.weather.around("outcomes", outcomes).await
    }

    async fn expired(
        &self,
        now: Version,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Version)>, StorageError> {
        let expired = self.inner.expired(now, limit);
        self.weather.around("expired", expired).await
    }

    async fn oldest_tombstone(&self) -> Result<Option<Version>, StorageError> {
        let oldest = self.inner.oldest_tombstone();
        self.weather.around("oldest_tombstone", oldest).await
    }

    async fn scrub(
        &self,
        after: Option<ItemKey>,
        limit: usize,
    ) -> Result<ScrubbedRows, StorageError> {
        let scrubbed = self.inner.scrub(after, limit);
        self.weather.around("scrub", scrubbed).await
    }

    async fn checkpoint(
        &self,
        incarnation: Incarnation,
        batch: CheckpointBatch,
    ) -> Result<(), StorageError> {
        let (up_to, changes) = (batch.meta.applied, batch.changes.len());
        let checkpoint = async {
            match self.weather.refusal() {
                Some(refusal) => Err(refusal),
                None => self.inner.checkpoint(incarnation, batch).await,
            }
        };
        let name = format!("checkpoint of {changes} changes up to {up_to}");
        let done = self.weather.around(&name, checkpoint).await;
        if let Err(error) = &done {
            self.weather
                .trace
                .note(format_args!("store: the checkpoint is refused: {error}"));
        }
        done
    }

    async fn begin_install(&self, incarnation: Incarnation) -> Result<(), StorageError> {
        let begin = async {
            match self.weather.refusal() {
                Some(refusal) => Err(refusal),
                None => self.inner.begin_install(incarnation).await,
            }
        };
        self.weather.around("begin_install", begin).await
    }

    async fn close(&self) {
        self.weather.around("close", self.inner.close()).await;
    }
}

#[derive(Debug)]
struct PacedSnapshot {
    inner: Box<dyn StoreSnapshot>,
    weather: Arc<StoreWeather>,
}

#[async_trait]
impl StoreSnapshot for PacedSnapshot {
    async fn next(&mut self, bytes: usize) -> Result<Vec<(ItemKey, Item)>, StorageError> {
        let next = self.inner.next(bytes);
        self.weather.around("snapshot next", next).await
    }

    async fn count(&mut self, now: Version) -> Result<u64, StorageError> {
        let count = self.inner.count(now);
        self.weather.around("snapshot count", count).await
    }

    async fn count_among(&mut self, keys: &[ItemKey], now: Version) -> Result<u64, StorageError> {
        let count = self.inner.count_among(keys, now);
        self.weather.around("snapshot count_among", count).await
    }
}

#[derive(Debug)]
struct PacedNodeSnapshot {
    inner: Box<dyn StoreNodeSnapshot>,
    weather: Arc<StoreWeather>,
}

#[async_trait]
impl StoreNodeSnapshot for PacedNodeSnapshot {
    fn meta(&self) -> &StoreMeta {
        self.inner.meta()
    }

    async fn verified(&mut self) -> Result<(), StorageError> {
        self.inner.verified().await
    }

    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        let next = self.inner.next();
        self.weather.around("node snapshot next", next).await
    }
}

#[cfg(test)]
mod tests;
