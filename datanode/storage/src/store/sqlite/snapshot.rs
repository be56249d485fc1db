//! A snapshot of the store: a read transaction on its own connection, while others write.
//!
//! While it is open, SQLite keeps later writes in its write-ahead file and can't start that file
//! again, so the caller limits a snapshot's time.

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

/// Rows that SQLite's thread reads ahead. Each may have the largest size, so a snapshot of large
/// values has so many in memory beyond those it returns.
pub(super) const ROWS_AHEAD: usize = 8;
/// Most rows that one statement reads: it limits a piece of small rows, and a count whose
/// caller is gone ends after so many.
const ROWS_A_STATEMENT: i64 = 1 << 16;
/// An estimate of a row's bytes beside its key and value.
const ROW_OVERHEAD_BYTES: usize = 64;

/// The condition of a row that is not expired. Times are below 2^63, so a negative number
/// never expires.
const LIVE: &str = "(expires IS NULL OR expires < 0 OR expires > ?)";

/// A snapshot of the SQLite store.
#[derive(Debug)]
pub(super) struct SqliteSnapshot {
    path: PathBuf,
    volume: Arc<Volume>,
    transaction: Transaction<'static, Sqlite>,
    /// The range that was not returned yet.
    rest: ItemRange,
    /// The bytes of each of the last rows.
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
        let failed = |error| failure(&self.path, "read rows", error);
        let mut found: Vec<(ItemKey, Item)> = Vec::new();
        let mut gathered = 0;
        // The text is made of constants.
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

    /// The number of rows to request. Rows read ahead and not used are read again, so it is only
    /// as many as needed if rows are like the last ones.
    fn rows_for(&self, bytes: usize) -> i64 {
        let rows = bytes.div_ceil(self.row_bytes.max(ROW_OVERHEAD_BYTES));
        i64::try_from(rows).map_or(ROWS_A_STATEMENT, |rows| rows.clamp(1, ROWS_A_STATEMENT))
    }

    /// Counts some rows at the start of the rest, and advances it; returns the numbers of all
    /// rows and of live ones.
    async fn count_some(&mut self, now: Version) -> Result<(i64, i64), StorageError> {
        let statement = format!(
            "SELECT count(*), coalesce(sum(live), 0), max(key) FROM
             (SELECT key, {LIVE} AS live FROM item WHERE key >= ? AND key < ?
              ORDER BY key LIMIT {ROWS_A_STATEMENT})"
        );
        // The text is made of constants.
        let row = sqlx::query(AssertSqlSafe(statement))
            .bind(now.to_bits().cast_signed())
            .bind(&self.rest.start()[..])
            .bind(&self.rest.end()[..])
            .fetch_one(&mut *self.transaction)
            .await
            .map_err(|error| failure(&self.path, "count rows", error))?;
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
            // The text is made of constants and question marks.
            let mut query = sqlx::query_scalar(AssertSqlSafe(statement));
            // The last key fills the unused places: a repeated key finds one row.
            for key in chunk.iter().chain(repeat_n(last, size - chunk.len())) {
                query = query.bind(&key.as_bytes()[..]);
            }
            let some: i64 = query
                .bind(now.to_bits().cast_signed())
                .fetch_one(&mut *self.transaction)
                .await
                .map_err(|error| failure(&self.path, "count rows", error))?;
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
        damaged(path, place, "it is no key")
    })
}
