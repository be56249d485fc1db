//! Carries a repair out, step by step (the order is in the parent module).

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use tierkv_types::{Incarnation, ItemKey, LogId, Position, Record};
use tokio::sync::mpsc;

use super::{NodeFound, Repair};
use crate::{
    Disk, Entry, StorageError,
    blocking::blocking,
    disk::free_ending,
    log::{LogPlace, salvage},
    node_state::{NodeFacts, NodeState},
    recovery,
    state::{Fold, Progress},
    store::{self, CheckpointBatch, SqliteStore, Store, StoreMeta},
};

/// Most checkpoints that wait for the store while the log is read.
const BATCHES_AHEAD: usize = 1;

/// The result of a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// The node's new log, which the cluster's record must list.
    pub log_id: LogId,
    /// The last record that was kept.
    pub last: Position,
    /// The files set aside, with their new names.
    pub set_aside: Vec<PathBuf>,
}

impl Repair {
    /// Carries out the repair, and creates a log if there is none. After a crash or a failure it
    /// may be repeated with a new examination.
    ///
    /// # Errors
    /// `NoSpace`, failures of disk and store; sound data stays sound.
    pub async fn carry_out(&mut self) -> Result<Repaired, StorageError> {
        for finding in &self.examined.findings {
            tracing::error!(
                problem = %finding.problem,
                what = finding.what,
                remedy = finding.remedy,
                loss = finding.loss,
                "an operator started a recovery of the node's directory"
            );
        }
        for lost in &self.examined.given_up {
            tracing::error!(
                file = %lost.file.display(),
                offset = lost.offset,
                records = lost.records,
                "sound records after a damaged place are given up"
            );
        }
        let plan = self.examined.plan;
        let mut set_aside = Vec::new();
        if plan.rebuild_store {
            let path = self.settings.dir.join(recovery::STORE_FILE);
            let (dir, disk) = (self.settings.dir.clone(), Arc::clone(&self.disk));
            let sync = self.settings.sync;
            let renaming = move || {
                let ending = damaged_ending(&*disk, &dir)?;
                store::set_aside(&*disk, &path, &ending, sync)
            };
            set_aside.extend(blocking(renaming).await?);
        }
        let meta = match plan.renew_log || plan.rebuild_store {
            true => self.bring_into_store().await?,
            false => self.examined.meta.clone(),
        };
        let last = match plan.renew_log {
            true => meta.applied,
            false => self.examined.kept,
        };
        let (log_id, names) = self.renew(meta).await?;
        set_aside.extend(names);
        for file in &set_aside {
            tracing::warn!(file = %file.display(), "set aside a file; it is not read any more");
        }
        tracing::warn!(%log_id, %last, "the node's directory is recovered");
        Ok(Repaired {
            log_id,
            last,
            set_aside,
        })
    }

    /// Steps 3 to 5: node state and log.
    async fn renew(&self, meta: StoreMeta) -> Result<(LogId, Vec<PathBuf>), StorageError> {
        let plan = self.examined.plan;
        let (dir, disk) = (self.settings.dir.clone(), Arc::clone(&self.disk));
        let mut place = self.place.clone();
        let known = self.examined.node.facts().cloned();
        let is_damaged = matches!(self.examined.node, NodeFound::Damaged(_));
        let (epoch, found) = (self.examined.epoch, self.examined.log_id);
        blocking(move || {
            let mut set_aside = Vec::new();
            if is_damaged {
                let ending = damaged_ending(&*disk, &dir)?;
                set_aside.extend(NodeState::set_aside(&*disk, &dir, &ending)?);
            }
            let state = NodeState::open(disk, &dir)?;
            let mut facts = known.unwrap_or(NodeFacts {
                log_id: found.unwrap_or_default(),
                ..NodeFacts::default()
            });
            facts.promised = facts.promised.max(epoch);
            if plan.renew_log {
                facts.unsynced_boot = None;
            }
            if plan.take_records && plan.renew_log {
                // An id that no file has, so that a start refuses the old files until the repair is
                // done. A log whose records are not taken is refused anyway.
                facts.log_id = LogId(rand::random::<u64>().max(1));
            }
            state.restore(facts)?;
            if plan.renew_log {
                set_aside.extend(set_log_aside(&place)?);
            }
            match found {
                Some(log_id) if !plan.renew_log => Ok((log_id, set_aside)),
                _ => {
                    place
                        .disk
                        .create_dir(&place.dir)
                        .map_err(|error| StorageError::io("make", &place.dir, error))?;
                    place.drop_spare()?;
                    let log = recovery::begin(&mut place, &state, &meta)?;
                    Ok((log.log_id, set_aside))
                }
            }
        })
        .await
    }

