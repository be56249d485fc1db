//! A node's storage as the data node uses it.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tierkv_types::{
    Epoch, Incarnation, Index, ItemKey, ItemRange, LogId, Payload, Position, Record, RequestId,
    Version,
};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    Disk, Item, MemoryLimits, Outcome, Recovered, Residence, Snapshot, StorageError,
    StorageSettings, WalSync,
    checkpoint::{Ask, CHECKPOINT_ASKERS, Checkpointer},
    disk::DiskLock,
    failure::Failure,
    locked,
    log::{Log, LogFound, LogPlace, LogStart},
    memory::{Admission, Memory, SHARDS},
    meters::{self, Waiting},
    node_state::NodeState,
    recovery,
    requests::{REQUEST_LIMIT, Requests},
    snapshot::Open,
    store::{CheckpointBatch, SqliteStore, Store},
    tail::{Cursor, Tails},
};

/// Smallest segment that may be set; tests use it.
const MIN_SEGMENT_BYTES: u64 = 4096;
/// Places of outcomes not yet stored that trigger a checkpoint at once: writes to few keys
/// make few entries, and as many of these as any.
const OUTCOMES_PER_CHECKPOINT: usize = 1 << 18;
/// How often a read that checkpoints outrun is repeated before it is given up. One that
/// takes as long as this many checkpoints is no use to anyone.
pub(crate) const LOAD_ATTEMPTS: usize = 16;

/// How long closing waits for the last checkpoint, and how long for the store after it.
const LAST_CHECKPOINT_TIME: Duration = Duration::from_secs(5);
const STORE_CLOSE_TIME: Duration = Duration::from_secs(2);

/// Commit log, memory tier and store of one node.
///
/// The data node appends records, waits until they are durable and committed, then
/// applies them. Reads ask memory first and the store for what memory doesn't know.
#[derive(Debug)]
pub struct Storage {
    pub(crate) core: Arc<Core>,
    asks: mpsc::Sender<Ask>,
    checkpointer: Mutex<Option<JoinHandle<()>>>,
}

/// What the checkpointer shares with callers.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) settings: StorageSettings,
    pub(crate) log_id: LogId,
    pub(crate) log: Log,
    pub(crate) log_place: LogPlace,
    pub(crate) memory: Memory,
    pub(crate) store: Arc<dyn Store>,
    node_state: NodeState,
    pub(crate) failure: Arc<Failure>,
    /// Held over every record's effect, so that a freeze falls between two records.
    pub(crate) applying: Mutex<Applying>,
    /// Told of what was applied. It answers [`Storage::applied`], too, without waiting for
    /// a long `apply`.
    pub(crate) tails: Arc<Tails>,
    pub(crate) stored: Mutex<Stored>,
    /// Of everything applied.
    pub(crate) requests: Mutex<Requests>,
    pub(crate) open_snapshots: Open,
    /// The last checkpoint found no space for the store.
    pub(crate) is_full: AtomicBool,
    /// Told when pinned bytes became fewer.
    pub(crate) room: Notify,
    /// Told when there is enough to checkpoint.
    pub(crate) pressure: Notify,
    lock: Mutex<Option<Arc<dyn DiskLock>>>,
}

/// Where applying stands.
#[derive(Debug)]
pub(crate) struct Applying {
    pub(crate) position: Position,
    pub(crate) clock: Version,
    pub(crate) epochs: Vec<(Epoch, Index)>,
    /// Since the last freeze: up to where tombstones are forgotten, and what requests
    /// were answered.
    pub(crate) forgotten: Option<Version>,
    pub(crate) outcomes: Vec<(RequestId, Outcome)>,
    /// Places that these take.
    pub(crate) outcome_places: usize,
}

/// Where the store stands.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) applied: Position,
    pub(crate) last_checkpoint: Option<Instant>,
}

