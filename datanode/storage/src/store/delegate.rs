//! A wrapper around a store, for tests: a test writes only the methods that it changes.

use std::fmt;

use async_trait::async_trait;
use tierkv_types::{Incarnation, ItemKey, ItemRange, RequestId, Version};

use super::{CheckpointBatch, Store, StoreNodeSnapshot, StoreSnapshot, StoreState};
use crate::{Item, Outcome, ScrubbedRows, StorageError};

/// A wrapper around a store. Each method of [`Store`] calls the inner store unless it is
/// overridden.
#[async_trait]
#[allow(missing_docs, clippy::missing_errors_doc)] // They are those of `Store`.
pub trait Around: fmt::Debug + Send + Sync + 'static {
    /// The store inside.
    fn inner(&self) -> &dyn Store;

    async fn claim(&self, incarnation: Incarnation) -> Result<StoreState, StorageError> {
        self.inner().claim(incarnation).await
    }

    async fn get_many(&self, keys: &[ItemKey]) -> Result<Vec<Option<Item>>, StorageError> {
        self.inner().get_many(keys).await
    }

    async fn snapshot(&self, range: &ItemRange) -> Result<Box<dyn StoreSnapshot>, StorageError> {
        self.inner().snapshot(range).await
    }

    async fn node_snapshot(
        &self,
        piece_bytes: usize,
    ) -> Result<Box<dyn StoreNodeSnapshot>, StorageError> {
        self.inner().node_snapshot(piece_bytes).await
    }

    async fn outcomes(&self) -> Result<Vec<(RequestId, Outcome)>, StorageError> {
        self.inner().outcomes().await
    }

    async fn expired(
        &self,
        now: Version,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Version)>, StorageError> {
        self.inner().expired(now, limit).await
    }

    async fn oldest_tombstone(&self) -> Result<Option<Version>, StorageError> {
        self.inner().oldest_tombstone().await
    }

    async fn scrub(
        &self,
        after: Option<ItemKey>,
        limit: usize,
    ) -> Result<ScrubbedRows, StorageError> {
        self.inner().scrub(after, limit).await
    }

    async fn checkpoint(
        &self,
        incarnation: Incarnation,
        batch: CheckpointBatch,
    ) -> Result<(), StorageError> {
        self.inner().checkpoint(incarnation, batch).await
    }

    async fn begin_install(&self, incarnation: Incarnation) -> Result<(), StorageError> {
        self.inner().begin_install(incarnation).await
    }

    async fn close(&self) {
        self.inner().close().await;
    }
}

/// The store made of a wrapper.
#[derive(Debug)]
pub struct Wrapped<A>(pub A);

#[async_trait]
impl<A: Around> Store for Wrapped<A> {
    async fn claim(&self, incarnation: Incarnation) -> Result<StoreState, StorageError> {
        self.0.claim(incarnation).await
    }

    async fn get_many(&self, keys: &[ItemKey]) -> Result<Vec<Option<Item>>, StorageError> {
        self.0.get_many(keys).await
    }

    async fn snapshot(&self, range: &ItemRange) -> Result<Box<dyn StoreSnapshot>, StorageError> {
        self.0.snapshot(range).await
    }

    async fn node_snapshot(
        &self,
        piece_bytes: usize,
    ) -> Result<Box<dyn StoreNodeSnapshot>, StorageError> {
        self.0.node_snapshot(piece_bytes).await
    }

    async fn outcomes(&self) -> Result<Vec<(RequestId, Outcome)>, StorageError> {
        self.0.outcomes().await
    }

    async fn expired(
        &self,
        now: Version,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Version)>, StorageError> {
        self.0.expired(now, limit).await
    }

    async fn oldest_tombstone(&self) -> Result<Option<Version>, StorageError> {
        self.0.oldest_tombstone().await
    }

    async fn scrub(
        &self,
        after: Option<ItemKey>,
        limit: usize,
    ) -> Result<ScrubbedRows, StorageError> {
        self.0.scrub(after, limit).await
    }

    async fn checkpoint(
        &self,
        incarnation: Incarnation,
        batch: CheckpointBatch,
    ) -> Result<(), StorageError> {
        self.0.checkpoint(incarnation, batch).await
    }

    async fn begin_install(&self, incarnation: Incarnation) -> Result<(), StorageError> {
        self.0.begin_install(incarnation).await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}
