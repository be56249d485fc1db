//! The tables, and the upgrades from older schemas.

use std::path::Path;

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use super::{
    errors::{damaged, failure},
    upgrade,
};
use crate::StorageError;

/// Marks a file as a store of a data node: the letters TKVs.
const APPLICATION_ID: i64 = 0x544B_5673;

/// The upgrade of a schema version to the next one.
enum Step {
    /// By statements.
    Sql(&'static str),
    /// By `upgrade::to_4`.
    To4,
}

/// The step from each schema version to the next. A released step is never changed; a new one
/// is added.
const STEPS: [Step; 6] = [
    Step::Sql(
        "
    CREATE TABLE item (
        key BLOB PRIMARY KEY NOT NULL,
        version INTEGER NOT NULL,
        expires INTEGER,
        value BLOB NOT NULL,
        checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE meta (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        incarnation INTEGER NOT NULL,
        log_id INTEGER NOT NULL,
        applied_epoch INTEGER NOT NULL,
        applied_index INTEGER NOT NULL,
        clock INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    );
    CREATE TABLE epoch (
        epoch INTEGER PRIMARY KEY,
        first_index INTEGER NOT NULL
    );
    PRAGMA application_id = 1414223475;
",
    ),
    // Times are below 2^63, so an index over signed numbers has them in order.
    Step::Sql(
        "
    CREATE INDEX item_expires ON item (expires) WHERE expires >= 0;
    CREATE TABLE tombstone (
        key BLOB PRIMARY KEY NOT NULL,
        version INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX tombstone_version ON tombstone (version);
    CREATE TABLE outcome (
        id INTEGER PRIMARY KEY,
        newest INTEGER NOT NULL,
        entries BLOB NOT NULL,
        checksum INTEGER NOT NULL
    );
    CREATE INDEX outcome_newest ON outcome (newest);
",
    ),
    // Entries of outcomes may have numbers, which older releases can't read.
    Step::Sql(""),
    // Slots and hashes of items, and small tables. The format of outcomes is unchanged, but a
    // later entry with the same random part replaces an earlier one, which older releases do
    // not do.
    Step::To4,
    // Small tables may have the slots of the cluster, which older releases don't know.
    Step::Sql(""),
    // Small tables may have the mark of an installation that did not end. Older releases would use
    // the part of a state that such a store has.
    Step::Sql(""),
];

/// Upgrades the file to the newest schema version, in one transaction.
pub(super) async fn migrate(
    path: &Path,
    connection: &mut SqliteConnection,
) -> Result<(), StorageError> {
    migrate_to(path, connection, STEPS.len()).await
}

/// Upgrades the file to the schema version `newest`, in one transaction.
pub(super) async fn migrate_to(
    path: &Path,
    connection: &mut SqliteConnection,
    newest: usize,
) -> Result<(), StorageError> {
    let failed = |error| failure(path, "upgrade its schema", error);
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(failed)?;
    let version = version(path, &mut transaction).await?;
    for (number, step) in STEPS.iter().enumerate().take(newest).skip(version) {
        match step {
            Step::Sql(sql) => {
                let done = sqlx::raw_sql(*sql).execute(&mut *transaction).await;
                done.map_err(failed)?;
            }
            Step::To4 => upgrade::to_4(path, &mut transaction).await?,
        }
        // A pragma takes no parameters; the number is a constant of ours.
        let stamp = AssertSqlSafe(format!("PRAGMA user_version = {}", number + 1));
        sqlx::raw_sql(stamp)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
}

/// The file's schema version; 0 if it has no tables yet.
pub(super) async fn version(
    path: &Path,
    connection: &mut SqliteConnection,
) -> Result<usize, StorageError> {
    let failed = |error| failure(path, "read its schema version", error);
    let version: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    let application: i64 = sqlx::query_scalar("PRAGMA application_id")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if application != APPLICATION_ID && (application, version) != (0, 0) {
        return Err(damaged(path, "its header", "it is no store of a data node"));
    }
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if version > STEPS.len() {
        return Err(StorageError::Newer {
            file: path.to_owned(),
            found: version as u64,
            known: STEPS.len() as u64,
        });
    }
    Ok(version)
}