impl Storage {
    /// Opens the storage in `settings.dir`, making it if there is none, and recovers.
    ///
    /// # Errors
    /// `Locked` if another process uses the directory; `Damaged`, with file and place, if
    /// what is there is not what was written (a torn end of the log is cut, it was never
    /// acknowledged); `Newer` if a newer release wrote it; failures of disk and store.
    pub async fn open(
        settings: StorageSettings,
        disk: Arc<dyn Disk>,
    ) -> Result<(Arc<Self>, Recovered), StorageError> {
        Self::open_with(settings, disk, |store| store).await
    }

    /// Opens the storage with something of the caller's around the store.
    pub(crate) async fn open_with(
        settings: StorageSettings,
        disk: Arc<dyn Disk>,
        around: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
    ) -> Result<(Arc<Self>, Recovered), StorageError> {
        assert!(
            settings.segment_bytes >= MIN_SEGMENT_BYTES,
            "segment_bytes is under {MIN_SEGMENT_BYTES}"
        );
        meters::describe();
        let (lock, node_state) = {
            let (settings, disk) = (settings.clone(), Arc::clone(&disk));
            blocking(move || enter(&settings, disk)).await?
        };
        let store_path = settings.dir.join(recovery::STORE_FILE);
        let store = SqliteStore::open(Arc::clone(&disk), &store_path, settings.sync).await?;
        let store = around(Arc::new(store));
        let incarnation = Incarnation(rand::random());
        let mut meta = store.claim(incarnation).await?;
        let mut place = recovery::place(&disk, &settings);
        let found = {
            let meta = meta.clone();
            blocking(move || {
                let (log, recovered) =
                    recovery::recover(&mut place, &node_state, &meta, &store_path)?;
                enter_sync_mode(&place, &log, &node_state)?;
                Ok((place, node_state, log, recovered))
            })
        };
        let (place, node_state, log, recovered) = found.await?;
        if meta.log_id != log.log_id {
            meta.log_id = log.log_id;
            let batch = CheckpointBatch {
                meta: meta.clone(),
                ..CheckpointBatch::default()
            };
            store.checkpoint(incarnation, batch).await?;
        }
        let core_outcomes = store.outcomes().await?;
        let failure = Arc::new(Failure::new());
        let log_place = place.clone();
        let applied = Cursor {
            position: meta.applied,
            version: meta.clock,
        };
        let tails = Tails::new(place.clone(), applied);
        let log = Log::start(LogStart {
            place,
            segments: log.segments,
            offset: log.offset,
            last: recovered.last,
            clock: recovered.clock,
            retention: settings.log_retention,
            limit_bytes: settings.log_limit_bytes,
            failure: Arc::clone(&failure),
            lock: Arc::clone(&lock),
        })?;
        let mut requests = Requests::default();
        for (id, outcome) in core_outcomes {
            requests.insert(&id, &outcome);
        }
        let core = Arc::new(Core {
            log_id: recovered.log_id,
            log,
            log_place,
            memory: Memory::new(settings.memory, SHARDS),
            store,
            node_state,
            failure,
            tails: Arc::new(tails),
            stored: Mutex::new(Stored {
                applied: meta.applied,
                last_checkpoint: None,
            }),
            applying: Mutex::new(Applying {
                position: meta.applied,
                clock: meta.clock,
                epochs: meta.epochs,
                forgotten: None,
                outcomes: Vec::new(),
                outcome_places: 0,
            }),
            requests: Mutex::new(requests),
            open_snapshots: Open::new(),
            is_full: AtomicBool::new(false),
            room: Notify::new(),
            pressure: Notify::new(),
            lock: Mutex::new(Some(lock)),
            settings,
        });
        let (asks, asked) = mpsc::channel(CHECKPOINT_ASKERS);
        let checkpointer = Checkpointer::new(Arc::clone(&core), incarnation, asked);
        let checkpointer = tokio::spawn(checkpointer.run());
        let storage = Arc::new(Self {
            core,
            asks,
            checkpointer: Mutex::new(Some(checkpointer)),
        });
        Ok((storage, recovered))
    }

