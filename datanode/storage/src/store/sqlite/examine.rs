//! Examines a store's file for a repair: reads and verifies all of it and changes nothing. Also
//! sets a damaged file aside.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use sqlx::{ConnectOptions, Connection, SqliteConnection};

use super::{
    connect::connect_options,
    earlier_meta,
    errors::{SOME_PAGE, damaged, failure},
    format::{self, Found},
    item_pages::{ItemFormat, ItemPages},
    meta, outcomes, rebuild, schema,
    tombstones::TombstonePages,
    vfs::{registry, role::Role, volume::PageFormat},
    wal,
};
use crate::{Disk, StorageError, WalSync, blocking::blocking, store::StoreState};

/// The result of `PRAGMA integrity_check` for a sound file.
const SOUND: &str = "ok";
/// Result code of a statement that does not fit the schema: only a damaged schema causes it.
const SQLITE_ERROR: u32 = 1;

/// The result of examining a store's file.
#[derive(Debug)]
pub(crate) enum StoreFound {
    /// There is no file.
    Missing,
    /// It can be opened.
    Usable {
        state: StoreState,
        /// The number of damaged rows, and the first one's error; reads of these rows fail.
        damaged_rows: u64,
        first_damaged: Option<StorageError>,
    },
    /// A start would refuse it, or some keys can't be found in it.
    Damaged(StorageError),
}

impl StoreFound {
    /// Whether the installation of a snapshot in it did not end.
    pub(crate) fn is_installing(&self) -> bool {
        matches!(self, Self::Usable { state, .. } if state.is_installing())
    }
}

/// Reads all of the store in `path`, which must not be open elsewhere.
///
/// # Errors
/// `Newer`, and failures other than damage of the file.
pub(crate) async fn examine(
    disk: &Arc<dyn Disk>,
    path: &Path,
    sync: WalSync,
) -> Result<StoreFound, StorageError> {
    match verify(disk, path, sync).await {
        Err(error @ StorageError::Damaged { .. }) => Ok(StoreFound::Damaged(error)),
        Err(StorageError::Sql { source, .. }) if is_damage(&source) => {
            let what = source.to_string();
            Ok(StoreFound::Damaged(damaged(path, "its tables", what)))
        }
        verified => verified,
    }
}

/// Whether SQLite returns this error to our statements only for a damaged file.
fn is_damage(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().and_then(|code| code.parse::<u32>().ok());
            code == Some(SQLITE_ERROR)
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => {
            true
        }
        _ => false,
    }
}

async fn verify(
    disk: &Arc<dyn Disk>,
    path: &Path,
    sync: WalSync,
) -> Result<StoreFound, StorageError> {
    let found = {
        let (disk, path) = (Arc::clone(disk), path.to_owned());
        blocking(move || {
            let found = format::look(&*disk, &path)?;
            // The write-ahead file of a store without checksums does not show what was
            // synced.
            if found == Found::Checked {
                wal::check(&*disk, &path)?;
            }
            Ok(found)
        })
    };
    let pages = match found.await? {
        Found::Nothing => return Ok(StoreFound::Missing),
        Found::Plain => PageFormat::Plain,
        Found::Checked => PageFormat::Checked,
    };
    let volume = registry::enter_to_look(disk, path, pages, sync);
    let options = connect_options(path, &volume, sync)?.read_only(true);
    let verified = async {
        let failed = |error| failure(path, "read", error);
        let mut connection = options.connect().await.map_err(failed)?;
        let found = verify_all(path, &mut connection).await;
        connection.close().await.map_err(failed)?;
        found
    };
    let verified = verified.await;
    // For a page that can't be read SQLite returns its own result without a place. A failure of
    // the disk is no damage of the file.
    match (volume.failure(), volume.damage(), verified) {
        (Some(failure), ..) => Err(failure),
        (None, Some(damage), _) => Err(damage),
        (None, None, verified) => verified.map_err(|error| volume.explain(error)),
    }
}

