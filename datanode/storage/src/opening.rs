//! A start, step by step: the directory, the store, the log, then the storage over them.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, AtomicUsize},
};

use tierkv_types::Incarnation;
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::{
    Disk, Recovered, Row, StorageError, StorageSettings,
    blocking::Blocking,
    checkpoint::{Ask, CHECKPOINT_ASKERS, Checkpointer},
    core::{Core, Stored},
    directory::{enter, enter_sync_mode},
    disk::DiskLock,
    failure::Failure,
    log::{Log, LogFiles, LogPlace, LogStart, LogWriter, Rules},
    memory::{Memory, SHARDS},
    meters,
    node_state::NodeState,
    recovery,
    snapshot::open::Open,
    state::{Fold, Progress, Requests},
    store::{CheckpointBatch, NODE_SNAPSHOTS, SqliteStore, Store, StoreState},
    tail::tails::Tails,
};

/// The smallest allowed segment size, in bytes; tests use it.
const MIN_SEGMENT_BYTES: u64 = 4096;

/// A storage whose threads and tasks are not started yet.
pub(crate) struct Parts {
    pub(crate) core: Arc<Core>,
    pub(crate) recovered: Recovered,
    /// Writes the log.
    pub(crate) writer: LogWriter,
    pub(crate) checkpointer: Checkpointer,
    /// Sends requests for checkpoints.
    pub(crate) asks: mpsc::Sender<Ask>,
}

/// A locked directory.
pub(crate) struct Entered {
    pub(crate) settings: StorageSettings,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) lock: Arc<dyn DiskLock>,
    pub(crate) node_state: NodeState,
    pub(crate) blocking: Blocking,
}

impl Entered {
    /// Locks the directory `settings.dir`, creating it if there is none.
    pub(crate) async fn take(
        settings: StorageSettings,
        disk: Arc<dyn Disk>,
        blocking: Blocking,
    ) -> Result<Self, StorageError> {
        assert!(
            settings.segment_bytes >= MIN_SEGMENT_BYTES,
            "segment_bytes is under {MIN_SEGMENT_BYTES}"
        );
        meters::show();
        let (lock, node_state) = {
            let (settings, disk) = (settings.clone(), Arc::clone(&disk));
            blocking.run(move || enter(&settings, disk)).await?
        };
        Ok(Self {
            settings,
            disk,
            lock,
            node_state,
            blocking,
        })
    }

    /// Opens the store in the directory.
    pub(crate) async fn open_store(&self) -> Result<Arc<dyn Store>, StorageError> {
        let path = self.settings.dir.join(recovery::STORE_FILE);
        let store = SqliteStore::open(Arc::clone(&self.disk), &path, self.settings.sync);
        Ok(Arc::new(store.await?))
    }

    /// Claims the store, recovers the log, and builds the storage over them.
    pub(crate) async fn open(self, store: Arc<dyn Store>) -> Result<Parts, StorageError> {
        let incarnation = Incarnation(rand::random());
        let mut state = store.claim(incarnation).await?;
        if state.is_installing() {
            self.empty(&*store, incarnation).await?;
            state = StoreState::default();
        }
        let mut meta = state.meta.clone();
        let opened = self.recover(state).await?;
        if meta.log_id != opened.recovered.log_id {
            meta.log_id = opened.recovered.log_id;
            let batch = CheckpointBatch {
                meta: meta.clone(),
                ..CheckpointBatch::default()
            };
            store.checkpoint(incarnation, batch).await?;
        }
        let mut requests = Requests::default();
        for (id, outcome) in store.outcomes().await? {
            requests.insert(&id, &outcome);
        }
        Ok(opened.assemble(store, incarnation, requests))
    }

    /// Removes what an installation left that did not end: the log, then the part of a state in
    /// the store, and last the mark that shows it.
    async fn empty(&self, store: &dyn Store, incarnation: Incarnation) -> Result<(), StorageError> {
        tracing::warn!(
            dir = %self.settings.dir.display(),
            "the installation of a snapshot did not end; the node starts empty"
        );
        let place = recovery::place(&self.disk, &self.settings);
        self.blocking.run(move || place.remove_all()).await?;
        store.begin_install(incarnation).await?;
        let unmarked = CheckpointBatch {
            rows: vec![Row::installing(false)],
            ..CheckpointBatch::default()
        };
        store.checkpoint(incarnation, unmarked).await
    }

    async fn recover(self, state: StoreState) -> Result<Opened, StorageError> {
        let blocking = self.blocking;
        let recovering = move || {
            let mut place = recovery::place(&self.disk, &self.settings);
            let store_path = self.settings.dir.join(recovery::STORE_FILE);
            let (log, recovered) =
                recovery::recover(&mut place, &self.node_state, &state, &store_path)?;
            enter_sync_mode(&place, &self.node_state)?;
            if let Some(platform) = self.settings.platform {
                self.node_state.set_platform(platform)?;
            }
            Ok(Opened {
                entered: self,
                log: log.open(&place)?,
                place,
                stored: state.progress(&store_path)?,
                recovered,
            })
        };
        blocking.run(recovering).await
    }
}

/// A directory whose log is recovered.
struct Opened {
    entered: Entered,
    place: LogPlace,
    log: LogFiles,
    /// The log's state up to which the store has everything.
    stored: Progress,
    recovered: Recovered,
}

impl Opened {
    fn assemble(
        self,
        store: Arc<dyn Store>,
        incarnation: Incarnation,
        requests: Requests,
    ) -> Parts {
        let Entered {
            settings,
            lock,
            node_state,
            blocking,
            ..
        } = self.entered;
        let recovered = self.recovered;
        let failure = Arc::new(Failure::new());
        let applied = self.stored.cursor();
        let rules = Rules {
            segment_bytes: settings.segment_bytes,
            retention: settings.log_retention,
            limit_bytes: settings.log_limit_bytes,
        };
        let (log, writer) = Log::new(LogStart {
            place: self.place.clone(),
            files: self.log,
            last: recovered.last,
            clock: recovered.clock,
            epochs: recovered.epochs.clone(),
            rules,
            failure: Arc::clone(&failure),
            lock: Arc::clone(&lock),
            blocking,
        });
        let core = Arc::new(Core {
            log_id: recovered.log_id,
            log,
            log_place: self.place.clone(),
            memory: Memory::new(settings.memory, SHARDS),
            store,
            node_state,
            failure,
            tails: Arc::new(Tails::new(self.place, applied)),
            stored: Mutex::new(Stored {
                applied: self.stored.position,
                last_checkpoint: None,
            }),
            applying: Mutex::new(Fold::after(self.stored)),
            requests: Mutex::new(requests),
            unstored_places: AtomicUsize::new(0),
            open_snapshots: Open::new(),
            node_snapshots: Arc::new(Semaphore::new(NODE_SNAPSHOTS)),
            shortage: Mutex::new(None),
            room: Notify::new(),
            unstored_expiry: AtomicU64::new(u64::MAX),
            pressure: Notify::new(),
            lock: Mutex::new(Some(lock)),
            blocking,
            settings,
        });
        let (asks, asked) = mpsc::channel(CHECKPOINT_ASKERS);
        Parts {
            checkpointer: Checkpointer::new(Arc::clone(&core), incarnation, asked),
            core,
            recovered,
            writer,
            asks,
        }
    }
}