    /// Queues records for the log and returns at once; they are durable when
    /// [`Storage::durable`] says so. A caller awaits [`Storage::room`] first.
    ///
    /// # Errors
    /// All or none of the records is taken. `Exhausted` if the queue or a record is over
    /// its limit, `NoSpace` if the disk is full, `Closed`, or the failure of the log.
    ///
    /// # Panics
    /// If the records don't continue the log: without gaps, by epochs that don't fall, by
    /// versions that grow.
    // Owned, so that a caller can't be tempted to change what is being logged.
    #[allow(clippy::needless_pass_by_value)]
    pub fn append(&self, records: Vec<Record>) -> Result<(), StorageError> {
        // A failed log closes its queue a moment after it has told of the failure.
        if let Some(error) = self.core.failure.get() {
            return Err(error);
        }
        let appended = if self.core.is_full.load(Ordering::Relaxed) && !self.core.has_room() {
            Err(StorageError::NoSpace {
                file: self.core.settings.dir.clone(),
            })
        } else {
            self.core.log.append(&records)
        };
        appended.inspect_err(meters::refused)
    }

    /// The last record that is durable. The sender goes away when the log has failed or
    /// was closed.
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<Position> {
        self.core.log.durable().clone()
    }

    /// Resolves when storage has failed: the process must stop. Never otherwise.
    pub async fn failed(&self) -> StorageError {
        self.core.failure.wait().await
    }

    /// Makes a promise durable before it returns: no lower epoch than `epoch` is
    /// acknowledged any more (REP-PROMISE). Also keeps the cluster state, if there is one
    /// (COORD-BACK). A lower epoch than an earlier one's changes nothing of that.
    ///
    /// # Errors
    /// `NoSpace` if the disk is full, and nothing was changed; else the failure of the
    /// disk, which is storage's own.
    pub async fn promise(
        &self,
        epoch: Epoch,
        cluster_state: Option<Bytes>,
    ) -> Result<(), StorageError> {
        let core = Arc::clone(&self.core);
        // A caller that goes away leaves a change half-made for nobody: it is finished.
        blocking(move || {
            if let Some(error) = core.failure.get() {
                return Err(error);
            }
            let done = core.node_state.promise(epoch, cluster_state);
            if let Err(error) = &done
                && !error.is_passing()
            {
                core.failure.set(error.clone());
                core.room.notify_waiters();
            }
            done
        })
        .await
    }

    /// Waits until what the store does not have yet, what waits for the log and the
    /// remembered requests are under their bounds. Returns at once if they will not be, for
    /// the disk is full or storage has failed: `append` then says why.
    pub async fn room(&self) {
        let queue = self.core.log.queue();
        let mut waiting: Option<Waiting> = None;
        loop {
            let stored = self.core.room.notified();
            let written = queue.shorter.notified();
            tokio::pin!(stored, written);
            stored.as_mut().enable();
            written.as_mut().enable();
            let reached = self.core.limit_reached();
            let reached = reached.or_else(|| (!queue.has_room()).then_some(meters::LOG_QUEUE));
            let is_full = self.core.is_full.load(Ordering::Relaxed);
            let Some(limit) = reached else {
                break;
            };
            if is_full || queue.is_over() || self.core.failure.get().is_some() {
                break;
            }
            waiting.get_or_insert_with(|| Waiting::on(limit));
            tokio::select! {
                () = stored => {}
                () = written => {}
            }
        }
        if let Some(waiting) = waiting {
            waiting.done();
        }
    }

