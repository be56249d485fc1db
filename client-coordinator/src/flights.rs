//! The reads in progress, by key: equal misses share one.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tierkv_rpc::proto::internal::ReadReply;
use tierkv_types::{BootTime, Error, ItemKey};
use tokio::sync::watch;

/// Shards of the table, so that misses of different keys seldom contend.
const SHARDS: usize = 16;

/// The outcome of a flight; `None` while it is in progress.
type Landing = Option<Result<ReadReply, Error>>;

/// A read in progress that others may share.
#[derive(Clone)]
pub(crate) struct Flight {
    /// When it was sent: its result is at least as new.
    pub(crate) sent_at: BootTime,
    landing: watch::Receiver<Landing>,
}

impl Flight {
    /// Waits for the read to end; `None` if it was abandoned.
    pub(crate) async fn landed(mut self) -> Option<Result<ReadReply, Error>> {
        self.landing.wait_for(Option::is_some).await.ok()?.clone()
    }
}

/// The reads in progress.
pub(crate) struct Flights {
    shards: [Mutex<HashMap<ItemKey, Flight>>; SHARDS],
    hasher: RandomState,
}

/// Ends a flight: removes it from the table, also when the reading task dies.
pub(crate) struct Pilot {
    flights: Arc<Flights>,
    key: ItemKey,
    sent_at: BootTime,
    landing: watch::Sender<Landing>,
}

impl Flights {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            shards: Default::default(),
            hasher: RandomState::new(),
        })
    }

    fn shard(&self, key: &ItemKey) -> MutexGuard<'_, HashMap<ItemKey, Flight>> {
        // The remainder is less than the number of shards.
        #[allow(clippy::cast_possible_truncation)]
        let at = (self.hasher.hash_one(key) % SHARDS as u64) as usize;
        self.shards[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The read of this key in progress.
    pub(crate) fn under_way(&self, key: &ItemKey) -> Option<Flight> {
        self.shard(key).get(key).cloned()
    }

    /// Adds a new read, replacing an older one; or, if `share`, joins the one in progress.
    pub(crate) fn take_off(
        self: &Arc<Self>,
        key: &ItemKey,
        now: BootTime,
        share: bool,
    ) -> (Flight, Option<Pilot>) {
        let mut shard = self.shard(key);
        if share && let Some(flight) = shard.get(key) {
            return (flight.clone(), None);
        }
        let (landing, receiver) = watch::channel(None);
        let flight = Flight {
            sent_at: now,
            landing: receiver,
        };
        shard.insert(key.clone(), flight.clone());
        let flights = Arc::clone(self);
        (
            flight,
            Some(Pilot {
                flights,
                key: key.clone(),
                sent_at: now,
                landing,
            }),
        )
    }
}

impl Pilot {
    /// Sends the outcome to all who share the read. Later readers start a new one.
    pub(crate) fn land(self, outcome: Result<ReadReply, Error>) {
        self.landing.send_replace(Some(outcome));
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        let mut shard = self.flights.shard(&self.key);
        // A later flight of the same key may have replaced this one.
        if shard.get(&self.key).is_some_and(|flight| {
            flight.sent_at == self.sent_at && flight.landing.same_channel(&self.landing.subscribe())
        }) {
            shard.remove(&self.key);
        }
    }
}
