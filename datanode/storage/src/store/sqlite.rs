//! The embedded store: SQLite, one file, one writer and a pool of readers.
//!
//! Tables (schema version 6, kept in `user_version`; 64-bit numbers are stored as
//! SQLite's signed ones, bit for bit):
//!
//! ```text
//! item(key blob, slot, version, expires or null, hash blob, value blob)
//! meta(id = 1, incarnation, log_id, applied_epoch, applied_index, clock, checksum,
//!      row_sum blob)
//! state_row(table_number, key blob, value blob, checksum)     the small tables
//! tombstone(key blob, version, checksum)
//! outcome(id, newest, entries blob, checksum)                 the outcomes of requests
//! ```
//!
//! - `slot` is the number of the key's [`Slot`](tierkv_types::Slot), `hash` the
//!   [`ItemHash`](crate::ItemHash) of the row. There is no index on slots.
//! - The checksum of meta is the CRC-32C of its columns but the id and the incarnation.
//!   `row_sum` is the sum of the hashes of all rows of small tables (`state_rows`).
//!
//! Hashes and checksums are verified on every read: SQLite itself has none. An earlier
//! schema is upgraded when the store is opened.
//!
//! SQLite reads and writes through our [`Disk`], with a checksum in every page, so that
//! LOG-DISK and the detection of damage hold for the store as for the log.
//!
//! Reading order: `vfs` (SQLite's files), `errors`, `connect`, `format` (the file before
//! SQLite opens it), `rebuild` (of files without checksums), `wal` (checks the write-ahead
//! file at a start), `prepare` (all steps before SQLite opens the file), `schema`,
//! `upgrade` (from schema 3 to 4; `earlier_meta`), `meta`, `state_rows`, `item_row`, `rows`
//! (with `sizes`), `tombstones`, `outcomes`, `item_pages`, `snapshot`, `spool` and
//! `node_snapshot` (the whole store), `emptying`, `examine`.

mod connect;
mod earlier_meta;
mod emptying;
mod errors;
mod examine;
mod format;
mod item_pages;
mod item_row;
mod meta;
mod node_snapshot;
mod outcomes;
mod prepare;
mod rebuild;
mod rows;
mod schema;
mod sizes;
mod snapshot;
mod spool;
mod state_rows;
mod tombstones;
mod upgrade;
mod vfs;
mod wal;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use sqlx::{
    Connection, Sqlite, SqliteConnection, SqlitePool,
    pool::PoolConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};
use tierkv_types::{Incarnation, ItemKey, ItemRange, RequestId, Version};
use tokio::time::{sleep, timeout};

pub(crate) use self::examine::{StoreFound, examine, set_aside};
#[cfg(test)]
pub(crate) use self::tests::tamper;
use self::{
    connect::connect_options,
    errors::failure,
    node_snapshot::{MAX_HELD_BYTES, SqliteNodeSnapshot},
    snapshot::{ROWS_AHEAD, SqliteSnapshot},
    vfs::{
        registry,
        volume::{PageFormat, Volume},
    },
};
use super::{
    CheckpointBatch, NODE_SNAPSHOTS, OPEN_SNAPSHOTS, Store, StoreNodeSnapshot, StoreSnapshot,
    StoreState,
};
use crate::{Disk, Item, Outcome, ScrubbedRows, StorageError, WalSync, locked};

/// Most concurrent reads.
const READERS: u32 = 8;
/// Most open snapshots, of ranges and of the whole store; storage asks for no more.
#[allow(clippy::cast_possible_truncation)] // It is a small number.
const SNAPSHOTS: u32 = (OPEN_SNAPSHOTS + NODE_SNAPSHOTS) as u32;
/// The page cache of a snapshot's connection, which reads most pages once.
const SNAPSHOT_CACHE_KIB: &str = "-512";
/// How long a snapshot's connection, with its thread, waits for the next snapshot.
const SNAPSHOT_IDLE_TIME: Duration = Duration::from_secs(30);
/// How long a read waits for a free connection when no more can be opened, and how often it
/// checks.
const READER_PATIENCE: Duration = Duration::from_secs(1);
const READER_RETRY: Duration = Duration::from_millis(2);
/// Pages of the write-ahead file after which SQLite writes them back to the database (80 MB).
const WAL_PAGES: u32 = 20_000;
/// The size to which the write-ahead file is cut after that.
const WAL_KEPT_BYTES: &str = "67108864";

/// The store in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    readers: SqlitePool,
    /// Each open snapshot has its own connection while it lives, so that reads do not wait for
    /// snapshots.
    snapshots: SqlitePool,
    /// One connection: SQLite has one writer at a time anyway, and here writers wait in order.
    writer: SqlitePool,
    /// `None` after close: another process may then use the files.
    volume: Mutex<Option<Arc<Volume>>>,
    /// Bytes of the write-ahead file over which the copy of a node snapshot is given up.
    held_bytes: u64,
}

