//! The SQL side of a data node: a checkpoint of the log, and what memory does not hold.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[cfg(any(test, feature = "conformance"))]
pub mod delegate;
#[cfg(any(test, feature = "conformance"))]
mod memory;
pub(crate) mod sqlite;

use std::{fmt, path::Path};

use async_trait::async_trait;
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
    Entry, Item, Outcome, Row, StorageError,
    state::{EpochTable, Progress},
};

/// Most snapshots of a store that are open at once.
pub const OPEN_SNAPSHOTS: usize = MAX_OPEN_SCANS;

/// Where a store stands, replaced whole by each checkpoint.
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
    /// Where a store of this log stands once it has all that was folded.
    pub(crate) const fn at(log_id: LogId, progress: &Progress) -> Self {
        Self {
            log_id,
            applied: progress.position,
            clock: progress.clock,
        }
    }
}

/// What a store holds beside items, tombstones and outcomes, as a start finds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreState {
    /// Where the store stands.
    pub meta: StoreMeta,
    /// The rows of all small tables, sorted by table and key; each has a value.
    pub rows: Vec<Row>,
}

impl StoreState {
    /// From where records are to be folded on; `path` is the store's.
    ///
    /// # Errors
    /// `Damaged` if the rows of the epochs are not what was written.
    pub(crate) fn progress(&self, path: &Path) -> Result<Progress, StorageError> {
        let epochs = EpochTable::from_rows(&self.rows);
        Ok(Progress {
            position: self.meta.applied,
            clock: self.meta.clock,
            epochs: epochs.map_err(|error| error.in_store(path))?,
        })
    }
}

/// What one checkpoint writes, all or nothing.
#[derive(Clone, Debug, Default)]
pub struct CheckpointBatch {
    /// Where the store stands afterwards.
    pub meta: StoreMeta,
    /// Keys with what their last change left behind. No key twice.
    pub changes: Vec<(ItemKey, Entry)>,
    /// Tombstones up to this version go, those of this batch too.
    pub forgotten: Option<Version>,
    /// Rows of small tables that changed since the last checkpoint. A row without a value
    /// is removed, if it is there. No row twice.
    pub rows: Vec<Row>,
    /// Requests that were applied since the last checkpoint, in the order in which they
    /// were applied. The key of an outcome is `id.random`: one with the same random part
    /// replaces an earlier one, whatever its birth.
    pub outcomes: Vec<(RequestId, Outcome)>,
    /// Requests that were born before this millisecond may go.
    pub request_horizon: u64,
}

/// Some rows of a store that were verified.
#[derive(Debug, Default)]
pub struct ScrubbedRows {
    /// How many there were.
    pub rows: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The last of them: where to go on. `None` if there are no more.
    pub last: Option<ItemKey>,
    /// Which of them are not as they were written.
    pub damage: Vec<StorageError>,
}

/// A data node's store. The suite in `conformance` says what each must do.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Makes `incarnation` the only run of a process that may write, and returns where
    /// the store stands, with the rows of small tables. Earlier ones are refused from now
    /// on, wherever they are.
    ///
    /// # Errors
    /// `Damaged`, `Newer`, and failures of the database.
    async fn claim(&self, incarnation: Incarnation) -> Result<StoreState, StorageError>;

    /// What each of `keys` holds, in their order. Every row's checksum is verified.
    ///
    /// # Errors
    /// `Damaged` names the row; failures of the database.
    async fn get_many(&self, keys: &[ItemKey]) -> Result<Vec<Option<Item>>, StorageError>;

    /// What it holds of a range now, to be read while checkpoints go on. At most
    /// [`OPEN_SNAPSHOTS`] are to be open at once, each for a bounded time: what is written
    /// meanwhile takes more room.
    ///
    /// # Errors
    /// `Busy` if too many are open; failures of the database.
    async fn snapshot(&self, range: &ItemRange) -> Result<Box<dyn StoreSnapshot>, StorageError>;

    /// The outcome of every applied request, in no order: one for each `id.random`, the one
    /// that was applied last. Some of them may be older than the last horizon.
    ///
    /// # Errors
    /// `Damaged`, and failures of the database.
    async fn outcomes(&self) -> Result<Vec<(RequestId, Outcome)>, StorageError>;

    /// Up to `limit` keys that expire at `now` or earlier, with the versions that wrote
    /// them; those that expired first come first.
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
    /// `Damaged` if rows can't be read at all, and failures of the database; rows that
    /// can be read and are damaged are in the answer.
    async fn scrub(
        &self,
        after: Option<ItemKey>,
        limit: usize,
    ) -> Result<ScrubbedRows, StorageError>;

    /// Writes a batch in one transaction, which is durable on return. Must not be
    /// cancelled.
    ///
    /// # Errors
    /// `Superseded` if another incarnation has claimed the store; `NoSpace` and `Busy`
    /// wrote nothing and may be tried again; failures of the database.
    async fn checkpoint(
        &self,
        incarnation: Incarnation,
        batch: CheckpointBatch,
    ) -> Result<(), StorageError>;

    /// Closes the store; nothing may be asked of it afterwards.
    async fn close(&self);
}

/// A range of a store as it was at one moment, read once from its start to its end. It ends
/// when it is dropped.
#[async_trait]
pub trait StoreSnapshot: fmt::Debug + Send + 'static {
    /// The next rows in the order of their keys: at least one, and no more once they have
    /// `bytes` together; none at the end. Every row's checksum is verified.
    ///
    /// # Errors
    /// `Damaged` names the row; failures of the database.
    async fn next(&mut self, bytes: usize) -> Result<Vec<(ItemKey, Item)>, StorageError>;

    /// How many rows from here on are not expired at `now`; it is at its end then. Their
    /// values are not read.
    ///
    /// # Errors
    /// Failures of the database.
    async fn count(&mut self, now: Version) -> Result<u64, StorageError>;

    /// How many of `keys`, no key twice, have a row that is not expired at `now`, wherever
    /// they are.
    ///
    /// # Errors
    /// Failures of the database.
    async fn count_among(&mut self, keys: &[ItemKey], now: Version) -> Result<u64, StorageError>;
}
