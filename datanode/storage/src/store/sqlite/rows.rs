//! The rows of keys: many a statement, each verified.

use std::{collections::HashMap, path::Path, sync::LazyLock};

use bytes::Bytes;
use sqlx::{AssertSqlSafe, Row, SqliteConnection, sqlite::SqliteRow};
use tierkv_types::{ItemKey, Version};

use super::{damaged, failure, tombstones};
use crate::{Entry, Item, ScrubbedRows, StorageError};

/// How many rows one statement handles. Few sizes, so that each is prepared once.
pub(super) const SIZES: [usize; 6] = [1, 4, 16, 64, 256, 1_000];

/// One statement for each of [`SIZES`].
type Statements = [String; SIZES.len()];

static SELECT: LazyLock<Statements> = LazyLock::new(|| {
    SIZES.map(|size| {
        let keys = vec!["?"; size].join(",");
        format!("SELECT key, version, expires, value, checksum FROM item WHERE key IN ({keys})")
    })
});

static UPSERT: LazyLock<Statements> = LazyLock::new(|| {
    SIZES.map(|size| {
        let rows = vec!["(?,?,?,?,?)"; size].join(",");
        format!(
            "INSERT INTO item (key, version, expires, value, checksum) VALUES {rows}
             ON CONFLICT (key) DO UPDATE SET version = excluded.version,
             expires = excluded.expires, value = excluded.value, checksum = excluded.checksum"
        )
    })
});

static DELETE: LazyLock<Statements> = LazyLock::new(|| {
    SIZES.map(|size| {
        let keys = vec!["?"; size].join(",");
        format!("DELETE FROM item WHERE key IN ({keys})")
    })
});

/// The place in [`SIZES`] of the smallest one that holds `count`, or of the largest.
pub(super) fn size_over(count: usize) -> usize {
    let over = SIZES.iter().position(|size| *size >= count);
    over.unwrap_or(SIZES.len() - 1)
}

/// The place in [`SIZES`] of the largest one that `count` fills.
pub(super) fn size_under(count: usize) -> usize {
    let under = SIZES.iter().rposition(|size| *size <= count);
    under.unwrap_or(0)
}

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
        // A key asked twice costs nothing and finds one row: it fills the places left.
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

/// What a row of key, version, expiry, value and checksum holds, if the checksum says so.
pub(super) fn verified(path: &Path, row: &SqliteRow) -> Result<(Vec<u8>, Item), StorageError> {
    let key: Vec<u8> = row.get(0);
    let item = Item {
        version: Version::from_bits(row.get::<i64, _>(1).cast_unsigned()),
        expires: row
            .get::<Option<i64>, _>(2)
            .map(|expires| Version::from_bits(expires.cast_unsigned())),
        value: Bytes::from(row.get::<Vec<u8>, _>(3)),
    };
    if row.get::<i64, _>(4) == i64::from(checksum(&key, &item)) {
        Ok((key, item))
    } else {
        let place = format!("the row of key {}", key.escape_ascii());
        Err(damaged(path, place, "its checksum does not match"))
    }
}

/// The keys that expire at `now` or before, those that expired first coming first.
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
        let key = key.map_err(|_| damaged(path, place, "this is no key"))?;
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
    let after = after.as_ref().map_or(&[][..], |key| key.as_bytes());
    let rows = sqlx::query(
        "SELECT key, version, expires, value, checksum FROM item
         WHERE key > ? ORDER BY key LIMIT ?",
    )
    .bind(after)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await
    .map_err(|error| failure(path, "read", error))?;
    let mut scrubbed = ScrubbedRows {
        rows: rows.len(),
        ..ScrubbedRows::default()
    };
    for row in &rows {
        let key: &[u8] = row.get(0);
        let value: &[u8] = row.get(3);
        scrubbed.bytes += (key.len() + value.len()) as u64;
        match ItemKey::from_bytes(Bytes::copy_from_slice(key)) {
            Ok(key) => scrubbed.last = Some(key),
            Err(_) => {
                let place = format!("the row of key {}", key.escape_ascii());
                scrubbed.damage.push(damaged(path, place, "this is no key"));
            }
        }
        scrubbed.damage.extend(verified(path, row).err());
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
            Entry::Value(item) => puts.push((key.as_bytes(), item)),
            Entry::Tombstone(version) => deletes.push((&key.as_bytes()[..], *version)),
        }
    }
    puts.sort_unstable_by_key(|(key, _)| *key);
    deletes.sort_unstable();
    let mut rest = &puts[..];
    while !rest.is_empty() {
        let nth = size_under(rest.len());
        let (chunk, after) = rest.split_at(SIZES[nth]);
        rest = after;
        let mut query = sqlx::query(AssertSqlSafe(UPSERT[nth].as_str()));
        for (key, item) in chunk {
            query = query
                .bind(key.as_ref())
                .bind(item.version.to_bits().cast_signed())
                .bind(item.expires.map(|expires| expires.to_bits().cast_signed()))
                .bind(item.value.as_ref())
                .bind(i64::from(checksum(key, item)));
        }
        query.execute(&mut *connection).await?;
    }
    let mut rest = &deletes[..];
    while !rest.is_empty() {
        let nth = size_under(rest.len());
        let (chunk, after) = rest.split_at(SIZES[nth]);
        rest = after;
        let mut query = sqlx::query(AssertSqlSafe(DELETE[nth].as_str()));
        for (key, _) in chunk {
            query = query.bind(*key);
        }
        query.execute(&mut *connection).await?;
    }
    tombstones::write(connection, &deletes).await
}

pub(super) fn checksum(key: &[u8], item: &Item) -> u32 {
    let mut checksum = crc32c::crc32c(key);
    checksum = crc32c::crc32c_append(checksum, &item.version.to_bits().to_le_bytes());
    checksum = match item.expires {
        Some(expires) => {
            let checksum = crc32c::crc32c_append(checksum, &[1]);
            crc32c::crc32c_append(checksum, &expires.to_bits().to_le_bytes())
        }
        None => crc32c::crc32c_append(checksum, &[0]),
    };
    crc32c::crc32c_append(checksum, &item.value)
}