    /// Step 2. Returns the store's state after it.
    async fn bring_into_store(&self) -> Result<StoreMeta, StorageError> {
        let path = self.settings.dir.join(recovery::STORE_FILE);
        let store = SqliteStore::open(Arc::clone(&self.disk), &path, self.settings.sync).await?;
        let incarnation = Incarnation(rand::random());
        let state = store.claim(incarnation).await?;
        let progress = state.progress(&path)?;
        let mut meta = state.meta;
        let done = match (self.examined.plan.take_records, self.examined.log_id) {
            (true, Some(log_id)) => {
                if meta.log_id == LogId::default() {
                    meta.log_id = log_id;
                }
                self.feed(&store, incarnation, &mut meta, progress).await
            }
            _ => Ok(()),
        };
        store.close().await;
        done.map(|()| meta)
    }

    /// Writes the log's records after `meta`, which equals `progress`, to the store, in as many
    /// checkpoints as their size needs. Sets `meta` to the store's state after the last one.
    async fn feed(
        &self,
        store: &dyn Store,
        incarnation: Incarnation,
        meta: &mut StoreMeta,
        progress: Progress,
    ) -> Result<(), StorageError> {
        let (batches, mut written) = mpsc::channel::<CheckpointBatch>(BATCHES_AHEAD);
        let place = self.place.clone();
        let limit = self.settings.checkpoint_bytes;
        let (from, log_id) = (meta.applied, meta.log_id);
        let reading = tokio::task::spawn_blocking(move || {
            let mut gathered = Gathered::after(log_id, progress);
            // If the receiver of the batches ends early, it returns the error.
            let give = |batch| {
                batches
                    .blocking_send(batch)
                    .map_err(|_| StorageError::Closed)
            };
            salvage(&place, from, log_id, &mut |record| {
                gathered.take(&record, &place)?;
                if gathered.bytes >= limit {
                    give(gathered.batch())?;
                }
                Ok(())
            })?;
            give(gathered.batch())
        });
        while let Some(batch) = written.recv().await {
            let next = batch.meta.clone();
            store.checkpoint(incarnation, batch).await?;
            *meta = next;
        }
        match reading.await {
            Ok(read) => read,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(StorageError::Closed),
        }
    }
}

/// The effects of records that the store does not have yet.
struct Gathered {
    log_id: LogId,
    fold: Fold,
    changes: HashMap<ItemKey, Entry>,
    bytes: u64,
}

impl Gathered {
    fn after(log_id: LogId, progress: Progress) -> Self {
        Self {
            log_id,
            fold: Fold::after(progress),
            changes: HashMap::new(),
            bytes: 0,
        }
    }

    fn take(&mut self, record: &Record, place: &LogPlace) -> Result<(), StorageError> {
        let taken = self.fold.take(record);
        let (effects, _) = taken.map_err(|broken| StorageError::Unrecoverable {
            file: place.dir.clone(),
            what: format!("the log does not continue what the store holds: {broken}"),
        })?;
        for (key, entry) in effects.entries() {
            let value = entry.item().map_or(0, |item| item.value.len());
            self.bytes += (key.as_bytes().len() + value) as u64;
            self.changes.insert(key.clone(), entry);
        }
        Ok(())
    }

    fn batch(&mut self) -> CheckpointBatch {
        self.bytes = 0;
        let unstored = self.fold.take_unstored();
        CheckpointBatch {
            meta: StoreMeta::at(self.log_id, self.fold.progress()),
            changes: self.changes.drain().collect(),
            forgotten: unstored.forgotten,
            rows: unstored.rows(),
            outcomes: unstored.outcomes,
            // No outcomes are removed: only a master knows the time.
            request_horizon: 0,
        }
    }
}

/// The ending for a damaged file of the directory.
fn damaged_ending(disk: &dyn Disk, dir: &Path) -> Result<String, StorageError> {
    let names = disk.list(dir);
    let names = names.map_err(|error| StorageError::io("list", dir, error))?;
    Ok(free_ending(&names, "damaged"))
}

/// Renames every segment, newest first, so that no start reads it; durable on return.
fn set_log_aside(place: &LogPlace) -> Result<Vec<PathBuf>, StorageError> {
    let mut numbers = place.numbers()?;
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    let names = place.disk.list(&place.dir);
    let names = names.map_err(|error| StorageError::io("list", &place.dir, error))?;
    let end = free_ending(&names, "aside");
    let mut set_aside = Vec::new();
    numbers.reverse();
    for number in numbers {
        let path = place.path(number);
        let mut aside = path.clone().into_os_string();
        aside.push(&end);
        let renamed = place.disk.rename(&path, aside.as_ref());
        renamed.map_err(|error| StorageError::io("set aside", &path, error))?;
        set_aside.push(aside.into());
    }
    place.flush_names()?;
    Ok(set_aside)
}
