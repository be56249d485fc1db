//! Tombstones: the versions of deletions, kept until a record of the log forgets them.
//!
//! A key that is written again keeps the tombstone of its earlier deletion until then. Whether
//! the key is present depends only on the item's row.

use std::sync::LazyLock;

use sqlx::{AssertSqlSafe, SqliteConnection};
use tierkv_types::Version;

use super::sizes::{Statements, pieces, statements};

static UPSERT: LazyLock<Statements> = LazyLock::new(|| {
    statements("(?,?,?)", |rows| {
        format!(
            "INSERT INTO tombstone (key, version, checksum) VALUES {rows}
             ON CONFLICT (key) DO UPDATE SET version = excluded.version,
             checksum = excluded.checksum"
        )
    })
});

/// Tombstones in one read of a page.
const PAGE_ROWS: usize = 1_000;

/// The content of a row.
#[derive(Debug)]
pub(super) struct TombstoneRow {
    pub(super) key: Vec<u8>,
    pub(super) version: Version,
    /// Whether its checksum matches.
    pub(super) is_sound: bool,
}

/// Reads all tombstones in key order, page by page in bounded memory.
#[derive(Debug, Default)]
pub(super) struct TombstonePages {
    after: Vec<u8>,
    is_at_end: bool,
}

impl TombstonePages {
    /// The next rows; none at the end.
    pub(super) async fn next(
        &mut self,
        connection: &mut SqliteConnection,
    ) -> Result<Vec<TombstoneRow>, sqlx::Error> {
        if self.is_at_end {
            return Ok(Vec::new());
        }
        // The text is made of a constant.
        let page: Vec<(Vec<u8>, i64, i64)> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT key, version, checksum FROM tombstone WHERE key > ?
             ORDER BY key LIMIT {PAGE_ROWS}"
        )))
        .bind(&self.after)
        .fetch_all(connection)
        .await?;
        self.is_at_end = page.len() < PAGE_ROWS;
        if let Some((last, ..)) = page.last() {
            self.after.clone_from(last);
        }
        let rows = page.into_iter().map(|(key, version, stored)| {
            let version = Version::from_bits(version.cast_unsigned());
            TombstoneRow {
                is_sound: stored == i64::from(checksum(&key, version)),
                key,
                version,
            }
        });
        Ok(rows.collect())
    }
}

/// Writes tombstones in key order. In a transaction.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    deleted: &[(&[u8], Version)],
) -> Result<(), sqlx::Error> {
    for (nth, piece) in pieces(deleted) {
        // The text is one of the constants above.
        let mut query = sqlx::query(AssertSqlSafe(UPSERT[nth].as_str()));
        for (key, version) in piece {
            query = query
                .bind(*key)
                .bind(version.to_bits().cast_signed())
                .bind(i64::from(checksum(key, *version)));
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// Removes tombstones up to a version. In a transaction.
pub(super) async fn forget(
    connection: &mut SqliteConnection,
    up_to: Version,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM tombstone WHERE version <= ?")
        .bind(up_to.to_bits().cast_signed())
        .execute(connection)
        .await?;
    Ok(())
}

/// The version of the oldest tombstone.
pub(super) async fn oldest(
    connection: &mut SqliteConnection,
) -> Result<Option<Version>, sqlx::Error> {
    let oldest: Option<i64> = sqlx::query_scalar("SELECT min(version) FROM tombstone")
        .fetch_one(connection)
        .await?;
    Ok(oldest.map(|bits| Version::from_bits(bits.cast_unsigned())))
}

fn checksum(key: &[u8], version: Version) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), &version.to_bits().to_le_bytes())
}