async fn verify_all(
    path: &Path,
    connection: &mut SqliteConnection,
) -> Result<StoreFound, StorageError> {
    let failed = |error| failure(path, "read", error);
    let version = schema::version(path, connection).await?;
    let faults: String = sqlx::query_scalar("PRAGMA integrity_check(1)")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if faults != SOUND {
        return Err(damaged(path, SOME_PAGE, faults));
    }
    let mut rows = DamagedRows::default();
    match version {
        0 => {}
        1..=3 => items(path, connection, ItemFormat::Earlier, &mut rows).await?,
        _ => items(path, connection, ItemFormat::Newest, &mut rows).await?,
    }
    if version > 1 {
        deletions(path, connection, &mut rows).await?;
        outcomes::read(path, connection).await?;
    }
    let claimed = match version {
        0 => None,
        1..=3 => earlier_meta::read(path, connection).await?,
        _ => meta::read(path, connection).await?,
    };
    let state = match claimed {
        Some(state) => state,
        None if rows.seen == 0 => StoreState::default(),
        None => return Err(damaged(path, "the row of meta", "it is missing")),
    };
    Ok(StoreFound::Usable {
        state,
        damaged_rows: rows.damaged,
        first_damaged: rows.first,
    })
}

#[derive(Default)]
struct DamagedRows {
    seen: u64,
    damaged: u64,
    first: Option<StorageError>,
}

impl DamagedRows {
    fn count(&mut self, path: &Path, table: &str, key: &[u8], is_sound: bool) {
        self.seen += 1;
        if !is_sound {
            self.damaged += 1;
            self.first.get_or_insert_with(|| {
                let place = format!("the row of key {} in {table}", key.escape_ascii());
                damaged(path, place, "its checksum does not match")
            });
        }
    }
}

async fn items(
    path: &Path,
    connection: &mut SqliteConnection,
    format: ItemFormat,
    rows: &mut DamagedRows,
) -> Result<(), StorageError> {
    let mut pages = ItemPages::new(format);
    loop {
        let page = pages.next(connection).await;
        let page = page.map_err(|error| failure(path, "read rows", error))?;
        if page.is_empty() {
            return Ok(());
        }
        for row in &page {
            rows.count(path, "item", &row.key, row.is_sound);
        }
    }
}

async fn deletions(
    path: &Path,
    connection: &mut SqliteConnection,
    rows: &mut DamagedRows,
) -> Result<(), StorageError> {
    let mut pages = TombstonePages::default();
    loop {
        let page = pages.next(connection).await;
        let page = page.map_err(|error| failure(path, "read tombstones", error))?;
        if page.is_empty() {
            return Ok(());
        }
        for row in &page {
            rows.count(path, "tombstone", &row.key, row.is_sound);
        }
    }
}

/// Renames the store in `path` and its other files, so that no start uses them; durable on
/// return. Returns the new name, if there was a store. Blocks.
///
/// The store's file is renamed first: a write-ahead file without a store has no effect, but a
/// store without its write-ahead file would be read as an earlier state.
pub(crate) fn set_aside(
    disk: &dyn Disk,
    path: &Path,
    ending: &str,
    sync: WalSync,
) -> Result<Option<PathBuf>, StorageError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(ending);
    let aside = PathBuf::from(aside);
    let is_there = rename(disk, path, &aside)?;
    for role in [Role::WriteAhead, Role::Journal] {
        rename(disk, &role.path(path), &role.path(&aside))?;
    }
    // The first releases had the write-ahead index in a file.
    rename(
        disk,
        &rebuild::index_path(path),
        &rebuild::index_path(&aside),
    )?;
    format::sync_dir(disk, path, sync)?;
    Ok(is_there.then_some(aside))
}

/// Renames a file that may be missing; returns whether there was one.
fn rename(disk: &dyn Disk, from: &Path, to: &Path) -> Result<bool, StorageError> {
    match disk.rename(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StorageError::io("set aside", from, error)),
    }
}
