//! [`NodeSnapshot`]: a node's whole state at one moment, for another node.
//!
//! The moment is a checkpoint taken for it: the store's own state at its applied index is one cut
//! through all parts of the state. So nothing is merged from memory, and no pinned entry is kept
//! for as long as the transfer takes. The store limits what else a transfer costs it (SQLite: see
//! `store::sqlite::spool`).
//!
//! Node snapshots and snapshots of ranges (`snapshot`) have separate places and limits, and do not
//! wait for each other.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    Cursor, StorageError,
    core::Core,
    store::{NODE_SNAPSHOTS, StoreNodeSnapshot},
};

/// A node's whole state at one moment, in pieces that an [`Installation`](crate::Installation)
/// takes: what each key holds (expired values, too), tombstones, the outcomes of requests, and the
/// rows of the small tables.
#[derive(Debug)]
pub struct NodeSnapshot {
    cut: Cursor,
    store: Box<dyn StoreNodeSnapshot>,
    _place: OwnedSemaphorePermit,
}

impl NodeSnapshot {
    /// Takes a place among the open node snapshots.
    pub(crate) fn enter(core: &Core) -> Result<OwnedSemaphorePermit, StorageError> {
        let place = Arc::clone(&core.node_snapshots).try_acquire_owned();
        place.map_err(|_| StorageError::TooManyOpen {
            limit: "node_snapshots",
            count: NODE_SNAPSHOTS,
        })
    }

    /// Opens a snapshot of what the store holds.
    pub(crate) async fn open(
        core: &Core,
        place: OwnedSemaphorePermit,
        piece_bytes: usize,
    ) -> Result<Self, StorageError> {
        let store = core.store.node_snapshot(piece_bytes).await?;
        let meta = store.meta();
        Ok(Self {
            cut: Cursor {
                position: meta.applied,
                // Each checkpoint stores the version of its last record.
                version: meta.clock,
            },
            store,
            _place: place,
        })
    }

    /// The last record whose effects it has.
    #[must_use]
    pub const fn cut(&self) -> Cursor {
        self.cut
    }

    /// Waits until everything that it will return was read from the store and verified. Safe to
    /// cancel.
    ///
    /// # Errors
    /// Those of [`NodeSnapshot::next`].
    pub async fn verified(&mut self) -> Result<(), StorageError> {
        self.store.verified().await
    }

    /// The next piece; `None` after the last one. Safe to cancel.
    ///
    /// # Errors
    /// `Damaged` if a stored row is not what was written, `NoSpace`, `Exhausted` if the store grew
    /// too much during the snapshot, `Closed`, and failures of the store. There are no more pieces
    /// after an error; the transfer begins anew with another snapshot.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        self.store.next().await
    }
}
