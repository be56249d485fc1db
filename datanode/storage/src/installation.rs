//! [`Installation`]: replaces a node's state by a snapshot of another node and by the log before it
//! (REP-JOIN).
//!
//! ```text
//!   1  the store is emptied and marked as being installed     (one transaction)
//!   2  the old log is removed, and a log with a new id begins
//!   3  pieces of the snapshot go into the store, records into the log, in any order
//!   4  everything received is checked, and the log is synced
//!   5  the store gets the snapshot's meta and loses its mark  (one transaction)
//! ```
//!
//! A start that finds the mark, whenever the power failed, empties the node: no store, a log with
//! a new id, and the promise, the cluster state and the platform kept. Before step 1 it finds the
//! old state, after step 5 the new one.
//!
//! Reading order: this file, `received` (checks of the pieces), `written_log`.

mod received;
mod written_log;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use tierkv_types::{Incarnation, LogId, Position, Record};
use tokio::runtime::Handle;

use self::{received::Received, written_log::WrittenLog};
use crate::{
    Cursor, Disk, Row, StorageError, StorageSettings, WalSync,
    blocking::Blocking,
    disk::DiskLock,
    log::LogPlace,
    node_state::NodeState,
    opening::Entered,
    piece::Piece,
    recovery,
    store::{CheckpointBatch, Store, StoreMeta},
};

/// The installation of a snapshot in a node's directory, whose storage is closed.
///
/// After an error it is over: [`Installation::abandon`] it, and begin anew, or open the storage,
/// which is empty then. The same holds if a call of it was cancelled.
pub struct Installation {
    place: LogPlace,
    node_state: Arc<NodeState>,
    /// `None` once it is over.
    lock: Option<Arc<dyn DiskLock>>,
    blocking: Blocking,
    store: Arc<dyn Store>,
    incarnation: Incarnation,
    cut: Cursor,
    received: Received,
    /// `None` while a call uses it, and for good once one failed or was cancelled.
    log: Option<WrittenLog>,
}

impl fmt::Debug for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installation")
            .field("dir", &self.node_state.dir())
            .field("cut", &self.cut)
            .finish_non_exhaustive()
    }
}

impl Installation {
    /// Locks the directory `settings.dir`, creating it if there is none, and empties the node, to
    /// install a snapshot that ends with the record `cut`. The installed log will begin after the
    /// record `log_from`, which is `cut` or one before it.
    ///
    /// # Errors
    /// `Locked` while its storage is open; `UnsoundSnapshot` if `log_from` is after `cut`;
    /// `NoSpace`, after which the old state may still be there; `Damaged` if the old store or the
    /// node state can't be read; failures of disk and store.
    pub async fn begin(
        settings: StorageSettings,
        disk: Arc<dyn Disk>,
        cut: Cursor,
        log_from: Position,
    ) -> Result<Self, StorageError> {
        let entered = Entered::take(settings, disk, Blocking::Threads).await?;
        let store = entered.open_store().await?;
        Self::over(entered, store, cut, log_from).await
    }

    /// Begins an installation in `store`, which is that of the directory, without a thread or task.
    ///
    /// # Errors
    /// Those of [`Installation::begin`].
    #[cfg(any(test, feature = "conformance"))]
    pub async fn begin_stepped(
        settings: StorageSettings,
        disk: Arc<dyn Disk>,
        store: Arc<dyn Store>,
        cut: Cursor,
        log_from: Position,
    ) -> Result<Self, StorageError> {
        let entered = Entered::take(settings, disk, Blocking::Here).await?;
        Self::over(entered, store, cut, log_from).await
    }

    async fn over(
        entered: Entered,
        store: Arc<dyn Store>,
        cut: Cursor,
        log_from: Position,
    ) -> Result<Self, StorageError> {
        let place = recovery::place(&entered.disk, &entered.settings);
        let Entered {
            lock,
            node_state,
            blocking,
            ..
        } = entered;
        let mut installation = Self {
            place,
            node_state: Arc::new(node_state),
            lock: Some(lock),
            blocking,
            store,
            incarnation: Incarnation(rand::random()),
            cut,
            received: Received::default(),
            log: None,
        };
        match installation.empty(log_from).await {
            Ok(log) => {
                installation.log = Some(log);
                Ok(installation)
            }
            Err(error) => {
                installation.abandon().await;
                Err(error)
            }
        }
    }

    /// Steps 1 and 2.
    async fn empty(&self, log_from: Position) -> Result<WrittenLog, StorageError> {
        let cut = self.cut.position;
        if log_from.index > cut.index || log_from.epoch > cut.epoch {
            return Err(unsound(format!(
                "its log begins after record {log_from}, but the snapshot ends with record {cut}"
            )));
        }
        let (place, state) = (self.place.clone(), Arc::clone(&self.node_state));
        let syncing = move || sync_old_log(&place, &state);
        self.blocking.run(syncing).await?;
        self.store.claim(self.incarnation).await?;
        self.store.begin_install(self.incarnation).await?;
        let (place, state) = (self.place.clone(), Arc::clone(&self.node_state));
        let beginning = move || {
            place.remove_all()?;
            WrittenLog::begin(place, &state, log_from)
        };
        self.blocking.run(beginning).await
    }

