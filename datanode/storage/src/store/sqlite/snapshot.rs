//! One state of the store, read while others write: a read transaction on a connection of
//! its own.
//!
//! As long as it is open, SQLite keeps what was written since in its write-ahead file and
//! can't begin that file anew; whoever opens one bounds its time.

use std::{
    iter::repeat_n,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, Row, Sqlite, SqlitePool, Transaction};
use tierkv_types::{ItemKey, ItemRange, Version};

use super::{
    errors::{damaged, failure},
    item_row::COLUMNS,
    rows,
    sizes::{SIZES, repeated, size_over},
    vfs::volume::Volume,
};
use crate::{Item, StorageError, store::StoreSnapshot};

/// Rows that SQLite's thread reads ahead of whoever takes them. Each may be of limit size,
/// so these few are what a snapshot of large values has in memory beyond what it hands out.
pub(super) const ROWS_AHEAD: usize = 8;
/// Rows that one statement goes through at most: small ones end a piece by their number,
/// and a count that nobody waits for any more ends after so many.
const ROWS_A_STATEMENT: i64 = 1 << 16;
/// What a row takes beside its key and value, about.
const ROW_OVERHEAD_BYTES: usize = 64;

/// A row is hidden once its time has come; times are below 2^63, so a negative number is
/// none that comes.
const LIVE: &str = "(expires IS NULL OR expires < 0 OR expires > ?)";

/// A snapshot of the SQLite store.
#[derive(Debug)]
pub(super) struct SqliteSnapshot {
    path: PathBuf,
    volume: Arc<Volume>,
    transaction: Transaction<'static, Sqlite>,
    /// What is still to be handed out.
    rest: ItemRange,
    /// What each of the last rows took.
    row_bytes: usize,
}

impl SqliteSnapshot {
    pub(super) async fn open(
        path: PathBuf,
        volume: Arc<Volume>,
        pool: &SqlitePool,
        range: ItemRange,
    ) -> Result<Self, StorageError> {
        let opened = async {
            let mut transaction = pool.begin().await?;
            // A transaction sees the state of its first read.
            sqlx::query("SELECT 1 FROM meta")
                .fetch_optional(&mut *transaction)
                .await?;
            Ok(transaction)
        };
        let opened = opened.await;
        let opened = opened.map_err(|error| failure(&path, "open a snapshot", error));
        let transaction = opened.map_err(|error| volume.explain(error))?;
        Ok(Self {
            path,
            volume,
            transaction,
            rest: range,
            row_bytes: ROW_OVERHEAD_BYTES,
        })
    }

    async fn read(&mut self, bytes: usize) -> Result<Vec<(ItemKey, Item)>, StorageError> {
        let failed = |error| failure(&self.path, "read its rows", error);
        let mut found: Vec<(ItemKey, Item)> = Vec::new();
        let mut gathered = 0;
        // Of constants.
        let mut stream = sqlx::query(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM item WHERE key >= ? AND key < ? ORDER BY key LIMIT ?"
        )))
        .bind(&self.rest.start()[..])
        .bind(&self.rest.end()[..])
        .bind(self.rows_for(bytes))
        .fetch(&mut *self.transaction);
        while gathered < bytes {
            let Some(row) = stream.try_next().await.map_err(failed)? else {
                break;
            };
            let (key, item) = rows::verified(&self.path, &row)?;
            gathered += key.len() + item.value.len() + ROW_OVERHEAD_BYTES;
            found.push((item_key(&self.path, key)?, item));
        }
        drop(stream);
        if let Some((last, _)) = found.last() {
            self.rest = self.rest.after(last);
            self.row_bytes = gathered / found.len();
        }
        Ok(found)
    }

    /// How many rows to ask for. What is read ahead of the last one taken is read again, so
    /// these are no more than what rows like the last ones take to be enough.
    fn rows_for(&self, bytes: usize) -> i64 {
        let rows = bytes.div_ceil(self.row_bytes.max(ROW_OVERHEAD_BYTES));
        i64::try_from(rows).map_or(ROWS_A_STATEMENT, |rows| rows.clamp(1, ROWS_A_STATEMENT))
    }

    /// Counts rows from where the rest begins, and moves that on; answers how many were seen
    /// and how many of them are live.
    async fn count_some(&mut self, now: Version) -> Result<(i64, i64), StorageError> {
        let statement = format!(
            "SELECT count(*), coalesce(sum(live), 0), max(key) FROM
             (SELECT key, {LIVE} AS live FROM item WHERE key >= ? AND key < ?
              ORDER BY key LIMIT {ROWS_A_STATEMENT})"
        );
        // Of constants.
        let row = sqlx::query(AssertSqlSafe(statement))
            .bind(now.to_bits().cast_signed())
            .bind(&self.rest.start()[..])
            .bind(&self.rest.end()[..])
            .fetch_one(&mut *self.transaction)
            .await
            .map_err(|error| failure(&self.path, "count its rows", error))?;
        if let Some(last) = row.get::<Option<Vec<u8>>, _>(2) {
            self.rest = self.rest.after(&item_key(&self.path, last)?);
        }
        Ok((row.get(0), row.get(1)))
    }

    async fn count_all(&mut self, now: Version) -> Result<u64, StorageError> {
        let mut live = 0;
        loop {
            let (seen, some) = self.count_some(now).await?;
            live += some;
            if seen < ROWS_A_STATEMENT {
                return Ok(live.cast_unsigned());
            }
        }
    }

    async fn count_keys(&mut self, keys: &[ItemKey], now: Version) -> Result<u64, StorageError> {
        let mut live = 0;
        let mut rest = keys;
        while let Some(last) = rest.last() {
            let size = SIZES[size_over(rest.len())];
            let (chunk, after) = rest.split_at(size.min(rest.len()));
            rest = after;
            let places = repeated("?", size);
            let statement = format!("SELECT count(*) FROM item WHERE key IN ({places}) AND {LIVE}");
            // Of constants and question marks.
            let mut query = sqlx::query_scalar(AssertSqlSafe(statement));
            // A key asked twice finds one row: it fills the places left.
            for key in chunk.iter().chain(repeat_n(last, size - chunk.len())) {
                query = query.bind(&key.as_bytes()[..]);
            }
            let some: i64 = query
                .bind(now.to_bits().cast_signed())
                .fetch_one(&mut *self.transaction)
                .await
                .map_err(|error| failure(&self.path, "count its rows", error))?;
            live += some;
        }
        Ok(live.cast_unsigned())
    }
}

#[async_trait]
impl StoreSnapshot for SqliteSnapshot {
    async fn next(&mut self, bytes: usize) -> Result<Vec<(ItemKey, Item)>, StorageError> {
        let read = self.read(bytes).await;
        read.map_err(|error| self.volume.explain(error))
    }

    async fn count(&mut self, now: Version) -> Result<u64, StorageError> {
        let counted = self.count_all(now).await;
        counted.map_err(|error| self.volume.explain(error))
    }

    async fn count_among(&mut self, keys: &[ItemKey], now: Version) -> Result<u64, StorageError> {
        let counted = self.count_keys(keys, now).await;
        counted.map_err(|error| self.volume.explain(error))
    }
}

fn item_key(path: &Path, key: Vec<u8>) -> Result<ItemKey, StorageError> {
    let key = Bytes::from(key);
    ItemKey::from_bytes(key.clone()).map_err(|_| {
        let place = format!("the row of key {}", key.escape_ascii());
        damaged(path, place, "this is no key")
    })
}
