//! The upgrade from schema 3 to schema 4: every item's row is written again, with its slot and
//! a hash instead of the checksum, and the table of epochs becomes rows of the small tables.
//!
//! It is one transaction, so that a crash or a full disk leaves the old tables. Its writes go to
//! the write-ahead file first and are written back afterwards. That needs about as much free
//! space as the store has bytes, and twice that until the write-ahead file is cut again. It needs
//! memory for a page of rows, and some 16 bytes for each page of 4 KiB that it wrote.

use std::path::Path;

use sqlx::{AssertSqlSafe, SqliteConnection};
use tierkv_types::Slot;

use super::{
    earlier_meta,
    errors::failure,
    item_pages::{ItemFormat, ItemPages},
    item_row::{COLUMNS, ItemRow},
    meta,
    sizes::{SIZES, pieces, repeated},
};
use crate::StorageError;

/// Ordered so that each new table reuses the page of a dropped one: a new store has no free
/// page.
const BEFORE_THE_ROWS: &str = "
    DROP INDEX item_expires;
    CREATE TABLE state_row (
        table_number INTEGER NOT NULL,
        key BLOB NOT NULL,
        value BLOB NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (table_number, key)
    ) WITHOUT ROWID;
    DROP TABLE epoch;
    ALTER TABLE meta ADD COLUMN row_sum BLOB NOT NULL
        DEFAULT x'00000000000000000000000000000000';
    CREATE TABLE item_4 (
        key BLOB PRIMARY KEY NOT NULL,
        slot INTEGER NOT NULL,
        version INTEGER NOT NULL,
        expires INTEGER,
        hash BLOB NOT NULL,
        value BLOB NOT NULL
    ) WITHOUT ROWID;
";

/// The progress is logged after so many rows each.
const ROWS_A_REPORT: usize = 1_000_000;

const AFTER_THE_ROWS: &str = "
    DROP TABLE item;
    ALTER TABLE item_4 RENAME TO item;
    CREATE INDEX item_expires ON item (expires) WHERE expires >= 0;
";

/// Upgrades schema 3 to schema 4. In a transaction.
pub(super) async fn to_4(
    path: &Path,
    connection: &mut SqliteConnection,
) -> Result<(), StorageError> {
    let failed = |error| failure(path, "upgrade its schema", error);
    // A damaged row of meta is refused, as at a start: it must not get a valid checksum.
    let state = earlier_meta::read(path, connection).await?;
    sqlx::raw_sql(BEFORE_THE_ROWS)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    if let Some(state) = state {
        meta::upgrade(path, connection, &state).await?;
    }
    let mut pages = ItemPages::new(ItemFormat::Earlier);
    let mut written = 0;
    loop {
        let page = pages.next(connection).await.map_err(failed)?;
        if page.is_empty() {
            break;
        }
        if written == 0 {
            let file = path.display();
            tracing::info!(%file, "upgrading the store: every row is written again");
        }
        for row in page.iter().filter(|row| !row.is_sound) {
            tracing::error!(
                file = %path.display(),
                key = %row.key.escape_ascii(),
                "the row is damaged and stays damaged: reads of the key are refused"
            );
        }
        insert(connection, &page).await.map_err(failed)?;
        let before = written / ROWS_A_REPORT;
        written += page.len();
        if written / ROWS_A_REPORT > before {
            tracing::info!(file = %path.display(), rows = written, "upgrading the store");
        }
    }
    sqlx::raw_sql(AFTER_THE_ROWS)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    if written > 0 {
        tracing::info!(file = %path.display(), rows = written, "upgraded the store");
    }
    Ok(())
}

async fn insert(connection: &mut SqliteConnection, rows: &[ItemRow]) -> Result<(), sqlx::Error> {
    for (nth, piece) in pieces(rows) {
        let places = repeated("(?,?,?,?,?,?)", SIZES[nth]);
        // The text is made of constants and question marks.
        let text = AssertSqlSafe(format!("INSERT INTO item_4 ({COLUMNS}) VALUES {places}"));
        let mut query = sqlx::query(text);
        for row in piece {
            // The expiry of a damaged row is not trusted, so the row is not removed.
            let expires = row.item.expires.filter(|_| row.is_sound);
            let expires = expires.map(|expires| expires.to_bits().cast_signed());
            query = query
                .bind(&row.key[..])
                .bind(Slot::of(&row.key).number())
                .bind(row.item.version.to_bits().cast_signed())
                .bind(expires)
                .bind(row.hash().to_vec())
                .bind(&row.item.value[..]);
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}
