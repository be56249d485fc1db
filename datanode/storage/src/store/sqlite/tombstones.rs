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

pub(super) fn checksum(key: &[u8], version: Version) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), &version.to_bits().to_le_bytes())
}
