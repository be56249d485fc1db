//! Outcomes of requests. A row holds many, mostly all of one checkpoint, so that millions of
//! outcomes take few statements.
//!
//! The key of an entry is the random part of its request id; the birth is part of the entry. An
//! entry replaces earlier ones with the same key, in its row or in rows with lower ids; readers
//! resolve that.
//!
//! The format of a row's `entries` is that of `state::outcome_list`.

use std::{mem::swap, path::Path};

use sqlx::SqliteConnection;
use tierkv_types::RequestId;

use super::errors::{damaged, failure};
use crate::{
    Outcome, StorageError,
    state::{decode_outcomes, encode_outcome},
};

/// Places of outcomes after which a row is closed: a few MB.
const PLACES_PER_ROW: usize = 1 << 16;

/// Adds the outcomes since the last checkpoint, and removes rows whose requests were all born
/// before `horizon`. In a transaction.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    outcomes: &[(RequestId, Outcome)],
    horizon: u64,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM outcome WHERE newest < ?")
        .bind(horizon.cast_signed())
        .execute(&mut *connection)
        .await?;
    let mut rest = outcomes;
    while !rest.is_empty() {
        let outcomes = row(&mut rest);
        let newest = outcomes.iter().map(|(id, _)| id.birth_millis).max();
        let Some(newest) = newest.filter(|newest| *newest >= horizon) else {
            continue;
        };
        let entries = encode(outcomes);
        sqlx::query("INSERT INTO outcome (newest, entries, checksum) VALUES (?, ?, ?)")
            .bind(newest.cast_signed())
            .bind(&entries)
            .bind(i64::from(checksum(newest, &entries)))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// The outcomes of the row after `after`, with the row's id; `None` if there are no more rows.
pub(super) async fn next(
    path: &Path,
    connection: &mut SqliteConnection,
    after: i64,
) -> Result<Option<(i64, Vec<(RequestId, Outcome)>)>, StorageError> {
    let row: Option<(i64, i64, Vec<u8>, i64)> = sqlx::query_as(
        "SELECT id, newest, entries, checksum FROM outcome WHERE id > ? ORDER BY id LIMIT 1",
    )
    .bind(after)
    .fetch_optional(connection)
    .await
    .map_err(|error| failure(path, "read the outcomes of requests", error))?;
    let Some(row) = row else {
        return Ok(None);
    };
    let (id, mut outcomes) = (row.0, Vec::new());
    verified(path, row, &mut outcomes)?;
    Ok(Some((id, outcomes)))
}

/// Appends the outcomes of a row, if its checksum matches.
fn verified(
    path: &Path,
    (id, newest, entries, stored): (i64, i64, Vec<u8>, i64),
    outcomes: &mut Vec<(RequestId, Outcome)>,
) -> Result<(), StorageError> {
    let is_sound = stored == i64::from(checksum(newest.cast_unsigned(), &entries));
    if !is_sound || decode_outcomes(&entries, outcomes).is_none() {
        let place = format!("row {id} of outcome");
        return Err(damaged(path, place, "its checksum does not match"));
    }
    Ok(())
}

/// Takes the outcomes of one row from the front.
fn row<'a>(rest: &mut &'a [(RequestId, Outcome)]) -> &'a [(RequestId, Outcome)] {
    let mut places = 0;
    let fits = |(_, outcome): &&(RequestId, Outcome)| {
        places += outcome.places();
        places <= PLACES_PER_ROW
    };
    let count = rest.iter().take_while(fits).count().max(1);
    let (outcomes, after) = rest.split_at(count);
    *rest = after;
    outcomes
}

/// All outcomes, one for each random part.
pub(super) async fn read(
    path: &Path,
    connection: &mut SqliteConnection,
) -> Result<Vec<(RequestId, Outcome)>, StorageError> {
    let rows: Vec<(i64, i64, Vec<u8>, i64)> =
        sqlx::query_as("SELECT id, newest, entries, checksum FROM outcome ORDER BY id")
            .fetch_all(connection)
            .await
            .map_err(|error| failure(path, "read the outcomes of requests", error))?;
    let mut outcomes = Vec::new();
    for row in rows {
        verified(path, row, &mut outcomes)?;
    }
    // The sort is stable, so the last one of a key is the newest.
    outcomes.sort_by_key(|(id, _)| id.random);
    outcomes.dedup_by(|later, kept| {
        let is_replaced = later.0.random == kept.0.random;
        if is_replaced {
            swap(later, kept);
        }
        is_replaced
    });
    Ok(outcomes)
}

fn encode(outcomes: &[(RequestId, Outcome)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (id, outcome) in outcomes {
        encode_outcome(id, outcome, &mut bytes);
    }
    bytes
}

fn checksum(newest: u64, entries: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&newest.to_le_bytes()), entries)
}
