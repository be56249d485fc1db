//! The rows of the small tables, and the sum that shows whether one is missing.
//!
//! Each row has a checksum, so that an error names the damaged row. The sum of the hashes of all
//! rows is in meta, under meta's checksum, so that a lost or an extra row is noticed. A
//! checkpoint subtracts the hashes of the rows that it replaces and adds those of the new ones,
//! so it reads no other rows.

use std::{collections::BTreeMap, path::Path, sync::LazyLock};

use bytes::Bytes;
use sqlx::{AssertSqlSafe, SqliteConnection};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    errors::{damaged, failure},
    sizes::{Statements, pieces, statements},
};
use crate::{Row, StorageError, Table};

/// Finds rows by table and key.
static SELECT: LazyLock<Statements> = LazyLock::new(|| {
    statements("(?,?)", |keys| {
        format!(
            "SELECT table_number, key, value, checksum FROM state_row
             WHERE (table_number, key) IN (VALUES {keys})"
        )
    })
});

static UPSERT: LazyLock<Statements> = LazyLock::new(|| {
    statements("(?,?,?,?)", |rows| {
        format!(
            "INSERT INTO state_row (table_number, key, value, checksum) VALUES {rows}
             ON CONFLICT (table_number, key) DO UPDATE SET value = excluded.value,
             checksum = excluded.checksum"
        )
    })
});

static DELETE: LazyLock<Statements> = LazyLock::new(|| {
    statements("(?,?)", |keys| {
        format!("DELETE FROM state_row WHERE (table_number, key) IN (VALUES {keys})")
    })
});

/// The sum modulo 2^128 of the XXH3-128 hashes of rows. The hash of a row is over its table
/// number (one byte), the length of its key (four bytes, little-endian), key and value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RowSum(u128);

impl RowSum {
    pub(super) fn add(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.0 = self.0.wrapping_add(xxh3_128(&hashed(table, key, value)));
    }

    fn take_out(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.0 = self.0.wrapping_sub(xxh3_128(&hashed(table, key, value)));
    }

    /// The sum, little-endian.
    pub(super) const fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(u128::from_le_bytes(bytes.try_into().ok()?)))
    }
}

/// The bytes for a row's hash and checksum.
fn hashed(table: Table, key: &[u8], value: &[u8]) -> Vec<u8> {
    // A key has two thousand bytes at most.
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(1 + 4 + key.len() + value.len());
    bytes.push(table.number());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
    bytes
}

fn checksum(table: Table, key: &[u8], value: &[u8]) -> i64 {
    i64::from(crc32c::crc32c(&hashed(table, key, value)))
}

type Columns = (u8, Vec<u8>, Vec<u8>, i64);

/// The row in `columns`, if its checksum matches.
fn verified(path: &Path, columns: Columns) -> Result<(Table, Vec<u8>, Vec<u8>), StorageError> {
    let (number, key, value, stored) = columns;
    let table = Table::from_number(number);
    if stored == checksum(table, &key, &value) {
        return Ok((table, key, value));
    }
    let place = format!("the row of key {} in table {number}", key.escape_ascii());
    Err(damaged(path, place, "its checksum does not match"))
}

/// All rows, sorted by table and key, and their sum.
pub(super) async fn read(
    path: &Path,
    connection: &mut SqliteConnection,
) -> Result<(Vec<Row>, RowSum), StorageError> {
    let stored: Vec<Columns> = sqlx::query_as(
        "SELECT table_number, key, value, checksum FROM state_row ORDER BY table_number, key",
    )
    .fetch_all(connection)
    .await
    .map_err(|error| failure(path, "read the small tables", error))?;
    let mut rows = Vec::with_capacity(stored.len());
    let mut sum = RowSum::default();
    for columns in stored {
        let (table, key, value) = verified(path, columns)?;
        sum.add(table, &key, &value);
        rows.push(Row {
            table,
            key: Bytes::from(key),
            value: Some(Bytes::from(value)),
        });
    }
    Ok((rows, sum))
}

/// Writes and removes rows, and updates `sum` for all rows. In a transaction.
pub(super) async fn write(
    path: &Path,
    connection: &mut SqliteConnection,
    rows: &[Row],
    sum: &mut RowSum,
) -> Result<(), StorageError> {
    let failed = |error| failure(path, "write the small tables", error);
    // Sorted, so that neighbours share pages, and no row twice: the sum depends on it.
    let rows: BTreeMap<(Table, &[u8]), Option<&Bytes>> = rows
        .iter()
        .map(|row| ((row.table, &row.key[..]), row.value.as_ref()))
        .collect();
    let names: Vec<(Table, &[u8])> = rows.keys().copied().collect();
    for (nth, piece) in pieces(&names) {
        // The text is one of the constants above.
        let mut query = sqlx::query_as(AssertSqlSafe(SELECT[nth].as_str()));
        for (table, key) in piece {
            query = query.bind(table.number()).bind(*key);
        }
        let replaced: Vec<Columns> = query.fetch_all(&mut *connection).await.map_err(failed)?;
        for columns in replaced {
            let (table, key, value) = verified(path, columns)?;
            sum.take_out(table, &key, &value);
        }
    }
    let mut upserts = Vec::new();
    let mut removals = Vec::new();
    for ((table, key), value) in rows {
        match value {
            Some(value) => {
                sum.add(table, key, value);
                upserts.push((table, key, value));
            }
            None => removals.push((table, key)),
        }
    }
    for (nth, piece) in pieces(&upserts) {
        let mut query = sqlx::query(AssertSqlSafe(UPSERT[nth].as_str()));
        for (table, key, value) in piece {
            query = query
                .bind(table.number())
                .bind(*key)
                .bind(&value[..])
                .bind(checksum(*table, key, value));
        }
        query.execute(&mut *connection).await.map_err(failed)?;
    }
    for (nth, piece) in pieces(&removals) {
        let mut query = sqlx::query(AssertSqlSafe(DELETE[nth].as_str()));
        for (table, key) in piece {
            query = query.bind(table.number()).bind(*key);
        }
        query.execute(&mut *connection).await.map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_differ_in_anything_have_other_sums() {
        let rows: [(u8, &[u8], &[u8]); 6] = [
            (1, b"key", b"value"),
            (2, b"key", b"value"),
            (1, b"keyv", b"alue"),
            (1, b"key", b""),
            (1, b"", b"keyvalue"),
            (1, b"", b""),
        ];
        let mut all = RowSum::default();
        let mut seen = vec![all];
        for (number, key, value) in rows {
            let table = Table::from_number(number);
            let mut sum = RowSum::default();
            sum.add(table, key, value);
            assert!(!seen.contains(&sum));
            seen.push(sum);
            // Twice the same is not nothing.
            sum.add(table, key, value);
            assert!(!seen.contains(&sum));
            all.add(table, key, value);
        }
        for (number, key, value) in rows {
            all.take_out(Table::from_number(number), key, value);
        }
        assert_eq!(all, RowSum::default());
        assert_eq!(RowSum::from_bytes(&seen[1].to_bytes()), Some(seen[1]));
        assert_eq!(RowSum::from_bytes(&[0; 15]), None);
    }
}