    /// Applies committed records in order: their effects are visible on return.
    ///
    /// # Panics
    /// If the records don't continue what was applied, or one is not durable in this log.
    pub fn apply(&self, records: &[Record]) {
        let Some(last) = records.last() else {
            return;
        };
        let core = &*self.core;
        assert!(
            last.position.index <= core.log.durable().borrow().index,
            "I1: record {} is applied before it is durable",
            last.position
        );
        // A copy, made before anybody has to wait for it.
        let followed = core.tails.prepare(records);
        let outcomes = {
            let mut applying = locked(&core.applying);
            let mut requests = locked(&core.requests);
            for record in records {
                applying.advance(record);
                if let Some((id, outcome)) = Outcome::of(record) {
                    requests.insert(&id, &outcome);
                    applying.outcome_places += outcome.places();
                    applying.outcomes.push((id, outcome));
                }
                if let Payload::Forget { up_to } = record.payload {
                    applying.forgotten = applying.forgotten.max(Some(up_to));
                }
                for change in record.changes() {
                    core.memory.apply(change, record.version);
                }
            }
            drop(requests);
            // In the order of applying.
            core.tails.publish(followed, Cursor::of(last));
            applying.outcome_places
        };
        let is_much = core.memory.active_bytes() >= core.settings.checkpoint_bytes;
        if is_much || outcomes >= OUTCOMES_PER_CHECKPOINT {
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

    /// What became of a request that was applied, if it is still remembered.
    #[must_use]
    pub fn outcome(&self, id: &RequestId) -> Option<Outcome> {
        locked(&self.core.requests).get(id)
    }

    /// Forgets the requests that no master accepts any more, as the cluster clock says
    /// (TXN-IDS); writers may be waiting for that.
    pub fn forget_requests(&self, now: Version) {
        locked(&self.core.requests).forget(RequestId::horizon(now));
        self.core.room.notify_waiters();
    }

    /// Up to `limit` stored keys that expire at `now` or earlier, with the versions that
    /// wrote them. Memory may know of newer changes.
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

    /// The version of the oldest stored tombstone.
    ///
    /// # Errors
    /// Failures of the store.
    pub async fn oldest_tombstone(&self) -> Result<Option<Version>, StorageError> {
        self.core.store.oldest_tombstone().await
    }

    /// What memory alone knows of a key, by its item key's bytes.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Residence {
        self.core.memory.get(key)
    }

    /// How many times entries have gone from memory's keeping to the store's. Read it
    /// *after* [`Storage::get`] answered `Unknown`: as long as it is what it was before a
    /// [`Storage::load`], what that load answered for the key still holds.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.core.memory.generation()
    }

    /// What each of `keys` holds, in their order: memory first, then one batched read of
    /// the store for what memory doesn't know. Values read are kept in memory.
    ///
    /// # Errors
    /// `Damaged` if a row's checksum does not match, `Busy` if checkpoints outran the
    /// read too often, and failures of the store.
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

    /// One state of a range: everything applied at one moment after the call. While it is
    /// open the store's write-ahead file only grows, and what was pinned of the range stays
    /// in memory: it is to be dropped within a bounded time.
    ///
    /// # Errors
    /// `TooManyOpen` over the limit `open_snapshots`, `Exhausted` if those that are open keep
    /// too much in memory, `Untidy` if snapshots have kept the store's write-ahead file
    /// growing for too long, `Busy` if checkpoints outran it too often, and failures of the
    /// store.
    pub async fn snapshot(&self, range: ItemRange) -> Result<Snapshot, StorageError> {
        Snapshot::open(&self.core, range).await
    }

    /// Makes a checkpoint of everything applied so far.
    ///
    /// # Errors
    /// `NoSpace` and `Busy`, after which it will be tried again; `Superseded` and other
    /// failures, which are storage's own; `Closed`.
    pub async fn checkpoint(&self) -> Result<(), StorageError> {
        self.ask(false).await
    }

    async fn ask(&self, last: bool) -> Result<(), StorageError> {
        let (reply, answer) = oneshot::channel();
        let asked = self.asks.send(Ask { reply, last }).await;
        asked.map_err(|_| StorageError::Closed)?;
        answer.await.map_err(|_| StorageError::Closed)?
    }

    /// Takes no more records, makes a last checkpoint of what was applied, writes the rest
    /// of the log out, closes the store and gives the directory up. Closing again does nothing.
    ///
    /// A checkpoint that takes longer than 5 s is not waited for: what it would have stored
    /// is in the log and comes back at the next start.
    ///
    /// # Errors
    /// The failure of the log or of the last checkpoint; everything is closed all the
    /// same, and what was durable stays so.
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
                // It ends after its last answer; a panic in it has been told already.
                let _ = checkpointer.await;
                stored
            }
            Err(_) => {
                let why = "the last checkpoint takes too long, the log has what it would store";
                tracing::warn!(?time, "{why}");
                Ok(())
            }
        };
        let core = Arc::clone(&self.core);
        let marked = blocking(move || {
            core.log.close();
            let is_sound = core.failure.get().is_none();
            if is_sound && let WalSync::Interval(_) = core.settings.sync {
                // Its thread has synced the rest of it.
                return core.node_state.set_unsynced_boot(None);
            }
            Ok(())
        })
        .await;
        // A checkpoint under way keeps the store open; until it ends, nobody else may have
        // the directory.
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

    /// Changes policy and bounds of the entries that memory keeps though the store has
    /// them. On return the bounds hold; entries that go are read from the store again.
    /// Blocks for about 0.3 µs for each entry that goes, shard by shard, so that others
    /// wait for a part of that.
    pub fn set_memory(&self, limits: MemoryLimits) {
        self.core.memory.set_limits(limits);
    }
}

