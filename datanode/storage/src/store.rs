//! The interface of a data node's store: a checkpoint of the log, read on misses in memory.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[cfg(any(test, feature = "conformance"))]
pub mod delegate;
#[cfg(any(test, feature = "conformance"))]
mod memory;
pub(crate) mod sqlite;

use std::{fmt, path::Path};

use async_trait::async_trait;
use bytes::Bytes;
use tierkv_types::{
    Incarnation, ItemKey, ItemRange, LogId, Position, RequestId, Version, limits::MAX_OPEN_SCANS,
};

#[cfg(any(test, feature = "conformance"))]
pub use self::memory::{MemoryFile, MemoryStore};
pub use self::sqlite::SqliteStore;
#[cfg(test)]
pub(crate) use self::sqlite::tamper;
pub(crate) use self::sqlite::{StoreFound, examine, set_aside};
use crate::{
    Entry, Item, Outcome, Row, StorageError, Table,
    state::{Progress, epochs_from_rows},
};

/// Most snapshots of a store open at once.
pub const OPEN_SNAPSHOTS: usize = MAX_OPEN_SCANS;
/// Most snapshots of the whole of a store open at once.
pub const NODE_SNAPSHOTS: usize = 1;

/// The state of the log that a store holds, replaced by each checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreMeta {
    /// The log whose checkpoint this is; 0 if there was none yet.
    pub log_id: LogId,
    /// The last record whose effect is stored.
    pub applied: Position,
    /// At least the highest version stored.
    pub clock: Version,
}

impl StoreMeta {
    /// The state of a store of this log once it has everything that was folded.
    pub(crate) const fn at(log_id: LogId, progress: &Progress) -> Self {
        Self {
            log_id,
            applied: progress.position,
            clock: progress.clock,
        }
    }
}

/// The content of a store without items, tombstones and outcomes, for a start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreState {
    /// The state of the log that the store holds.
    pub meta: StoreMeta,
    /// The rows of all small tables, sorted by table and key; each has a value.
    pub rows: Vec<Row>,
}

impl StoreState {
    /// Whether a snapshot was being installed and the installation did not end. The store has
    /// then an arbitrary part of a state, which must not be used.
    #[must_use]
    pub fn is_installing(&self) -> bool {
        self.rows.iter().any(|row| row.table == Table::INSTALLING)
    }

    /// The progress after which records are to be folded; `path` is the store's.
    ///
    /// # Errors
    /// `Damaged` if the rows of the epochs are damaged.
    pub(crate) fn progress(&self, path: &Path) -> Result<Progress, StorageError> {
        let epochs = epochs_from_rows(&self.rows);
        Ok(Progress {
            position: self.meta.applied,
            clock: self.meta.clock,
            epochs: epochs.map_err(|error| error.in_store(path))?,
        })
    }
}

/// What one checkpoint writes, atomically.
#[derive(Clone, Debug, Default)]
pub struct CheckpointBatch {
    /// The state of the log that the store holds afterwards.
    pub meta: StoreMeta,
    /// Keys with their state after their last change. No key twice.
    pub changes: Vec<(ItemKey, Entry)>,
    /// Tombstones up to this version are removed, those of this batch too.
    pub forgotten: Option<Version>,
    /// Rows of small tables that changed since the last checkpoint. A row without a value
    /// is removed, if it is there. No row twice.
    pub rows: Vec<Row>,
    /// Requests that were applied since the last checkpoint, in that order. The key of an
    /// outcome is `id.random`: it replaces an earlier outcome with the same random part,
    /// whatever its birth.
    pub outcomes: Vec<(RequestId, Outcome)>,
    /// Outcomes of requests born before this millisecond may be removed.
    pub request_horizon: u64,
}

/// The result of verifying some rows of a store.
#[derive(Debug, Default)]
pub struct ScrubbedRows {
    /// The number of rows.
    pub rows: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The last row's key, to continue after. `None` if there are no more.
    pub last: Option<ItemKey>,
    /// The damaged rows.
    pub damage: Vec<StorageError>,
}

