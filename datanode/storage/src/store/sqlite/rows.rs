//! Reads and writes the rows of keys, many in one statement; verifies each row.

use std::{collections::HashMap, path::Path, sync::LazyLock};

use bytes::Bytes;
use sqlx::{AssertSqlSafe, Row, SqliteConnection, sqlite::SqliteRow};
use tierkv_types::{ItemKey, Version};

use super::{
    errors::{damaged, damaged_row, failure},
    item_row::{COLUMNS, ItemRow},
    sizes::{SIZES, Statements, pieces, size_over, statements},
    tombstones,
};
use crate::{Entry, Item, ItemHash, ScrubbedRows, StorageError};

static SELECT: LazyLock<Statements> = LazyLock::new(|| {
    statements("?", |keys| {
        format!("SELECT {COLUMNS} FROM item WHERE key IN ({keys})")
    })
});

static UPSERT: LazyLock<Statements> = LazyLock::new(|| {
    statements("(?,?,?,?,?,?)", |rows| {
        format!(
            "INSERT INTO item ({COLUMNS}) VALUES {rows}
             ON CONFLICT (key) DO UPDATE SET slot = excluded.slot, version = excluded.version,
             expires = excluded.expires, hash = excluded.hash, value = excluded.value"
        )
    })
});

static DELETE: LazyLock<Statements> = LazyLock::new(|| {
    statements("?", |keys| {
        format!("DELETE FROM item WHERE key IN ({keys})")
    })
});

/// What each of `keys` holds, in their order.
pub(super) async fn read(
    path: &Path,
    connection: &mut SqliteConnection,
    keys: &[ItemKey],
) -> Result<Vec<Option<Item>>, StorageError> {
    let mut found: HashMap<Vec<u8>, Item> = HashMap::with_capacity(keys.len());
    let mut rest = keys;
    while let Some(last) = rest.last() {
        let nth = size_over(rest.len());
        let size = SIZES[nth];
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        // The text is one of the constants above.
        let mut query = sqlx::query(AssertSqlSafe(SELECT[nth].as_str()));
        // The last key fills the unused places: a repeated key costs nothing and finds one row.
        let filling = std::iter::repeat_n(last, size - chunk.len());
        for key in chunk.iter().chain(filling) {
            query = query.bind(key.as_bytes().as_ref());
        }
        let rows = query.fetch_all(&mut *connection).await;
        for row in rows.map_err(|error| failure(path, "read", error))? {
            let (key, item) = verified(path, &row)?;
            found.insert(key, item);
        }
    }
    let items = keys
        .iter()
        .map(|key| found.get(&key.as_bytes()[..]).cloned());
    Ok(items.collect())
}

/// The key and item in a row of [`COLUMNS`], if its hash and its slot match.
pub(super) fn verified(path: &Path, row: &SqliteRow) -> Result<(Vec<u8>, Item), StorageError> {
    let row = ItemRow::read(row).map_err(|error| failure(path, "read", error))?;
    match row.is_sound {
        true => Ok((row.key, row.item)),
        false => Err(damaged_row(path, &row.key)),
    }
}

/// The keys that expire at `now` or before, in the order of their expiry.
pub(super) async fn expired(
    path: &Path,
    connection: &mut SqliteConnection,
    now: Version,
    limit: usize,
) -> Result<Vec<(ItemKey, Version)>, StorageError> {
    let rows = sqlx::query(
        "SELECT key, version FROM item WHERE expires >= 0 AND expires <= ?
         ORDER BY expires LIMIT ?",
    )
    .bind(now.to_bits().cast_signed())
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await
    .map_err(|error| failure(path, "look for expired keys", error))?;
    let keys = rows.iter().map(|row| {
        let key: Vec<u8> = row.get(0);
        let place = format!("the row of key {}", key.escape_ascii());
        let key = ItemKey::from_bytes(key.into());
        let key = key.map_err(|_| damaged(path, place, "it is no key"))?;
        Ok((
            key,
            Version::from_bits(row.get::<i64, _>(1).cast_unsigned()),
        ))
    });
    keys.collect()
}

/// Verifies rows in key order.
pub(super) async fn scrub(
    path: &Path,
    connection: &mut SqliteConnection,
    after: Option<ItemKey>,
    limit: usize,
) -> Result<ScrubbedRows, StorageError> {
    let failed = |error| failure(path, "read", error);
    let after = after.as_ref().map_or(&[][..], |key| key.as_bytes());
    // The text is made of constants.
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM item WHERE key > ? ORDER BY key LIMIT ?"
    )))
    .bind(after)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    let mut scrubbed = ScrubbedRows {
        rows: rows.len(),
        ..ScrubbedRows::default()
    };
    for row in &rows {
        let row = ItemRow::read(row).map_err(failed)?;
        scrubbed.bytes += (row.key.len() + row.item.value.len()) as u64;
        if !row.is_sound {
            scrubbed.damage.push(damaged_row(path, &row.key));
        }
        match ItemKey::from_bytes(Bytes::copy_from_slice(&row.key)) {
            Ok(key) => scrubbed.last = Some(key),
            Err(_) => {
                let place = format!("the row of key {}", row.key.escape_ascii());
                scrubbed.damage.push(damaged(path, place, "it is no key"));
            }
        }
    }
    if rows.len() < limit {
        scrubbed.last = None;
    }
    Ok(scrubbed)
}

/// Writes what keys hold, in key order so that neighbours share pages. In a transaction.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    changes: &[(ItemKey, Entry)],
) -> Result<(), sqlx::Error> {
    let mut puts = Vec::with_capacity(changes.len());
    let mut deletes = Vec::new();
    for (key, entry) in changes {
        match entry {
            Entry::Value(item) => puts.push((key, item)),
            Entry::Tombstone(version) => deletes.push((&key.as_bytes()[..], *version)),
        }
    }
    puts.sort_unstable_by_key(|(key, _)| *key);
    deletes.sort_unstable();
    for (nth, piece) in pieces(&puts) {
        let mut query = sqlx::query(AssertSqlSafe(UPSERT[nth].as_str()));
        for (key, item) in piece {
            let hash = ItemHash::of(key.as_bytes(), item);
            query = query
                .bind(key.as_bytes().as_ref())
                .bind(key.slot().number())
                .bind(item.version.to_bits().cast_signed())
                .bind(item.expires.map(|expires| expires.to_bits().cast_signed()))
                .bind(hash.as_bytes().to_vec())
                .bind(item.value.as_ref());
        }
        query.execute(&mut *connection).await?;
    }
    for (nth, piece) in pieces(&deletes) {
        let mut query = sqlx::query(AssertSqlSafe(DELETE[nth].as_str()));
        for (key, _) in piece {
            query = query.bind(*key);
        }
        query.execute(&mut *connection).await?;
    }
    tombstones::write(connection, &deletes).await
}
