//! The embedded store: SQLite, one file, one writer and a pool of readers.
//!
//! Tables (schema version 2, kept in `user_version`; 64-bit numbers are stored as
//! SQLite's signed ones, bit for bit):
//!
//! ```text
//! item(key blob, version, expires or null, value blob, checksum)
//! meta(id = 1, incarnation, log_id, applied_epoch, applied_index, clock, checksum)
//! epoch(epoch, first_index)
//! tombstone(key blob, version, checksum)
//! outcome(id, newest, entries blob, checksum)      the outcomes of requests
//! ```
//!
//! An item's checksum is the CRC-32C of its key, version, expiry and value; the one of
//! meta covers its columns but the incarnation, and the epochs. Both are verified on
//! every read: SQLite itself has none.

mod meta;
mod outcomes;
mod rows;
mod schema;
mod tombstones;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use sqlx::{
    Connection, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tierkv_types::{Incarnation, ItemKey, RequestId, Version};

use super::{CheckpointBatch, Store, StoreMeta};
use crate::{Item, Outcome, ScrubbedRows, StorageError, WalSync};

/// How many reads run at once.
const READERS: u32 = 8;
/// Pages of the write-ahead file after which SQLite folds it back (80 MB).
const WAL_PAGES: &str = "20000";
/// What the write-ahead file is cut to once it was folded back.
const WAL_KEPT_BYTES: &str = "67108864";
/// How long a transaction waits for another process's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The store in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    readers: SqlitePool,
    /// One connection: SQLite has one writer at a time anyway, and here it waits in order.
    writer: SqlitePool,
}

impl SqliteStore {
    /// Opens the store in `path`, making or upgrading it as needed.
    ///
    /// # Errors
    /// `Newer` if a newer release has upgraded it, `Damaged` if it is no store of ours,
    /// and failures of SQLite.
    pub async fn open(path: &Path, sync: WalSync) -> Result<Self, StorageError> {
        let failed = |error| failure(path, "open", error);
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(match sync {
                WalSync::Always | WalSync::Interval(_) => SqliteSynchronous::Full,
                WalSync::Never => SqliteSynchronous::Off,
            })
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("wal_autocheckpoint", WAL_PAGES)
            .pragma("journal_size_limit", WAL_KEPT_BYTES);
        let pool = || {
            SqlitePoolOptions::new()
                .test_before_acquire(false)
                .idle_timeout(None)
                .max_lifetime(None)
        };
        let writer = pool().max_connections(1).connect_with(options.clone());
        let writer = writer.await.map_err(failed)?;
        let mut connection = writer.acquire().await.map_err(failed)?;
        schema::migrate(path, &mut connection).await?;
        drop(connection);
        let readers = pool().max_connections(READERS);
        let readers = readers.connect_with(options.read_only(true));
        Ok(Self {
            path: path.to_owned(),
            readers: readers.await.map_err(failed)?,
            writer,
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
        let is_ours = meta::write(&mut transaction, incarnation, &batch.meta);
        if !is_ours.await.map_err(failed)? {
            return Err(StorageError::Superseded {
                dir: self.path.parent().unwrap_or(&self.path).to_owned(),
            });
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
}

#[async_trait]
impl Store for SqliteStore {
    async fn claim(&self, incarnation: Incarnation) -> Result<StoreMeta, StorageError> {
        let failed = |error| failure(&self.path, "claim it", error);
        let mut connection = self.writer.acquire().await.map_err(failed)?;
        let mut transaction = connection
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(failed)?;
        let found = meta::claim(&self.path, &mut transaction, incarnation).await?;
        transaction.commit().await.map_err(failed)?;
        Ok(found)
    }

    async fn get_many(&self, keys: &[ItemKey]) -> Result<Vec<Option<Item>>, StorageError> {
        let failed = |error| failure(&self.path, "read", error);
        let mut connection = self.readers.acquire().await.map_err(failed)?;
        rows::read(&self.path, &mut connection, keys).await
    }

    async fn outcomes(&self) -> Result<Vec<(RequestId, Outcome)>, StorageError> {
        let failed = |error| failure(&self.path, "read", error);
        let mut connection = self.readers.acquire().await.map_err(failed)?;
        outcomes::read(&self.path, &mut connection).await
    }

    async fn expired(
        &self,
        now: Version,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Version)>, StorageError> {
        let failed = |error| failure(&self.path, "read", error);
        let mut connection = self.readers.acquire().await.map_err(failed)?;
        rows::expired(&self.path, &mut connection, now, limit).await
    }

    async fn oldest_tombstone(&self) -> Result<Option<Version>, StorageError> {
        let failed = |error| failure(&self.path, "read", error);
        let mut connection = self.readers.acquire().await.map_err(failed)?;
        tombstones::oldest(&mut connection).await.map_err(failed)
    }

    async fn scrub(
        &self,
        after: Option<ItemKey>,
        limit: usize,
    ) -> Result<ScrubbedRows, StorageError> {
        let failed = |error| failure(&self.path, "read", error);
        let mut connection = self.readers.acquire().await.map_err(failed)?;
        rows::scrub(&self.path, &mut connection, after, limit).await
    }

    async fn checkpoint(
        &self,
        incarnation: Incarnation,
        batch: CheckpointBatch,
    ) -> Result<(), StorageError> {
        let failed = |error| failure(&self.path, "write a checkpoint", error);
        let mut connection = self.writer.acquire().await.map_err(failed)?;
        self.write(&mut connection, incarnation, &batch).await
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// What a failure of SQLite means. Its primary result codes are the low byte.
fn failure(path: &Path, action: &'static str, error: sqlx::Error) -> StorageError {
    let code = error
        .as_database_error()
        .and_then(|error| error.code())
        .and_then(|code| code.parse::<u32>().ok());
    match code.map(|code| code & 0xFF) {
        Some(SQLITE_BUSY | SQLITE_LOCKED) => StorageError::Busy,
        Some(SQLITE_FULL) => StorageError::NoSpace {
            file: path.to_owned(),
        },
        Some(SQLITE_CORRUPT | SQLITE_NOTADB) => damaged(path, "a page", error.to_string()),
        _ if matches!(error, sqlx::Error::PoolTimedOut) => StorageError::Busy,
        _ if matches!(error, sqlx::Error::PoolClosed) => StorageError::Closed,
        _ => StorageError::Sql {
            action,
            source: Arc::new(error),
        },
    }
}

const SQLITE_BUSY: u32 = 5;
const SQLITE_LOCKED: u32 = 6;
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_FULL: u32 = 13;
const SQLITE_NOTADB: u32 = 26;

fn damaged(path: &Path, place: impl Into<String>, what: impl Into<String>) -> StorageError {
    StorageError::Damaged {
        file: path.to_owned(),
        place: place.into(),
        what: what.into(),
    }
}

#[cfg(test)]
mod tests;
