//! A store's state in the schemas 1 to 3: a row of meta, whose checksum covers the table of
//! epochs too.

use std::path::Path;

use sqlx::SqliteConnection;
use tierkv_types::{Epoch, Index, LogId, Position, Version};

use super::errors::{damaged, failure};
use crate::{
    StorageError,
    state::epoch_row,
    store::{StoreMeta, StoreState},
};

/// The store's state, with the epochs as rows of their small table; `None` if it was never
/// claimed. In a transaction.
pub(super) async fn read(
    path: &Path,
    connection: &mut SqliteConnection,
) -> Result<Option<StoreState>, StorageError> {
    let failed = |error| failure(path, "read its state", error);
    let row: Option<(i64, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT log_id, applied_epoch, applied_index, clock, checksum FROM meta WHERE id = 1",
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed)?;
    let epochs: Vec<(i64, i64)> =
        sqlx::query_as("SELECT epoch, first_index FROM epoch ORDER BY first_index")
            .fetch_all(&mut *connection)
            .await
            .map_err(failed)?;
    let Some((log_id, epoch, index, clock, stored)) = row else {
        return match epochs.is_empty() {
            true => Ok(None),
            false => Err(damaged(path, "the row of meta", "it is missing")),
        };
    };
    let numbers = epochs.iter().flat_map(|(epoch, first)| [*epoch, *first]);
    let numbers = [log_id, epoch, index, clock].into_iter().chain(numbers);
    if stored != checksum(numbers) {
        let what = "its checksum does not match";
        return Err(damaged(path, "the row of meta", what));
    }
    let meta = StoreMeta {
        log_id: LogId(log_id.cast_unsigned()),
        applied: Position {
            epoch: Epoch(epoch.cast_unsigned()),
            index: Index(index.cast_unsigned()),
        },
        clock: Version::from_bits(clock.cast_unsigned()),
    };
    let rows = epochs
        .into_iter()
        .map(|(epoch, first)| epoch_row(Epoch(epoch.cast_unsigned()), Index(first.cast_unsigned())))
        .collect();
    Ok(Some(StoreState { meta, rows }))
}

/// The CRC-32C of the row's numbers and then the epochs', little-endian.
pub(super) fn checksum(numbers: impl Iterator<Item = i64>) -> i64 {
    let checksum = numbers.fold(0, |checksum, number| {
        crc32c::crc32c_append(checksum, &number.to_le_bytes())
    });
    i64::from(checksum)
}
