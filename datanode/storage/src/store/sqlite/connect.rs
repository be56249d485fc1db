//! The options with which SQLite opens a store.

use std::{path::Path, time::Duration};

use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};

use super::vfs::{self, volume::Volume};
use crate::{StorageError, WalSync};

/// How long a transaction waits for one of another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How SQLite opens the file of `volume`.
pub(super) fn connect_options(
    path: &Path,
    volume: &Volume,
    sync: WalSync,
) -> Result<SqliteConnectOptions, StorageError> {
    vfs::register().map_err(|code| {
        let words = format!("SQLite refused the file layer with code {code}");
        StorageError::io("open", path, std::io::Error::other(words))
    })?;
    Ok(SqliteConnectOptions::new()
        .vfs(vfs::NAME)
        .filename(volume.name())
        .synchronous(match sync.syncs() {
            true => SqliteSynchronous::Full,
            false => SqliteSynchronous::Off,
        })
        .busy_timeout(BUSY_TIMEOUT))
}