impl Core {
    /// Whether what only memory has is under its bounds.
    fn has_room(&self) -> bool {
        self.limit_reached().is_none()
    }

    /// The bound of what only memory has that is reached.
    fn limit_reached(&self) -> Option<&'static str> {
        if self.memory.pinned_bytes() >= self.settings.pinned_limit_bytes {
            return Some(meters::PINNED);
        }
        let are_many = locked(&self.requests).places() >= REQUEST_LIMIT;
        are_many.then_some(meters::REQUESTS)
    }
}

impl Applying {
    fn advance(&mut self, record: &Record) {
        let (last, next) = (self.position, record.position);
        assert!(
            next.index == last.index.next() && next.epoch >= last.epoch,
            "record {next} is applied after {last}"
        );
        assert!(
            record.version > self.clock,
            "I5: record {next} does not raise the version"
        );
        if next.epoch > last.epoch {
            self.epochs.push((next.epoch, next.index));
        }
        self.position = next;
        self.clock = record.version;
    }
}

/// Makes the directories, locks them, reads the node state and sees whether the log is to
/// be believed. Blocks.
fn enter(
    settings: &StorageSettings,
    disk: Arc<dyn Disk>,
) -> Result<(Arc<dyn DiskLock>, NodeState), StorageError> {
    let dir = &settings.dir;
    let boot = disk.boot_id();
    let boot = boot.map_err(|error| StorageError::io("learn the boot of", dir, error))?;
    disk.create_dir(&dir.join("log"))
        .and_then(|()| disk.sync_dir(dir))
        .map_err(|error| StorageError::io("make", dir, error))?;
    let lock = lock(dir, &*disk)?;
    let node_state = NodeState::open(disk, dir)?;
    let unsynced = node_state.facts().and_then(|facts| facts.unsynced_boot);
    if unsynced.is_some_and(|unsynced| unsynced != boot) {
        return Err(StorageError::Unsynced { dir: dir.clone() });
    }
    Ok((Arc::from(lock), node_state))
}

/// Takes the lock of a node's directory. Blocks.
pub(crate) fn lock(dir: &Path, disk: &dyn Disk) -> Result<Box<dyn DiskLock>, StorageError> {
    let locked = disk.lock(&dir.join("lock"));
    let locked = locked.map_err(|error| StorageError::io("lock", dir, error))?;
    locked.ok_or_else(|| StorageError::Locked {
        dir: dir.to_owned(),
    })
}

/// Says in the node state how the log will be written. What an earlier process of this
/// boot wrote is synced first, if from now on all that is there is to be durable. Blocks.
fn enter_sync_mode(
    place: &LogPlace,
    log: &LogFound,
    state: &NodeState,
) -> Result<(), StorageError> {
    let fail = |error| StorageError::io("learn the boot of", &place.dir, error);
    match place.sync {
        WalSync::Interval(_) => state.set_unsynced_boot(Some(place.disk.boot_id().map_err(fail)?)),
        WalSync::Always | WalSync::Never => {
            // What an earlier process wrote and had no time to sync may be in the system's
            // memory alone, and reads like all else.
            log.sync(place)?;
            state.set_unsynced_boot(None)
        }
    }
}

/// Runs what blocks on a thread that may. It runs to its end, also when the caller goes
/// away; it does not when the runtime is shutting down.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(StorageError::Closed),
    }
}
