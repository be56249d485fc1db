//! Copies a store of the first releases into a file whose pages have checksums.
//!
//! The copy is made table by table and keeps the schema version; `schema` upgrades it later.
//! It is written in place and without a journal, because it is not used before it is complete
//! and durable. Then it gets the old file's name. Before that the old file's write-ahead file
//! must be durably removed, or the next start would use it with the new file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use sqlx::{AssertSqlSafe, Connection, SqliteConnection, sqlite::SqliteJournalMode};

use super::{
    connect::connect_options,
    errors::{SOME_PAGE, damaged, failure},
    format,
    vfs::{
        registry,
        role::Role,
        volume::{PageFormat, Volume},
    },
};
use crate::{StorageError, WalSync, blocking::blocking, disk::Disk};

/// Replaces the file without checksums in `path` by one with checksums.
pub(super) async fn rebuild(
    disk: &Arc<dyn Disk>,
    path: &Path,
    sync: WalSync,
) -> Result<(), StorageError> {
    let new = format::new_path(path);
    let copied = copy(disk, path, &new, sync).await;
    let (disk, path) = (Arc::clone(disk), path.to_owned());
    blocking(move || {
        if let Err(error) = copied {
            // It may take the space that is lacking. If it stays, the next start removes it.
            if let Err(error) = format::clear(&*disk, &new, sync) {
                tracing::warn!(%error, "an unfinished copy of the store could not be removed");
            }
            return Err(error);
        }
        format::write_ahead_from_now_on(&*disk, &new, sync)?;
        for role in [Role::WriteAhead, Role::Journal] {
            format::remove(&*disk, &role.path(&path))?;
        }
        format::remove(&*disk, &index_path(&path))?;
        format::sync_dir(&*disk, &path, sync)?;
        format::take_name(&*disk, &path, sync)
    })
    .await
}

/// The file of the write-ahead index in earlier releases; it is in memory now.
pub(super) fn index_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-shm");
    name.into()
}

async fn copy(
    disk: &Arc<dyn Disk>,
    path: &Path,
    new: &Path,
    sync: WalSync,
) -> Result<(), StorageError> {
    {
        let (disk, new) = (Arc::clone(disk), new.to_owned());
        let writing = format::Writing::InPlace;
        blocking(move || format::write_empty(&*disk, &new, writing, sync)).await?;
    }
    let old_volume = registry::enter(disk, path, PageFormat::Plain, sync);
    let new_volume = registry::enter(disk, new, PageFormat::Checked, sync);
    let explain = |error: StorageError| {
        let new = new_volume.fatal();
        let old = old_volume.fatal();
        new.or(old)
            .unwrap_or_else(|| new_volume.explain(old_volume.explain(error)))
    };
    let options = connect_options(new, &new_volume, sync)?;
    let options = options.journal_mode(SqliteJournalMode::Off);
    let connection = SqliteConnection::connect_with(&options).await;
    let mut connection = connection.map_err(|error| explain(failure(new, "rebuild", error)))?;
    let copied = copy_tables(&mut connection, path, &old_volume).await;
    let closed = connection.close().await;
    copied.map_err(explain)?;
    closed.map_err(|error| explain(failure(path, "rebuild", error)))?;
    // SQLite does not report failures while it closes the old file, whose write-ahead file was
    // written back before.
    match new_volume.fatal().or_else(|| old_volume.fatal()) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Copies everything in the file of `old`, after writing back its write-ahead file and a check.
async fn copy_tables(
    connection: &mut SqliteConnection,
    path: &Path,
    old: &Volume,
) -> Result<(), StorageError> {
    let failed = |error| failure(path, "rebuild", error);
    sqlx::query("ATTACH ? AS old")
        .bind(old.name())
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    // Written back first, because its write-ahead file is removed later.
    let (is_busy, _, _): (i64, i64, i64) = sqlx::query_as("PRAGMA old.wal_checkpoint(TRUNCATE)")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if is_busy != 0 {
        return Err(StorageError::Busy);
    }
    // Damaged data must not get valid checksums.
    let verdict: String = sqlx::query_scalar("PRAGMA old.integrity_check(1)")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if verdict != "ok" {
        return Err(damaged(path, SOME_PAGE, verdict));
    }
    let copied = async {
        let mut transaction = connection.begin().await?;
        copy_schema(&mut transaction).await?;
        copy_marks(&mut transaction).await?;
        transaction.commit().await
    };
    copied.await.map_err(failed)
}

/// Creates the tables and indexes of the file `old`, and copies the rows. In a transaction.
async fn copy_schema(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let schema: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT type, name, sql FROM old.sqlite_schema WHERE sql IS NOT NULL
         ORDER BY type = 'table' DESC, rowid",
    )
    .fetch_all(&mut *connection)
    .await?;
    for (kind, name, sql) in schema {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut *connection)
            .await?;
        if kind == "table" {
            let name = name.replace('"', "\"\"");
            let rows = format!(r#"INSERT INTO main."{name}" SELECT * FROM old."{name}""#);
            sqlx::raw_sql(AssertSqlSafe(rows))
                .execute(&mut *connection)
                .await?;
        }
    }
    Ok(())
}

/// Copies the application id and the schema version. In a transaction.
async fn copy_marks(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    for mark in ["user_version", "application_id"] {
        let read = AssertSqlSafe(format!("PRAGMA old.{mark}"));
        let number: i64 = sqlx::query_scalar(read).fetch_one(&mut *connection).await?;
        sqlx::raw_sql(AssertSqlSafe(format!("PRAGMA main.{mark} = {number}")))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
