//! [`Storage`]: the API of a node's storage.

use std::{
    borrow::Borrow,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tierkv_types::{
    Epoch, Index, ItemKey, ItemRange, LogId, Payload, Position, Record, RequestId, TimeReading,
    Version,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    Cursor, Disk, Item, LogRoom, MemoryLimits, NodeSnapshot, Outcome, Queued, Recovered, Residence,
    Snapshot, StorageError, StorageSettings, Tail, TailError, WalSync,
    blocking::Blocking,
    checkpoint::Ask,
    core::{Core, LOAD_ATTEMPTS},
    locked,
    log::Target,
    memory::Admission,
    meters::{self, Waiting},
    opening::{Entered, Parts},
    store::Store,
    stored_time,
};

/// Places of unstored outcomes that trigger a checkpoint at once: many writes to few keys make
/// few entries, but one outcome each.
const OUTCOMES_PER_CHECKPOINT: usize = 1 << 19;
/// How long closing waits for the last checkpoint, and then for the store.
const LAST_CHECKPOINT_TIME: Duration = Duration::from_secs(5);
const STORE_CLOSE_TIME: Duration = Duration::from_secs(2);

/// Commit log, memory tier and store of one node.
///
/// The data node appends records, waits until they are durable and committed, then applies
/// them. Reads look in memory first, then in the store.
#[derive(Debug)]
pub struct Storage {
    pub(crate) core: Arc<Core>,
    asks: mpsc::Sender<Ask>,
    checkpointer: Mutex<Option<JoinHandle<()>>>,
}

impl Storage {
    /// Opens the storage in `settings.dir`, creating it if there is none, and recovers it.
    ///
    /// # Errors
    /// `Locked` if another process uses the directory; `Damaged`, with file and place, if data
    /// is not what was written (a torn end of the log was never acknowledged and is cut);
    /// `Newer` if a newer release wrote it; failures of disk and store.
    pub async fn open(
        settings: StorageSettings,
        disk: Arc<dyn Disk>,
    ) -> Result<(Arc<Self>, Recovered), StorageError> {
        Self::open_with(settings, disk, |store| store).await
    }

    /// Opens the storage with the caller's wrapper around the store.
    pub(crate) async fn open_with(
        settings: StorageSettings,
        disk: Arc<dyn Disk>,
        around: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
    ) -> Result<(Arc<Self>, Recovered), StorageError> {
        let entered = Entered::take(settings, disk, Blocking::Threads).await?;
        let store = entered.open_store().await?;
        let Parts {
            core,
            recovered,
            writer,
            checkpointer,
            asks,
        } = entered.open(around(store)).await?;
        core.log.run(writer)?;
        let checkpointer = tokio::spawn(checkpointer.run());
        let checkpointer = Mutex::new(Some(checkpointer));
        let storage = Self {
            core,
            asks,
            checkpointer,
        };
        Ok((Arc::new(storage), recovered))
    }

    /// Opens a storage over `store` without a thread or task: the caller drives log and
    /// checkpoints.
    ///
    /// # Errors
    /// Those of [`Storage::open`].
    #[cfg(any(test, feature = "conformance"))]
    pub async fn open_stepped(
        settings: StorageSettings,
        disk: Arc<dyn Disk>,
        store: Arc<dyn Store>,
    ) -> Result<(Arc<Self>, Recovered, crate::Steps), StorageError> {
        let entered = Entered::take(settings, disk, Blocking::Here).await?;
        let Parts {
            core,
            recovered,
            writer,
            checkpointer,
            asks,
        } = entered.open(store).await?;
        let steps = crate::Steps::new(writer, checkpointer);
        let storage = Self {
            core,
            asks,
            checkpointer: Mutex::new(None),
        };
        Ok((Arc::new(storage), recovered, steps))
    }

    /// Queues records for the log and returns at once; [`Storage::durable`] reports when they
    /// are durable. The log's thread is woken when the returned `Queued` is dropped, so that a
    /// caller can release its locks first. Wait for [`Storage::room`] before.
    ///
    /// They may wait for space in which the log's next file can be allocated, without bound. For
    /// records that a client waits for, there is [`Storage::append_allocated`].
    ///
    /// # Errors
    /// All records are taken, or none. `Exhausted` if the queue or a record is over its limit,
    /// `NoSpace` if the disk is full, `NoDescriptors` if no file can be opened, `Truncating` while
    /// the end of the log is cut off, `Closed`, or the failure of the log.
    ///
    /// # Panics
    /// If the records don't continue the log: indexes without gaps, epochs that don't fall,
    /// versions that grow.
    pub fn append<R: Into<Arc<Record>>>(&self, records: Vec<R>) -> Result<Queued, StorageError> {
        self.append_into(records, Target::Any)
    }

    /// As [`Storage::append`], for records that must become durable or be refused, however full the
    /// disk becomes: takes them only into space that the log has allocated. Stay within
    /// [`Storage::log_room`], and wait for [`Storage::room_for`] before.
    ///
    /// # Errors
    /// Those of `append`, and `Growing` if the space is not allocated yet: retry soon.
    ///
    /// # Panics
    /// As `append`.
    pub fn append_allocated<R: Into<Arc<Record>>>(
        &self,
        records: Vec<R>,
    ) -> Result<Queued, StorageError> {
        self.append_into(records, Target::Allocated)
    }

    fn append_into<R: Into<Arc<Record>>>(
        &self,
        records: Vec<R>,
        target: Target,
    ) -> Result<Queued, StorageError> {
        // A failed log reports the failure before it closes its queue.
        if let Some(error) = self.core.failure.get() {
            return Err(error);
        }
        let shortage = self.core.shortage().filter(|_| !self.core.has_room());
        let appended = match shortage {
            Some(shortage) => Err(shortage),
            None => {
                let records = records.into_iter().map(Into::into);
                self.core.log.append_into(records.collect(), target)
            }
        };
        appended.inspect_err(meters::refused)
    }

    /// The last record that is durable. The sender is dropped when the log fails or is closed.
    ///
    /// It goes back when the log is [truncated](Storage::truncate). As with every watch, a receiver
    /// may then see only a later record, of another epoch, whose index is not below the last one
    /// it saw: who counts what is durable compares positions, not indexes alone, and counts anew
    /// after a truncation.
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<Position> {
        self.core.log.durable().clone()
    }

    /// The id of its log.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.core.log_id
    }

    /// Waits until storage has failed; the process must then stop.
    pub async fn failed(&self) -> StorageError {
        self.core.failure.wait().await
    }

    /// Makes a promise durable before it returns: no epoch below `epoch` is acknowledged any
    /// more (REP-PROMISE). Also stores the cluster state, if there is one (COORD-BACK). An epoch
    /// below an earlier promise does not lower that.
    ///
    /// # Errors
    /// `NoSpace` if the disk is full, `NoDescriptors` if no file can be opened: nothing was
    /// changed. Else a failure of the disk, which fails the storage.
    pub async fn promise(
        &self,
        epoch: Epoch,
        cluster_state: Option<Bytes>,
    ) -> Result<(), StorageError> {
        let core = Arc::clone(&self.core);
        // The change is finished even if the caller is dropped.
        let promising = move || core.change(|| core.node_state.promise(epoch, cluster_state));
        self.core.blocking.run(promising).await
    }

    /// Stores the platform time, durably before it returns; the next process continues from it
    /// (CLOCK-STEADY).
    ///
    /// # Errors
    /// `NoSpace` if the disk is full: the earlier stored time remains. Else a failure of the
    /// disk, which fails the storage.
    pub async fn store_time(&self, reading: TimeReading) -> Result<(), StorageError> {
        let core = Arc::clone(&self.core);
        let storing = move || {
            let dir = &core.settings.dir;
            core.change(|| stored_time::write(&*core.log_place.disk, dir, &reading))
        };
        self.core.blocking.run(storing).await
    }

    /// Waits until unstored entries, the log's queue and the remembered requests are under
    /// their limits. Returns at once if space or descriptors are short or storage has failed:
    /// `append` then returns the reason.
    ///
    /// [`Storage::room_for`] waits for the log's space, too.
    pub async fn room(&self) {
        self.room_for(0).await;
    }

    /// As [`Storage::room`], and waits until the log has allocated the space for a record of so
    /// many bytes, as [`Storage::check_record`] counts them.
    pub async fn room_for(&self, bytes: u64) {
        let queue = self.core.log.queue();
        let mut waiting: Option<Waiting> = None;
        loop {
            let stored = self.core.room.notified();
            let written = queue.shorter.notified();
            tokio::pin!(stored, written);
            stored.as_mut().enable();
            written.as_mut().enable();
            let reached = self.core.limit_reached();
            let reached = reached.or_else(|| queue.reached(bytes));
            let Some(limit) = reached else {
                break;
            };
            if self.is_refusing() {
                break;
            }
            waiting.get_or_insert_with(|| Waiting::on(limit));
            tokio::select! {
                biased;
                () = stored => {}
                () = written => {}
            }
        }
        if let Some(waiting) = waiting {
            waiting.done();
        }
    }

    /// Whether `append` returns an error whatever it is given, so that nobody may wait for room.
    fn is_refusing(&self) -> bool {
        let core = &self.core;
        core.failure.get().is_some()
            || core.log.queue().is_over()
            || (core.shortage().is_some() && !core.has_room())
    }

    /// What [`Storage::append_allocated`] takes now. Without bound if it returns another error than
    /// `Growing`.
    #[must_use]
    pub fn log_room(&self) -> LogRoom {
        match self.is_refusing() {
            true => LogRoom::UNBOUNDED,
            false => self.core.log.queue().room(),
        }
    }

    /// The bytes that a record with this payload takes in the log.
    ///
    /// # Errors
    /// `Exhausted` if that is over the limit of a record, `max_record_bytes`.
    pub fn check_record(&self, payload: &Payload) -> Result<u64, StorageError> {
        let checked = self.core.log.queue().check_record(payload);
        checked.inspect_err(meters::refused)
    }

    /// Applies committed records in order: their effects are visible on return.
    ///
    /// # Panics
    /// If the records don't continue what was applied, or one is not durable in this log, is being
    /// cut off, or is another one than the log has.
    pub fn apply<R: Borrow<Record> + Clone + Into<Arc<Record>>>(&self, records: &[R]) {
        let Some(last) = records.last() else {
            return;
        };
        let (core, last) = (&*self.core, Cursor::of(last.borrow()));
        // Prepared before the lock is taken.
        let followed = core.tails.prepare(records);
        let unstored = {
            let mut applying = locked(&core.applying);
            core.check_applicable(last.position);
            let before = applying.unstored_places();
            let mut expiry = u64::MAX;
            let mut requests = locked(&core.requests);
            for record in records {
                let record = record.borrow();
                let (effects, outcome) = match applying.take(record) {
                    Ok(taken) => taken,
                    Err(broken) => panic!("applied out of turn: {broken}"),
                };
                if let Some((id, outcome)) = outcome {
                    requests.insert(id, outcome);
                }
                for (key, entry) in effects.entries() {
                    if let Some(expires) = entry.expires() {
                        expiry = expiry.min(expires.to_bits());
                    }
                    core.memory.apply(key, entry);
                }
            }
            drop(requests);
            core.unstored_expiry.fetch_min(expiry, Ordering::Relaxed);
            // Under the lock, so that records are published in order.
            core.tails.publish(followed, last);
            let unstored = applying.unstored_places();
            core.unstored_places
                .fetch_add(unstored - before, Ordering::Relaxed);
            unstored
        };
        let is_much = core.memory.active_bytes() >= core.settings.checkpoint_bytes;
        if is_much || unstored >= OUTCOMES_PER_CHECKPOINT {
            core.pressure.notify_one();
        }
    }

    /// Index and version of the last applied record. Read it *before* reading keys: a key
    /// found absent then was absent as of that record.
    #[must_use]
    pub fn applied(&self) -> (Index, Version) {
        let last = self.core.tails.applied();
        (last.position.index, last.version)
    }

    /// The outcome of an applied request, by the random part of its id, if it is still
    /// remembered.
    #[must_use]
    pub fn outcome(&self, random: &[u8; 16]) -> Option<Outcome> {
        locked(&self.core.requests).get(random)
    }

    /// Forgets requests that no master accepts any more at `now` of the cluster clock
    /// (TXN-IDS); writers may wait for that. Forgets a few thousand at most, so that writers
    /// wait only shortly, and returns whether that was all.
    pub fn forget_requests(&self, now: Version) -> bool {
        let is_all = locked(&self.core.requests).forget(RequestId::horizon(now));
        self.core.room.notify_waiters();
        is_all
    }

    /// Up to `limit` stored keys that expire at `now` or earlier, with the versions that wrote
    /// them. Memory may have newer changes.
    ///
    /// # Errors
    /// Failures of the store.
    pub async fn expired(
        &self,
        now: Version,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Version)>, StorageError> {
        self.core.store.expired(now, limit).await
    }

    /// The earliest expiry that a change since the last checkpoint began gave a key, if any did: only
    /// a checkpoint lets [`Storage::expired`] find the key.
    #[must_use]
    pub fn unstored_expiry(&self) -> Option<Version> {
        let bits = self.core.unstored_expiry.load(Ordering::Relaxed);
        (bits != u64::MAX).then(|| Version::from_bits(bits))
    }

    /// The version of the oldest stored tombstone.
    ///
    /// # Errors
    /// Failures of the store.
    pub async fn oldest_tombstone(&self) -> Result<Option<Version>, StorageError> {
        self.core.store.oldest_tombstone().await
    }

    /// Looks a key up in memory, by the bytes of its item key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Residence {
        self.core.memory.get(key)
    }

    /// The number of ended checkpoints. Read it *after* [`Storage::get`] returned `Unknown`:
    /// if it is the same as before a [`Storage::load`], the item that the load returned for the
    /// key is still valid.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.core.memory.generation()
    }

    /// What each of `keys` holds, in their order: from memory, else by one batched read of the
    /// store. Values read from the store are kept in memory.
    ///
    /// # Errors
    /// `Damaged` if a row's checksum does not match, `Busy` if a checkpoint ended during each
    /// try, and failures of the store.
    pub async fn load(&self, keys: &[ItemKey]) -> Result<Vec<Option<Item>>, StorageError> {
        let memory = &self.core.memory;
        let mut items = vec![None; keys.len()];
        let mut missing: Vec<usize> = (0..keys.len()).collect();
        for _ in 0..LOAD_ATTEMPTS {
            let generation = memory.generation();
            missing.retain(|at| match memory.get(keys[*at].as_bytes()) {
                Residence::Found(item) => {
                    items[*at] = Some(item);
                    false
                }
                Residence::Absent => false,
                Residence::Unknown => true,
            });
            if missing.is_empty() {
                return Ok(items);
            }
            let asked: Vec<ItemKey> = missing.iter().map(|at| keys[*at].clone()).collect();
            let rows = self.core.store.get_many(&asked).await?;
            let mut outrun = Vec::new();
            for ((at, key), row) in missing.iter().zip(&asked).zip(rows) {
                match memory.admit(key, row, generation) {
                    Admission::Settled(item) => items[*at] = item,
                    Admission::Outrun => outrun.push(*at),
                }
            }
            missing = outrun;
            if missing.is_empty() {
                return Ok(items);
            }
        }
        Err(StorageError::Busy)
    }

    /// One state of a range: everything applied at one moment after the call. While it is open
    /// the store's write-ahead file only grows, and the range's pinned entries stay in memory,
    /// so it must be dropped within a bounded time.
    ///
    /// # Errors
    /// `TooManyOpen` over the limit `open_snapshots`, `Exhausted` if open snapshots keep too
    /// much in memory, `Untidy` if snapshots have kept the store's write-ahead file growing for
    /// too long, `Busy` if a checkpoint ended during each try, and failures of the store.
    pub async fn snapshot(&self, range: ItemRange) -> Result<Snapshot, StorageError> {
        Snapshot::open(&self.core, range).await
    }

    /// The node's whole state at one moment after the call, for another node, in pieces of about
    /// `piece_bytes`; a larger entry comes alone. It takes a checkpoint, whose state it returns.
    /// One can be open at a time, for as long as its reader takes.
    ///
    /// # Errors
    /// `TooManyOpen` over the limit `node_snapshots`; those of [`Storage::checkpoint`]; failures
    /// of the store.
    pub async fn node_snapshot(&self, piece_bytes: usize) -> Result<NodeSnapshot, StorageError> {
        let place = NodeSnapshot::enter(&self.core)?;
        self.checkpoint().await?;
        NodeSnapshot::open(&self.core, place, piece_bytes).await
    }

    /// Follows the log after `after`, which must be an applied record of it; `None`: after the
    /// last applied record. The default cursor is the log's beginning.
    ///
    /// # Errors
    /// `Unknown` if `after` is no applied record, `Trimmed` if the records after it left the
    /// log; failures of the disk.
    pub async fn tail(&self, after: Option<Cursor>) -> Result<Tail, TailError> {
        let tails = Arc::clone(&self.core.tails);
        match after {
            Some(after) => Tail::open(tails, after).await,
            None => Ok(Tail::at_end(tails)),
        }
    }

    /// Follows the log from `first` on, which must be an applied record of it: the tail returns
    /// it first.
    ///
    /// # Errors
    /// `Unknown` if `first` is no applied record, `Trimmed` if it left the log; failures of
    /// the disk.
    pub async fn tail_with(&self, first: Cursor) -> Result<Tail, TailError> {
        Tail::open_with(Arc::clone(&self.core.tails), first).await
    }

    /// Takes a checkpoint of everything applied so far.
    ///
    /// # Errors
    /// `NoSpace`, `NoDescriptors` and `Busy`, after which it is retried; `Superseded` and other
    /// failures, which fail the storage; `Closed`.
    pub async fn checkpoint(&self) -> Result<(), StorageError> {
        self.ask(false).await
    }

    async fn ask(&self, last: bool) -> Result<(), StorageError> {
        let (reply, answer) = oneshot::channel();
        let asked = self.asks.send(Ask { reply, last }).await;
        asked.map_err(|_| StorageError::Closed)?;
        answer.await.map_err(|_| StorageError::Closed)?
    }

    /// Refuses more records, takes a last checkpoint, writes the rest of the log, closes the
    /// store and unlocks the directory. Closing again does nothing.
    ///
    /// It waits for the checkpoint for at most 5 s: the log has what it would have stored, and
    /// the next start reads it from there.
    ///
    /// # Errors
    /// The failure of the log or of the last checkpoint; everything is closed anyway, and what
    /// was durable stays durable.
    pub async fn close(&self) -> Result<(), StorageError> {
        self.close_within(LAST_CHECKPOINT_TIME).await
    }

    pub(crate) async fn close_within(&self, time: Duration) -> Result<(), StorageError> {
        let Some(checkpointer) = locked(&self.checkpointer).take() else {
            return Ok(());
        };
        self.core.log.refuse();
        // Before the log's thread ends, so that it still removes what is stored now.
        let stored = match timeout(time, self.ask(true)).await {
            Ok(stored) => {
                // The task ends after its last reply; a panic in it was already reported.
                let _ = checkpointer.await;
                stored
            }
            Err(_) => {
                let why = "the last checkpoint takes too long; the log has its content";
                tracing::warn!(?time, "{why}");
                Ok(())
            }
        };
        let core = Arc::clone(&self.core);
        let closing = move || {
            core.log.close();
            let is_sound = core.failure.get().is_none();
            if is_sound && let WalSync::Interval(_) = core.settings.sync {
                // The log's thread has synced the rest of the log.
                return core.node_state.set_unsynced_boot(None);
            }
            Ok(())
        };
        let marked = self.core.blocking.run(closing).await;
        // A checkpoint under way keeps the store open. The directory stays locked until it ends.
        let lock = locked(&self.core.lock).take();
        let store = Arc::clone(&self.core.store);
        let closing = tokio::spawn(async move {
            store.close().await;
            drop(lock);
        });
        if timeout(STORE_CLOSE_TIME, closing).await.is_err() {
            tracing::warn!(time = ?STORE_CLOSE_TIME, "the store is not closed yet");
        }
        self.core.room.notify_waiters();
        match self.core.failure.get() {
            Some(error) => Err(error),
            None => marked.and(stored),
        }
    }

    /// Changes policy and limits of the clean entries in memory. On return the limits hold;
    /// evicted entries are read from the store again. Blocks for about 0.3 µs for each evicted
    /// entry, one shard at a time, so that readers wait only for one shard's part.
    pub fn set_memory(&self, limits: MemoryLimits) {
        self.core.memory.set_limits(limits);
    }
}