    /// Takes the next piece of the snapshot, in the order of
    /// [`NodeSnapshot::next`](crate::NodeSnapshot::next). On return it is durable.
    ///
    /// # Errors
    /// `UnsoundSnapshot` if it is no piece, or not the next one; `NoSpace` and failures of the
    /// store.
    pub async fn take(&mut self, piece: Bytes) -> Result<(), StorageError> {
        let log = self.log.take().ok_or_else(over)?;
        let mut batch = CheckpointBatch::default();
        match self.received.check(&piece)? {
            Piece::Entries(entries) => batch.changes = entries,
            Piece::Outcomes(outcomes) => batch.outcomes = outcomes,
            Piece::Rows(rows) => batch.rows = rows,
            // Compared at the end.
            Piece::End(_) => {
                self.log = Some(log);
                return Ok(());
            }
        }
        self.store.checkpoint(self.incarnation, batch).await?;
        self.log = Some(log);
        Ok(())
    }

    /// Takes the next records of the log. They may come before, between or after the pieces.
    ///
    /// # Errors
    /// `UnsoundSnapshot` if they do not continue the log, or go beyond the snapshot's end;
    /// `Exhausted` if a record is larger than a segment; `NoSpace` and failures of the disk.
    pub async fn take_records<R: Into<Arc<Record>>>(
        &mut self,
        records: Vec<R>,
    ) -> Result<(), StorageError> {
        let mut log = self.log.take().ok_or_else(over)?;
        let records: Vec<Arc<Record>> = records.into_iter().map(Into::into).collect();
        let cut = self.cut.position;
        let writing = move || {
            log.add(&records, cut)?;
            Ok(log)
        };
        self.log = Some(self.blocking.run(writing).await?);
        Ok(())
    }

    /// Checks that everything was received, makes it the node's state, and unlocks the directory.
    /// Returns the id of the installed log. The storage may be opened then.
    ///
    /// # Errors
    /// `UnsoundSnapshot` if pieces or records are missing, or do not fit each other; failures of
    /// disk and store. The installation is then over, and the storage is empty when it is opened.
    pub async fn finish(mut self) -> Result<LogId, StorageError> {
        let done = self.complete().await;
        self.abandon().await;
        done
    }

    /// Steps 4 and 5.
    async fn complete(&mut self) -> Result<LogId, StorageError> {
        let log = self.log.take().ok_or_else(over)?;
        let cut = self.cut;
        let log_id = log.log_id();
        let ending = move || log.finish(cut);
        let epochs = self.blocking.run(ending).await?;
        self.received.finish(cut, &epochs)?;
        let last = CheckpointBatch {
            meta: StoreMeta {
                log_id,
                applied: cut.position,
                clock: cut.version,
            },
            rows: vec![Row::installing(false)],
            ..CheckpointBatch::default()
        };
        self.store.checkpoint(self.incarnation, last).await?;
        tracing::info!(%log_id, cut = %cut.position, "a snapshot is installed");
        Ok(log_id)
    }

    /// Closes the store and unlocks the directory. Unless the installation was finished, the node
    /// is empty when its storage is opened.
    pub async fn abandon(mut self) {
        let lock = self.lock.take();
        self.store.close().await;
        drop(lock);
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        // Another process must not get the directory before the store is closed.
        if let Some(lock) = self.lock.take()
            && let Ok(runtime) = Handle::try_current()
        {
            let store = Arc::clone(&self.store);
            runtime.spawn(async move {
                store.close().await;
                drop(lock);
            });
        }
    }
}

/// The error after a call that failed or was cancelled.
fn over() -> StorageError {
    unsound("a call of its installation failed or was cancelled")
}

/// A snapshot that can't be installed.
fn unsound(what: impl Into<String>) -> StorageError {
    StorageError::UnsoundSnapshot { what: what.into() }
}

/// Syncs what an earlier process of this boot may have left unsynced. The log may then be left as
/// it is by a power cut before the store is marked; after that it does not matter. Blocks.
fn sync_old_log(place: &LogPlace, state: &NodeState) -> Result<(), StorageError> {
    let is_unsynced = state
        .facts()
        .is_some_and(|facts| facts.unsynced_boot.is_some());
    if !is_unsynced {
        return Ok(());
    }
    let place = LogPlace {
        sync: WalSync::Always,
        ..place.clone()
    };
    place.sync_all()?;
    state.set_unsynced_boot(None)
}