/// A data node's store. The suite in `conformance` tests what each must do.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Makes `incarnation` the only run of a process that may write. Writes of earlier
    /// incarnations are refused from now on, on any machine. Returns the store's state with the
    /// rows of small tables.
    ///
    /// # Errors
    /// `Damaged`, `Newer`, and failures of the database.
    async fn claim(&self, incarnation: Incarnation) -> Result<StoreState, StorageError>;

    /// What each of `keys` holds, in their order. Every row's checksum is verified.
    ///
    /// # Errors
    /// `Damaged` names the row; failures of the database.
    async fn get_many(&self, keys: &[ItemKey]) -> Result<Vec<Option<Item>>, StorageError>;

    /// A snapshot of a range, read while checkpoints go on. At most [`OPEN_SNAPSHOTS`] may be
    /// open at once, each for a bounded time, because the store grows meanwhile.
    ///
    /// # Errors
    /// `Busy` if too many are open; failures of the database.
    async fn snapshot(&self, range: &ItemRange) -> Result<Box<dyn StoreSnapshot>, StorageError>;

    /// A snapshot of everything in the store, cut into pieces of about `piece_bytes`, read while
    /// checkpoints go on. At most [`NODE_SNAPSHOTS`] may be open at once, beside the others, each
    /// for as long as its reader takes: the store keeps in bounds what that costs.
    ///
    /// # Errors
    /// `Busy` if too many are open; `NoSpace` and failures of the database.
    async fn node_snapshot(
        &self,
        piece_bytes: usize,
    ) -> Result<Box<dyn StoreNodeSnapshot>, StorageError>;

    /// The outcome of every applied request, unordered: for each `id.random` the one applied
    /// last. Some may be older than the last horizon.
    ///
    /// # Errors
    /// `Damaged`, and failures of the database.
    async fn outcomes(&self) -> Result<Vec<(RequestId, Outcome)>, StorageError>;

    /// Up to `limit` keys that expire at `now` or earlier, with the versions that wrote them,
    /// in the order of their expiry.
    ///
    /// # Errors
    /// Failures of the database.
    async fn expired(
        &self,
        now: Version,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Version)>, StorageError>;

    /// The version of the oldest tombstone, if there is any.
    ///
    /// # Errors
    /// Failures of the database.
    async fn oldest_tombstone(&self) -> Result<Option<Version>, StorageError>;

    /// Verifies up to `limit` rows of keys after `after`, in the store's order.
    ///
    /// # Errors
    /// `Damaged` if rows can't be read at all, and failures of the database. Rows that can be
    /// read and are damaged are in the result.
    async fn scrub(
        &self,
        after: Option<ItemKey>,
        limit: usize,
    ) -> Result<ScrubbedRows, StorageError>;

    /// Writes a batch in one transaction, which is durable on return. Must not be
    /// cancelled.
    ///
    /// # Errors
    /// `Superseded` if another incarnation has claimed the store; `NoSpace` and `Busy`, after
    /// which nothing was written and a retry is possible; failures of the database.
    async fn checkpoint(
        &self,
        incarnation: Incarnation,
        batch: CheckpointBatch,
    ) -> Result<(), StorageError>;

    /// Removes everything in the store and marks it as being installed, in one transaction, which
    /// is durable on return. Cheap, however much it had.
    ///
    /// Afterwards the store has the default [`StoreMeta`] and one row, [`Table::INSTALLING`].
    /// Checkpoints with that meta then write the new state piece by piece, and the last one, which
    /// sets the meta, removes the row. Must not be cancelled.
    ///
    /// # Errors
    /// Those of [`Store::checkpoint`].
    async fn begin_install(&self, incarnation: Incarnation) -> Result<(), StorageError>;

    /// Closes the store; it must not be used afterwards.
    async fn close(&self);
}

/// The whole of a store at one moment, read once from its start to its end. Dropping it frees what
/// it takes.
#[async_trait]
pub trait StoreNodeSnapshot: fmt::Debug + Send + 'static {
    /// The state of the log that the snapshot holds.
    fn meta(&self) -> &StoreMeta;

    /// Waits until every row was read and verified. Safe to cancel.
    ///
    /// # Errors
    /// Those of [`StoreNodeSnapshot::next`].
    async fn verified(&mut self) -> Result<(), StorageError>;

    /// The next piece (the module `piece` has their format and order); `None` after the last one.
    /// Every row's checksum is verified.
    ///
    /// # Errors
    /// `Damaged` names the row; `Exhausted` if the store grew too much because of the snapshot;
    /// failures of the database. There are no more after an error.
    async fn next(&mut self) -> Result<Option<Bytes>, StorageError>;
}

/// A range of a store at one moment, read once from its start to its end. Dropping it ends
/// the transaction.
#[async_trait]
pub trait StoreSnapshot: fmt::Debug + Send + 'static {
    /// The next rows in key order: at least one, until they have `bytes` together; none at the
    /// end. Every row's checksum is verified.
    ///
    /// # Errors
    /// `Damaged` names the row; failures of the database.
    async fn next(&mut self, bytes: usize) -> Result<Vec<(ItemKey, Item)>, StorageError>;

    /// Counts the remaining rows that are not expired at `now`; the snapshot is at its end
    /// then. Values are not read.
    ///
    /// # Errors
    /// Failures of the database.
    async fn count(&mut self, now: Version) -> Result<u64, StorageError>;

    /// Counts those of `keys`, no key twice, that have a row not expired at `now`, read before
    /// or not.
    ///
    /// # Errors
    /// Failures of the database.
    async fn count_among(&mut self, keys: &[ItemKey], now: Version) -> Result<u64, StorageError>;
}
