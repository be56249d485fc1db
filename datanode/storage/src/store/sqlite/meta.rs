//! The row of meta: the log's state in the store, and the incarnation that may write.

use std::path::Path;

use sqlx::SqliteConnection;
use tierkv_types::{Epoch, Incarnation, Index, LogId, Position, Version};

use super::{
    errors::{damaged, failure},
    state_rows::{self, RowSum},
};
use crate::{
    Row, StorageError,
    store::{StoreMeta, StoreState},
};

/// The row without the incarnation.
#[derive(Clone, Debug, Default)]
struct Stand {
    meta: StoreMeta,
    sum: RowSum,
}

type Columns = (i64, i64, i64, i64, Vec<u8>, i64);

/// Makes `incarnation` the writer and reads the store's state. In a transaction.
pub(super) async fn claim(
    path: &Path,
    connection: &mut SqliteConnection,
    incarnation: Incarnation,
) -> Result<StoreState, StorageError> {
    let failed = |error| failure(path, "read its state", error);
    let fresh = Stand::default();
    sqlx::query(
        "INSERT INTO meta
         (id, incarnation, log_id, applied_epoch, applied_index, clock, row_sum, checksum)
         VALUES (1, ?1, 0, 0, 0, 0, ?2, ?3)
         ON CONFLICT (id) DO UPDATE SET incarnation = ?1",
    )
    .bind(incarnation.0.cast_signed())
    .bind(fresh.sum.to_bytes().to_vec())
    .bind(fresh.checksum())
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    let state = read(path, connection).await?;
    state.ok_or_else(|| missing(path))
}

/// The store's state, with the rows of the small tables; `None` if it was never claimed. In a
/// transaction.
pub(super) async fn read(
    path: &Path,
    connection: &mut SqliteConnection,
) -> Result<Option<StoreState>, StorageError> {
    let failed = |error| failure(path, "read its state", error);
    let row: Option<Columns> = sqlx::query_as(
        "SELECT log_id, applied_epoch, applied_index, clock, row_sum, checksum
         FROM meta WHERE id = 1",
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed)?;
    let (rows, sum) = state_rows::read(path, connection).await?;
    let Some(row) = row else {
        return match rows.is_empty() {
            true => Ok(None),
            false => Err(missing(path)),
        };
    };
    let stand = Stand::verified(path, row)?;
    if stand.sum != sum {
        let what = "the rows do not match their sum in meta";
        return Err(damaged(path, "the small tables", what));
    }
    let meta = stand.meta;
    Ok(Some(StoreState { meta, rows }))
}

/// Replaces the store's state and writes rows of the small tables, if `incarnation` is the
/// writer; returns whether it is. In a transaction.
pub(super) async fn write(
    path: &Path,
    connection: &mut SqliteConnection,
    incarnation: Incarnation,
    meta: &StoreMeta,
    rows: &[Row],
) -> Result<bool, StorageError> {
    let failed = |error| failure(path, "write a checkpoint", error);
    let row: Option<Columns> = sqlx::query_as(
        "SELECT log_id, applied_epoch, applied_index, clock, row_sum, checksum
         FROM meta WHERE id = 1 AND incarnation = ?",
    )
    .bind(incarnation.0.cast_signed())
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed)?;
    let Some(row) = row else {
        return Ok(false);
    };
    let mut sum = Stand::verified(path, row)?.sum;
    state_rows::write(path, connection, rows, &mut sum).await?;
    let meta = meta.clone();
    replace(connection, &Stand { meta, sum })
        .await
        .map_err(failed)?;
    Ok(true)
}

/// Removes the rows of the small tables and resets the store's state to the default one, if
/// `incarnation` is the writer; returns whether it is. Then writes `rows`. In a transaction.
///
/// What is removed is not verified: it may be damaged.
pub(super) async fn reset(
    path: &Path,
    connection: &mut SqliteConnection,
    incarnation: Incarnation,
    rows: &[Row],
) -> Result<bool, StorageError> {
    let failed = |error| failure(path, "empty it", error);
    let found: Option<i64> = sqlx::query_scalar("SELECT id FROM meta WHERE incarnation = ?")
        .bind(incarnation.0.cast_signed())
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
    if found.is_none() {
        return Ok(false);
    }
    sqlx::query("DELETE FROM state_row")
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    let mut fresh = Stand::default();
    state_rows::write(path, connection, rows, &mut fresh.sum).await?;
    replace(connection, &fresh).await.map_err(failed)?;
    Ok(true)
}

/// Writes the verified state of an earlier schema as row of meta and as rows of the small
/// tables. In a transaction.
pub(super) async fn upgrade(
    path: &Path,
    connection: &mut SqliteConnection,
    state: &StoreState,
) -> Result<(), StorageError> {
    let mut sum = RowSum::default();
    state_rows::write(path, connection, &state.rows, &mut sum).await?;
    let meta = state.meta.clone();
    replace(connection, &Stand { meta, sum })
        .await
        .map_err(|error| failure(path, "upgrade its schema", error))
}

async fn replace(connection: &mut SqliteConnection, stand: &Stand) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE meta SET log_id = ?, applied_epoch = ?, applied_index = ?, clock = ?,
         row_sum = ?, checksum = ? WHERE id = 1",
    )
    .bind(stand.meta.log_id.0.cast_signed())
    .bind(stand.meta.applied.epoch.0.cast_signed())
    .bind(stand.meta.applied.index.0.cast_signed())
    .bind(stand.meta.clock.to_bits().cast_signed())
    .bind(stand.sum.to_bytes().to_vec())
    .bind(stand.checksum())
    .execute(connection)
    .await?;
    Ok(())
}

fn missing(path: &Path) -> StorageError {
    damaged(path, "the row of meta", "it is missing")
}

impl Stand {
    /// The content of the columns, if the checksum matches.
    fn verified(path: &Path, row: Columns) -> Result<Self, StorageError> {
        let (log_id, epoch, index, clock, sum, stored) = row;
        let damaged = || damaged(path, "the row of meta", "its checksum does not match");
        let meta = StoreMeta {
            log_id: LogId(log_id.cast_unsigned()),
            applied: Position {
                epoch: Epoch(epoch.cast_unsigned()),
                index: Index(index.cast_unsigned()),
            },
            clock: Version::from_bits(clock.cast_unsigned()),
        };
        let sum = RowSum::from_bytes(&sum).ok_or_else(damaged)?;
        let stand = Self { meta, sum };
        match stored == stand.checksum() {
            true => Ok(stand),
            false => Err(damaged()),
        }
    }

    /// The CRC-32C of the numbers, little-endian, and the sum.
    fn checksum(&self) -> i64 {
        let fields = [
            self.meta.log_id.0,
            self.meta.applied.epoch.0,
            self.meta.applied.index.0,
            self.meta.clock.to_bits(),
        ];
        let checksum = fields.into_iter().fold(0, |checksum, number| {
            crc32c::crc32c_append(checksum, &number.to_le_bytes())
        });
        i64::from(crc32c::crc32c_append(checksum, &self.sum.to_bytes()))
    }
}
