//! A snapshot of the whole store: one read transaction on its own connection, copied into a spool.
//!
//! ```text
//!   item ──────┐
//!              ├─ merged by key ─► pieces ─► spool ─► reader
//!   tombstone ─┘                     ▲
//!   outcome, state_row ──────────────┘
//! ```
//!
//! While the transaction is open, SQLite can't start its write-ahead file again. The copy takes
//! only as long as this machine's disk needs, and ends with an error once the file has grown over
//! a limit.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{Sqlite, SqlitePool, Transaction};

use super::{
    errors::{damaged, damaged_row, failure},
    item_pages::{ItemFormat, ItemPages},
    item_row::ItemRow,
    meta, outcomes,
    spool::{self, SpoolReader, SpoolWriter},
    tombstones::{TombstonePages, TombstoneRow},
    vfs::{role::Role, volume::Volume},
};
use crate::{
    Entry, StorageError,
    blocking::blocking,
    piece::PieceWriter,
    store::{StoreMeta, StoreNodeSnapshot, StoreState},
};

/// Bytes of the write-ahead file over which a copy is given up, unless the database has more: it
/// then takes no more space than another copy of the store.
pub(super) const MAX_HELD_BYTES: u64 = 4 << 30;

/// A snapshot of the whole SQLite store.
#[derive(Debug)]
pub(super) struct SqliteNodeSnapshot {
    meta: StoreMeta,
    spool: SpoolReader,
}

impl SqliteNodeSnapshot {
    /// Opens a transaction and starts the copy. The write-ahead file may grow to `held_bytes`.
    pub(super) async fn open(
        path: PathBuf,
        volume: Arc<Volume>,
        pool: &SqlitePool,
        piece_bytes: usize,
        held_bytes: u64,
    ) -> Result<Self, StorageError> {
        let begun = begin(&path, pool).await;
        let (transaction, state) = begun.map_err(|error| volume.explain(error))?;
        let (writer, spool) = {
            let (disk, path) = (volume.shared_disk(), path.clone());
            blocking(move || spool::create(&*disk, &path)).await?
        };
        let meta = state.meta.clone();
        let copy = Copy {
            path,
            volume,
            pool: pool.clone(),
            held_bytes,
            spool: writer,
        };
        tokio::spawn(copy.run(transaction, state, PieceWriter::new(piece_bytes)));
        Ok(Self { meta, spool })
    }
}

#[async_trait]
impl StoreNodeSnapshot for SqliteNodeSnapshot {
    fn meta(&self) -> &StoreMeta {
        &self.meta
    }

    async fn verified(&mut self) -> Result<(), StorageError> {
        self.spool.whole().await
    }

    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        self.spool.next().await
    }
}

/// Begins a transaction, and reads the store's state in it.
async fn begin(
    path: &Path,
    pool: &SqlitePool,
) -> Result<(Transaction<'static, Sqlite>, StoreState), StorageError> {
    let begun = pool.begin().await;
    let mut transaction = begun.map_err(|error| failure(path, "open a snapshot", error))?;
    // A transaction sees the state of its first read.
    let state = meta::read(path, &mut transaction).await?;
    Ok((transaction, state.unwrap_or_default()))
}

/// The copying of the store into the spool. It ends soon after the reader is gone or the store is
/// closed.
struct Copy {
    path: PathBuf,
    volume: Arc<Volume>,
    pool: SqlitePool,
    held_bytes: u64,
    spool: SpoolWriter,
}

impl Copy {
    async fn run(
        self,
        mut transaction: Transaction<'static, Sqlite>,
        state: StoreState,
        pieces: PieceWriter,
    ) {
        let copied = self.copy(&mut transaction, state, pieces).await;
        // Ended first: who has read everything may expect the write-ahead file to start again.
        let ended = transaction.rollback().await;
        let ended = ended.map_err(|error| failure(&self.path, "end a snapshot", error));
        let done = copied.and(ended);
        self.spool
            .end(done.map_err(|error| self.volume.explain(error)));
    }

