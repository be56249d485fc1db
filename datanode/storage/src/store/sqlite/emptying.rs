//! Empties the store for an installation.

use std::path::Path;

use sqlx::{Connection, SqliteConnection};
use tierkv_types::Incarnation;

use super::{errors::failure, meta};
use crate::{Row, StorageError};

/// Without a condition SQLite does not remove row by row: it puts the pages of a table on its list
/// of free pages, and writes only that.
const REMOVALS: [&str; 3] = [
    "DELETE FROM item",
    "DELETE FROM tombstone",
    "DELETE FROM outcome",
];

/// Removes everything and marks the store as being installed, in one transaction, if `incarnation`
/// is the writer; returns whether it is.
pub(super) async fn empty(
    path: &Path,
    connection: &mut SqliteConnection,
    incarnation: Incarnation,
) -> Result<bool, StorageError> {
    let failed = |error| failure(path, "empty it", error);
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(failed)?;
    let mark = [Row::installing(true)];
    if !meta::reset(path, &mut transaction, incarnation, &mark).await? {
        return Ok(false);
    }
    for removal in REMOVALS {
        let removed = sqlx::query(removal).execute(&mut *transaction).await;
        removed.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)?;
    Ok(true)
}
