//! What all parts of a running storage share.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tierkv_types::{LogId, Position};
use tokio::{sync::Notify, time::Instant};

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

/// How often a read that checkpoints outrun is repeated before it is given up. One that
/// takes as long as this many checkpoints is no use to anyone.
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
    /// Everything applied but the items. Held over every record's effects, so that a freeze
    /// falls between two records.
    pub(crate) applying: Mutex<Fold>,
    /// Told of what was applied. It answers [`Storage::applied`](crate::Storage::applied),
    /// too, without waiting for a long `apply`.
    pub(crate) tails: Arc<Tails>,
    pub(crate) stored: Mutex<Stored>,
    /// Of everything applied.
    pub(crate) requests: Mutex<Requests>,
    /// Places that outcomes take which the store does not have.
    pub(crate) unstored_places: AtomicUsize,
    pub(crate) open_snapshots: Open,
    /// What the last checkpoint could not store for, if space or descriptors were short.
    pub(crate) shortage: Mutex<Option<StorageError>>,
    /// Told when pinned bytes became fewer.
    pub(crate) room: Notify,
    /// Told when there is enough to checkpoint.
    pub(crate) pressure: Notify,
    pub(crate) lock: Mutex<Option<Arc<dyn DiskLock>>>,
    pub(crate) blocking: Blocking,
}

/// Where the store stands.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) applied: Position,
    pub(crate) last_checkpoint: Option<Instant>,
}

impl Core {
    /// Whether what only memory has is under its bounds.
    pub(crate) fn has_room(&self) -> bool {
        self.limit_reached().is_none()
    }

    /// The bound of what only memory has that is reached.
    pub(crate) fn limit_reached(&self) -> Option<&'static str> {
        if self.memory.pinned_bytes() >= self.settings.pinned_limit_bytes {
            return Some(meters::PINNED);
        }
        let unstored = self.unstored_places.load(Ordering::Relaxed);
        let are_many = unstored.max(locked(&self.requests).places()) >= REQUEST_LIMIT;
        are_many.then_some(meters::REQUESTS)
    }

    /// What the last checkpoint could not store for, if space or descriptors were short.
    pub(crate) fn shortage(&self) -> Option<StorageError> {
        locked(&self.shortage).clone()
    }

    /// Makes a change of a small file. A failure that does not pass is storage's own.
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

    /// Takes in that storage can't go on: the node must stop, and nobody waits for room.
    pub(crate) fn fail(&self, error: StorageError) {
        self.failure.set(error);
        self.room.notify_waiters();
    }
}