    async fn copy(
        &self,
        transaction: &mut Transaction<'static, Sqlite>,
        state: StoreState,
        mut pieces: PieceWriter,
    ) -> Result<(), StorageError> {
        let mut entries = Entries::new(&self.path);
        while let Some((key, entry)) = entries.next(transaction).await? {
            self.write(pieces.entry(&key, &entry)).await?;
        }
        let mut after = i64::MIN;
        while let Some((id, some)) = outcomes::next(&self.path, transaction, after).await? {
            for (id, outcome) in &some {
                self.write(pieces.outcome(id, outcome)).await?;
            }
            after = id;
        }
        for row in &state.rows {
            self.write(pieces.row(row)).await?;
        }
        for piece in pieces.end() {
            self.write(Some(piece)).await?;
        }
        Ok(())
    }

    async fn write(&self, piece: Option<Bytes>) -> Result<(), StorageError> {
        let Some(piece) = piece else {
            return Ok(());
        };
        if self.pool.is_closed() {
            return Err(StorageError::Closed);
        }
        let (volume, held_bytes) = (Arc::clone(&self.volume), self.held_bytes);
        blocking(move || check_held(&volume, held_bytes)).await?;
        self.spool.write(piece).await
    }
}

/// Checks that the write-ahead file has not grown too much.
fn check_held(volume: &Volume, held_bytes: u64) -> Result<(), StorageError> {
    let bytes = held_bytes.max(volume.bytes_of(Role::Main)?);
    match volume.bytes_of(Role::WriteAhead)? <= bytes {
        true => Ok(()),
        false => Err(StorageError::Exhausted {
            limit: "node_snapshot_held_bytes",
            bytes,
        }),
    }
}

/// All items and tombstones in the order of their keys, read page by page.
struct Entries<'a> {
    path: &'a Path,
    item_pages: ItemPages,
    items: VecDeque<ItemRow>,
    tombstone_pages: TombstonePages,
    tombstones: VecDeque<TombstoneRow>,
}

impl<'a> Entries<'a> {
    fn new(path: &'a Path) -> Self {
        Self {
            path,
            item_pages: ItemPages::new(ItemFormat::Newest),
            items: VecDeque::new(),
            tombstone_pages: TombstonePages::default(),
            tombstones: VecDeque::new(),
        }
    }

    /// The next key with its entry; the value, if it has a tombstone too.
    async fn next(
        &mut self,
        transaction: &mut Transaction<'static, Sqlite>,
    ) -> Result<Option<(Vec<u8>, Entry)>, StorageError> {
        let failed = |error| failure(self.path, "read rows", error);
        if self.items.is_empty() {
            self.items = (self.item_pages.next(transaction).await.map_err(failed)?).into();
        }
        if self.tombstones.is_empty() {
            let page = self.tombstone_pages.next(transaction).await;
            self.tombstones = page.map_err(failed)?.into();
        }
        let item = self.items.front().map(|row| &row.key);
        let tombstone = self.tombstones.front().map(|row| &row.key);
        let (has_item, has_tombstone) = match (item, tombstone) {
            (Some(item), Some(tombstone)) => (item <= tombstone, tombstone <= item),
            (item, tombstone) => (item.is_some(), tombstone.is_some()),
        };
        let tombstone = match has_tombstone {
            true => self.tombstones.pop_front(),
            false => None,
        };
        if let Some(row) = tombstone.as_ref().filter(|row| !row.is_sound) {
            let place = format!("the row of key {} in tombstone", row.key.escape_ascii());
            return Err(damaged(self.path, place, "its checksum does not match"));
        }
        if has_item && let Some(row) = self.items.pop_front() {
            return match row.is_sound {
                true => Ok(Some((row.key, Entry::Value(row.item)))),
                false => Err(damaged_row(self.path, &row.key)),
            };
        }
        Ok(tombstone.map(|row| (row.key, Entry::Tombstone(row.version))))
    }
}
