//! Outcomes of requests. A row holds many, mostly all of one checkpoint, so that millions of
//! outcomes take few statements.
//!
//! The key of an entry is the random part of its request id; the birth is part of the entry. An
//! entry replaces earlier ones with the same key, in its row or in rows with lower ids; readers
//! resolve that.
//!
//! A row's `entries` (numbers little-endian), one after the other:
//!
//! ```text
//! bytes
//!     8  birth of the request id, milliseconds
//!    16  random part of the request id: the key
//!     8  version
//!     4  fingerprint of the request's content
//!     2  length of the next part; the highest bit is set if numbers follow it
//!     …  which operations deleted a present key, one bit each, lowest first
//!     2  how many numbers follow                (only with that bit)
//!     …  the numbers after increments, signed, eight bytes each
//! ```

use std::{mem::swap, path::Path};

use sqlx::SqliteConnection;
use tierkv_types::{RequestId, Version};

use super::errors::{damaged, failure};
use crate::{Outcome, StorageError, state::Existed};

/// Places of outcomes after which a row is closed: a few MB.
const PLACES_PER_ROW: usize = 1 << 16;
/// Set in a length if numbers follow; no length is as large.
const HAS_NUMBERS: u16 = 1 << 15;
const FIXED_BYTES: usize = 8 + 16 + 8 + 4 + 2;

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
    for (id, newest, entries, stored) in rows {
        let is_sound = stored == i64::from(checksum(newest.cast_unsigned(), &entries));
        if !is_sound || decode(&entries, &mut outcomes).is_none() {
            let place = format!("row {id} of outcome");
            return Err(damaged(path, place, "its checksum does not match"));
        }
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
    let mut bytes = Vec::with_capacity(outcomes.len() * (FIXED_BYTES + 1));
    for (id, outcome) in outcomes {
        let existed = outcome.existed.as_bytes();
        bytes.extend_from_slice(&id.birth_millis.to_le_bytes());
        bytes.extend_from_slice(&id.random);
        bytes.extend_from_slice(&outcome.version.to_bits().to_le_bytes());
        bytes.extend_from_slice(&outcome.fingerprint.to_le_bytes());
        // A request has a thousand operations at most.
        let length = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
        let flag = if outcome.numbers.is_empty() {
            0
        } else {
            HAS_NUMBERS
        };
        bytes.extend_from_slice(&(length(existed.len()) | flag).to_le_bytes());
        bytes.extend_from_slice(existed);
        if flag != 0 {
            bytes.extend_from_slice(&length(outcome.numbers.len()).to_le_bytes());
            let numbers = outcome
                .numbers
                .iter()
                .flat_map(|number| number.to_le_bytes());
            bytes.extend(numbers);
        }
    }
    bytes
}

/// Appends the outcomes in `bytes`; `None` if they are not what [`encode`] writes.
fn decode(mut bytes: &[u8], outcomes: &mut Vec<(RequestId, Outcome)>) -> Option<()> {
    while !bytes.is_empty() {
        let birth_millis = u64::from_le_bytes(take(&mut bytes)?);
        let random = take(&mut bytes)?;
        let version = Version::from_bits(u64::from_le_bytes(take(&mut bytes)?));
        let fingerprint = u32::from_le_bytes(take(&mut bytes)?);
        let length = u16::from_le_bytes(take(&mut bytes)?);
        let (existed, rest) = bytes.split_at_checked(usize::from(length & !HAS_NUMBERS))?;
        bytes = rest;
        let mut numbers = Vec::new();
        if length & HAS_NUMBERS != 0 {
            for _ in 0..u16::from_le_bytes(take(&mut bytes)?) {
                numbers.push(i64::from_le_bytes(take(&mut bytes)?));
            }
        }
        let id = RequestId {
            birth_millis,
            random,
        };
        let outcome = Outcome {
            version,
            fingerprint,
            existed: Existed::from_bytes(existed.to_vec()),
            numbers,
        };
        outcomes.push((id, outcome));
    }
    Some(())
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (array, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*array)
}

fn checksum(newest: u64, entries: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&newest.to_le_bytes()), entries)
}