impl SqliteStore {
    /// Opens the store in `path` on `disk`; creates or upgrades it as needed.
    ///
    /// # Errors
    /// `Newer` if a newer release has upgraded it, `Damaged` if it is no store of a data node or
    /// is damaged, and failures of the disk and of SQLite.
    pub async fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        sync: WalSync,
    ) -> Result<Self, StorageError> {
        Self::open_folding(disk, path, sync, WAL_PAGES).await
    }

    /// Opens the store; its write-ahead file is written back once it has `wal_pages`.
    async fn open_folding(
        disk: Arc<dyn Disk>,
        path: &Path,
        sync: WalSync,
        wal_pages: u32,
    ) -> Result<Self, StorageError> {
        // If the file is open already it was checked before, and is being written now.
        if !registry::is_open(&*disk, path) {
            prepare::prepare(&disk, path, sync).await?;
        }
        let volume = registry::enter(&disk, path, PageFormat::Checked, sync);
        let failed = |error| volume.explain(failure(path, "open", error));
        let options = connect_options(path, &volume, sync)?
            .journal_mode(SqliteJournalMode::Wal)
            .pragma("wal_autocheckpoint", wal_pages.to_string())
            .pragma("journal_size_limit", WAL_KEPT_BYTES)
            // Else statements of many rows write their undo data to other files.
            .pragma("temp_store", "MEMORY");
        // A small read-ahead, because an upgrade reads all values.
        let writing = options.clone().row_buffer_size(ROWS_AHEAD);
        let writer = pool().max_connections(1).connect_with(writing);
        let writer = writer.await.map_err(failed)?;
        if let Err(error) = upgrade_schema(path, &writer).await {
            let error = volume.explain(error);
            // Closing removes what the attempt left in the write-ahead file.
            writer.close().await;
            return Err(error);
        }
        let readers = pool().max_connections(READERS);
        let options = options.read_only(true);
        let readers = readers.connect_with(options.clone());
        let readers = readers.await.map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            readers,
            snapshots: snapshot_pool(options),
            writer,
            volume: Mutex::new(Some(volume)),
            held_bytes: MAX_HELD_BYTES,
        })
    }

    async fn write(
        &self,
        connection: &mut SqliteConnection,
        incarnation: Incarnation,
        batch: &CheckpointBatch,
    ) -> Result<(), StorageError> {
        let failed = |error| failure(&self.path, "write a checkpoint", error);
        let mut transaction = connection
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(failed)?;
        let (meta, rows) = (&batch.meta, &batch.rows);
        let is_ours = meta::write(&self.path, &mut transaction, incarnation, meta, rows);
        if !is_ours.await? {
            return Err(self.superseded());
        }
        rows::write(&mut transaction, &batch.changes)
            .await
            .map_err(failed)?;
        if let Some(up_to) = batch.forgotten {
            let forgotten = tombstones::forget(&mut transaction, up_to).await;
            forgotten.map_err(failed)?;
        }
        outcomes::write(&mut transaction, &batch.outcomes, batch.request_horizon)
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }

    fn superseded(&self) -> StorageError {
        StorageError::Superseded {
            dir: self.path.parent().unwrap_or(&self.path).to_owned(),
        }
    }

    /// A connection for a read, once one is free. If no more can be opened because all
    /// descriptors are in use, it is an open one.
    async fn reader(&self) -> Result<PoolConnection<Sqlite>, StorageError> {
        let failed = |error| failure(&self.path, "read", error);
        let acquired = self.explained(self.readers.acquire().await.map_err(failed));
        let Err(shortage @ StorageError::NoDescriptors { .. }) = acquired else {
            return acquired;
        };
        let freed = async {
            loop {
                if let Some(reader) = self.readers.try_acquire() {
                    return reader;
                }
                sleep(READER_RETRY).await;
            }
        };
        timeout(READER_PATIENCE, freed).await.map_err(|_| shortage)
    }

    /// The result of a transaction, with the disk's error. SQLite does not report a failure to
    /// write the write-ahead file back, but a failed write or sync there is final like any other.
    fn written<T>(&self, done: Result<T, StorageError>) -> Result<T, StorageError> {
        let fatal = self.volume().and_then(|open| open.fatal());
        match fatal {
            Some(error) => Err(error),
            None => self.explained(done),
        }
    }

    /// The same, if nothing was written.
    fn explained<T>(&self, done: Result<T, StorageError>) -> Result<T, StorageError> {
        done.map_err(|error| match self.volume() {
            Some(open) => open.explain(error),
            None => error,
        })
    }

    fn volume(&self) -> Option<Arc<Volume>> {
        locked(&self.volume).clone()
    }
}

