//! What all parts of a running storage share.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tierkv_types::{LogId, Position};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

use crate::{
    StorageError, StorageSettings,
    blocking::Blocking,
    disk::DiskLock,
    failure::Failure,
    locked,
    log::{Log, LogPlace},
    memory::Memory,
    meters,
    node_state::NodeState,
    snapshot::open::Open,
    state::{Fold, REQUEST_LIMIT, Requests},
    store::Store,
    tail::tails::Tails,
};

/// How often a read is retried when a checkpoint ended during it. A read that takes longer
/// than so many checkpoints fails.
pub(crate) const LOAD_ATTEMPTS: usize = 16;

/// The parts of one node's storage.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) settings: StorageSettings,
    pub(crate) log_id: LogId,
    pub(crate) log: Log,
    pub(crate) log_place: LogPlace,
    pub(crate) memory: Memory,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) node_state: NodeState,
    pub(crate) failure: Arc<Failure>,
    /// The applied state without the items. Locked while a record's effects are applied, so
    /// that a freeze falls between two records.
    pub(crate) applying: Mutex<Fold>,
    /// Receives applied records. [`Storage::applied`](crate::Storage::applied) reads it too, and
    /// so does not wait for a long `apply`.
    pub(crate) tails: Arc<Tails>,
    pub(crate) stored: Mutex<Stored>,
    /// The remembered outcomes of applied requests.
    pub(crate) requests: Mutex<Requests>,
    /// The places that outcomes take which are not in the store.
    pub(crate) unstored_places: AtomicUsize,
    /// The earliest expiry among the changes since the last freeze, in the bits of a version; all
    /// ones if none expires.
    pub(crate) unstored_expiry: AtomicU64,
    pub(crate) open_snapshots: Open,
    /// The places of snapshots of the whole node.
    pub(crate) node_snapshots: Arc<Semaphore>,
    /// Why the last checkpoint failed, if disk space or descriptors were short.
    pub(crate) shortage: Mutex<Option<StorageError>>,
    /// Notified when pinned bytes became fewer.
    pub(crate) room: Notify,
    /// Notified when there is enough to checkpoint.
    pub(crate) pressure: Notify,
    pub(crate) lock: Mutex<Option<Arc<dyn DiskLock>>>,
    pub(crate) blocking: Blocking,
}

/// The state of the log that the store holds.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) applied: Position,
    pub(crate) last_checkpoint: Option<Instant>,
}

impl Core {
    /// Whether entries and outcomes that are not in the store are under their limits.
    pub(crate) fn has_room(&self) -> bool {
        self.limit_reached().is_none()
    }

    /// The name of the limit of unstored entries or outcomes that is reached.
    pub(crate) fn limit_reached(&self) -> Option<&'static str> {
        if self.memory.pinned_bytes() >= self.settings.pinned_limit_bytes {
            return Some(meters::PINNED);
        }
        let unstored = self.unstored_places.load(Ordering::Relaxed);
        let are_many = unstored.max(locked(&self.requests).places()) >= REQUEST_LIMIT;
        are_many.then_some(meters::REQUESTS)
    }

    /// Why the last checkpoint failed, if disk space or descriptors were short.
    pub(crate) fn shortage(&self) -> Option<StorageError> {
        locked(&self.shortage).clone()
    }

    /// Checks that records up to `last` may be applied. [`Core::applying`] is locked, so no
    /// truncation begins meanwhile.
    ///
    /// # Panics
    /// If the log does not have that record durably, or it is being cut off.
    pub(crate) fn check_applicable(&self, last: Position) {
        assert!(
            last.index <= self.log.applicable(),
            "I1: record {last} is applied before it is durable, or while it is cut off"
        );
        let epoch = self.log.epoch_of(last.index);
        assert!(
            epoch.is_none_or(|epoch| epoch == last.epoch),
            "I3: record {last} is applied, but the log has one of another epoch there"
        );
    }

    /// Changes a small file. A failure that can't pass fails the whole storage.
    pub(crate) fn change(
        &self,
        change: impl FnOnce() -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        if let Some(error) = self.failure.get() {
            return Err(error);
        }
        let done = change();
        if let Err(error) = &done
            && !error.is_passing()
        {
            self.fail(error.clone());
        }
        done
    }

    /// Records that storage failed: the node must stop, and waits for room end.
    pub(crate) fn fail(&self, error: StorageError) {
        self.failure.set(error);
        self.room.notify_waiters();
    }
}
