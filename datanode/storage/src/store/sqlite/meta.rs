//! The row that says where the store stands and who may write.

use std::path::Path;

use sqlx::SqliteConnection;
use tierkv_types::{Epoch, Incarnation, Index, LogId, Position, Version};

use super::{StoreMeta, damaged, failure};
use crate::StorageError;

/// Makes `incarnation` the writer and reads where the store stands. In a transaction.
pub(super) async fn claim(
    path: &Path,
    connection: &mut SqliteConnection,
    incarnation: Incarnation,
) -> Result<StoreMeta, StorageError> {
    let failed = |error| failure(path, "read where it stands", error);
    let fresh = StoreMeta::default();
    sqlx::query(
        "INSERT INTO meta (id, incarnation, log_id, applied_epoch, applied_index, clock, checksum)
         VALUES (1, ?1, 0, 0, 0, 0, ?2)
         ON CONFLICT (id) DO UPDATE SET incarnation = ?1",
    )
    .bind(incarnation.0.cast_signed())
    .bind(i64::from(checksum(&fresh)))
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    read(path, connection).await
}

/// Where the store stands. In a transaction.
pub(super) async fn read(
    path: &Path,
    connection: &mut SqliteConnection,
) -> Result<StoreMeta, StorageError> {
    let failed = |error| failure(path, "read where it stands", error);
    let (log_id, epoch, index, clock, stored): (i64, i64, i64, i64, i64) = sqlx::query_as(
        "SELECT log_id, applied_epoch, applied_index, clock, checksum FROM meta WHERE id = 1",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed)?;
    let epochs: Vec<(i64, i64)> =
        sqlx::query_as("SELECT epoch, first_index FROM epoch ORDER BY first_index")
            .fetch_all(&mut *connection)
            .await
            .map_err(failed)?;
    let meta = StoreMeta {
        log_id: LogId(log_id.cast_unsigned()),
        applied: Position {
            epoch: Epoch(epoch.cast_unsigned()),
            index: Index(index.cast_unsigned()),
        },
        clock: Version::from_bits(clock.cast_unsigned()),
        epochs: epochs
            .into_iter()
            .map(|(epoch, first)| (Epoch(epoch.cast_unsigned()), Index(first.cast_unsigned())))
            .collect(),
    };
    if stored != i64::from(checksum(&meta)) {
        return Err(damaged(
            path,
            "the row of meta",
            "its checksum does not match",
        ));
    }
    Ok(meta)
}

/// Replaces where the store stands, if `incarnation` is the writer; answers whether it
/// is. In a transaction.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    incarnation: Incarnation,
    meta: &StoreMeta,
) -> Result<bool, sqlx::Error> {
    let written = sqlx::query(
        "UPDATE meta SET log_id = ?2, applied_epoch = ?3, applied_index = ?4, clock = ?5,
         checksum = ?6 WHERE id = 1 AND incarnation = ?1",
    )
    .bind(incarnation.0.cast_signed())
    .bind(meta.log_id.0.cast_signed())
    .bind(meta.applied.epoch.0.cast_signed())
    .bind(meta.applied.index.0.cast_signed())
    .bind(meta.clock.to_bits().cast_signed())
    .bind(i64::from(checksum(meta)))
    .execute(&mut *connection)
    .await?;
    if written.rows_affected() != 1 {
        return Ok(false);
    }
    let known: i64 = sqlx::query_scalar("SELECT count(*) FROM epoch")
        .fetch_one(&mut *connection)
        .await?;
    // The table nearly always only grows at its end, and mostly not even that.
    let stored: Option<(i64, i64)> =
        sqlx::query_as("SELECT epoch, first_index FROM epoch ORDER BY first_index DESC LIMIT 1")
            .fetch_optional(&mut *connection)
            .await?;
    let last = meta
        .epochs
        .last()
        .map(|(epoch, first)| (epoch.0.cast_signed(), first.0.cast_signed()));
    if known.cast_unsigned() == meta.epochs.iter().count() as u64 && stored == last {
        return Ok(true);
    }
    sqlx::query("DELETE FROM epoch")
        .execute(&mut *connection)
        .await?;
    for (epoch, first) in meta.epochs.iter() {
        sqlx::query("INSERT INTO epoch (epoch, first_index) VALUES (?, ?)")
            .bind(epoch.0.cast_signed())
            .bind(first.0.cast_signed())
            .execute(&mut *connection)
            .await?;
    }
    Ok(true)
}

fn checksum(meta: &StoreMeta) -> u32 {
    let fields = [
        meta.log_id.0,
        meta.applied.epoch.0,
        meta.applied.index.0,
        meta.clock.to_bits(),
    ];
    let epochs = meta
        .epochs
        .iter()
        .flat_map(|(epoch, first)| [epoch.0, first.0]);
    fields
        .into_iter()
        .chain(epochs)
        .fold(0, |checksum, number| {
            crc32c::crc32c_append(checksum, &number.to_le_bytes())
        })
}