/// Brings the store to the newest schema.
async fn upgrade_schema(path: &Path, writer: &SqlitePool) -> Result<(), StorageError> {
    let connection = writer.acquire().await;
    let mut connection = connection.map_err(|error| failure(path, "open", error))?;
    schema::migrate(path, &mut connection).await
}

/// Connections that stay open and are not tested before each use: the file is our own.
fn pool() -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
}

/// The connections of snapshots, which are opened when they are needed.
fn snapshot_pool(options: SqliteConnectOptions) -> SqlitePool {
    let options = options
        .row_buffer_size(ROWS_AHEAD)
        .pragma("cache_size", SNAPSHOT_CACHE_KIB);
    pool()
        .max_connections(SNAPSHOTS)
        .idle_timeout(SNAPSHOT_IDLE_TIME)
        .connect_lazy_with(options)
}

#[async_trait]
impl Store for SqliteStore {
    async fn claim(&self, incarnation: Incarnation) -> Result<StoreState, StorageError> {
        let failed = |error| failure(&self.path, "claim it", error);
        let claimed = async {
            let mut connection = self.writer.acquire().await.map_err(failed)?;
            let mut transaction = connection
                .begin_with("BEGIN IMMEDIATE")
                .await
                .map_err(failed)?;
            let found = meta::claim(&self.path, &mut transaction, incarnation).await?;
            transaction.commit().await.map_err(failed)?;
            Ok(found)
        };
        self.written(claimed.await)
    }

    async fn get_many(&self, keys: &[ItemKey]) -> Result<Vec<Option<Item>>, StorageError> {
        let mut connection = self.reader().await?;
        let read = rows::read(&self.path, &mut connection, keys).await;
        self.explained(read)
    }

    async fn snapshot(&self, range: &ItemRange) -> Result<Box<dyn StoreSnapshot>, StorageError> {
        let volume = self.volume().ok_or(StorageError::Closed)?;
        let path = self.path.clone();
        let opened = SqliteSnapshot::open(path, volume, &self.snapshots, range.clone());
        Ok(Box::new(opened.await?))
    }

    async fn node_snapshot(
        &self,
        piece_bytes: usize,
    ) -> Result<Box<dyn StoreNodeSnapshot>, StorageError> {
        let volume = self.volume().ok_or(StorageError::Closed)?;
        let (path, pool) = (self.path.clone(), &self.snapshots);
        let opened = SqliteNodeSnapshot::open(path, volume, pool, piece_bytes, self.held_bytes);
        Ok(Box::new(opened.await?))
    }

    async fn outcomes(&self) -> Result<Vec<(RequestId, Outcome)>, StorageError> {
        let mut connection = self.reader().await?;
        let read = outcomes::read(&self.path, &mut connection).await;
        self.explained(read)
    }

    async fn expired(
        &self,
        now: Version,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Version)>, StorageError> {
        let mut connection = self.reader().await?;
        let found = rows::expired(&self.path, &mut connection, now, limit).await;
        self.explained(found)
    }

    async fn oldest_tombstone(&self) -> Result<Option<Version>, StorageError> {
        let mut connection = self.reader().await?;
        let oldest = tombstones::oldest(&mut connection).await;
        self.explained(oldest.map_err(|error| failure(&self.path, "read", error)))
    }

    async fn scrub(
        &self,
        after: Option<ItemKey>,
        limit: usize,
    ) -> Result<ScrubbedRows, StorageError> {
        let mut connection = self.reader().await?;
        let scrubbed = rows::scrub(&self.path, &mut connection, after, limit).await;
        self.explained(scrubbed)
    }

    async fn checkpoint(
        &self,
        incarnation: Incarnation,
        batch: CheckpointBatch,
    ) -> Result<(), StorageError> {
        let failed = |error| failure(&self.path, "write a checkpoint", error);
        let written = async {
            let mut connection = self.writer.acquire().await.map_err(failed)?;
            let written = self.write(&mut connection, incarnation, &batch).await;
            if written.is_err() {
                // SQLite may have ended the transaction itself while the driver counts it as
                // open, so the next one gets a new connection.
                connection.close_on_drop();
            }
            written
        };
        self.written(written.await)
    }

    async fn begin_install(&self, incarnation: Incarnation) -> Result<(), StorageError> {
        let failed = |error| failure(&self.path, "empty it", error);
        let emptied = async {
            let mut connection = self.writer.acquire().await.map_err(failed)?;
            let emptied = emptying::empty(&self.path, &mut connection, incarnation).await;
            match emptied {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // As after a failed checkpoint.
                Err(_) => connection.close_on_drop(),
            }
            emptied.and(Err(self.superseded()))
        };
        self.written(emptied.await)
    }

    async fn close(&self) {
        self.snapshots.close().await;
        self.readers.close().await;
        self.writer.close().await;
        locked(&self.volume).take();
    }
}

#[cfg(test)]
mod tests;
