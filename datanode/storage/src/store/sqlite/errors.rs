//! Converts SQLite's errors, and makes errors for damage.

use std::{path::Path, sync::Arc};

use crate::StorageError;

/// The place of damage that SQLite found without naming the place.
pub(super) const SOME_PAGE: &str = "a page";

const SQLITE_BUSY: u32 = 5;
const SQLITE_LOCKED: u32 = 6;
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_FULL: u32 = 13;
const SQLITE_NOTADB: u32 = 26;

/// The error for a failure of SQLite. Its primary result code is the low byte.
pub(super) fn failure(path: &Path, action: &'static str, error: sqlx::Error) -> StorageError {
    let code = error
        .as_database_error()
        .and_then(|error| error.code())
        .and_then(|code| code.parse::<u32>().ok());
    match code.map(|code| code & 0xFF) {
        Some(SQLITE_BUSY | SQLITE_LOCKED) => StorageError::Busy,
        Some(SQLITE_FULL) => StorageError::NoSpace {
            file: path.to_owned(),
        },
        Some(SQLITE_CORRUPT | SQLITE_NOTADB) => damaged(path, SOME_PAGE, error.to_string()),
        _ if matches!(error, sqlx::Error::PoolTimedOut) => StorageError::Busy,
        _ if matches!(error, sqlx::Error::PoolClosed) => StorageError::Closed,
        _ => StorageError::Sql {
            action,
            path: path.to_owned(),
            source: Arc::new(error),
        },
    }
}

/// Damage at a place of the store in `path`.
pub(super) fn damaged(
    path: &Path,
    place: impl Into<String>,
    what: impl Into<String>,
) -> StorageError {
    StorageError::Damaged {
        file: path.to_owned(),
        place: place.into(),
        what: what.into(),
    }
}

/// A row whose checksum does not match.
pub(super) fn damaged_row(path: &Path, key: &[u8]) -> StorageError {
    let place = format!("the row of key {}", key.escape_ascii());
    damaged(path, place, "its checksum does not match")
}
