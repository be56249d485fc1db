//! Gives space back through the log: expired keys, old tombstones, forgotten requests.
//!
//! Expiry hides a key at once, wherever it is read. The key itself goes when the master
//! logs that it does, so that every member removes it at the same place of the log; its
//! tombstone goes the same way, once the log that carried the deletion is gone.

use std::{sync::Arc, time::Duration};

use metrics::{Counter, counter};
use tierkv_rpc::{Pace, Worker};
use tierkv_storage::Storage;
use tierkv_types::{Error, ItemKey, Version};
use tokio::time::timeout;

use crate::sequencer::Sequencer;

/// How often it is looked whether there is anything to reclaim.
const INTERVAL: Duration = Duration::from_secs(1);
/// Expired keys that one look at the store takes.
const KEYS_PER_LOOK: usize = 16_384;
/// Expired keys that one record removes, and their bytes: it fits the smallest segment.
const KEYS_PER_RECORD: usize = 1_024;
const BYTES_PER_RECORD: usize = 32 << 10;
/// How far behind the retention the oldest tombstone gets before a record is spent on it.
const FORGET_INTERVAL: Duration = Duration::from_secs(10);

/// Parts keys into what one record takes.
fn records(expired: Vec<(ItemKey, Version)>) -> Vec<Vec<(ItemKey, Version)>> {
    let mut records: Vec<Vec<(ItemKey, Version)>> = Vec::new();
    let mut bytes = 0;
    for (key, version) in expired {
        let length = key.as_bytes().len();
        bytes += length;
        match records.last_mut() {
            Some(last) if bytes <= BYTES_PER_RECORD && last.len() < KEYS_PER_RECORD => {
                last.push((key, version));
            }
            _ => {
                bytes = length;
                records.push(vec![(key, version)]);
            }
        }
    }
    records
}

/// The reclaimer of one data node. Only a master reclaims keys.
pub(crate) struct Reclaimer {
    sequencer: Arc<Sequencer>,
    storage: Arc<Storage>,
    /// How long a tombstone stays, by the cluster clock.
    tombstone_retention: Duration,
    expired: Counter,
}

impl Worker for Reclaimer {
    fn name(&self) -> &'static str {
        "reclaimer"
    }

    fn is_cancellable(&self) -> bool {
        // It waits for room: with the store far behind, longer than a stop may take.
        true
    }

    async fn work(&mut self) -> Pace {
        match self.reclaim().await {
            Ok(pace) => pace,
            Err(error) => {
                // A full disk or a lost mastership; it is tried again.
                tracing::debug!(%error, "nothing was reclaimed");
                Pace::Idle(INTERVAL)
            }
        }
    }
}

impl Reclaimer {
    pub(crate) fn new(
        sequencer: Arc<Sequencer>,
        storage: Arc<Storage>,
        tombstone_retention: Duration,
    ) -> Self {
        metrics::describe_counter!(
            "tierkv_expired_keys_total",
            "Keys that were removed because their time was over."
        );
        Self {
            sequencer,
            storage,
            tombstone_retention,
            expired: counter!("tierkv_expired_keys_total"),
        }
    }

    async fn reclaim(&self) -> Result<Pace, Error> {
        // While nothing was written there is nothing to reclaim, and the time may be set back:
        // what was forgotten by it would never be remembered again.
        let Some(now) = self.sequencer.settled_now() else {
            return Ok(Pace::Idle(INTERVAL));
        };
        while !self.storage.forget_requests(now) {
            // Whoever waits for what was held gets a turn.
            tokio::task::yield_now().await;
        }
        self.sequencer.confirm(|_| ())?;
        self.forget_tombstones(now).await?;
        self.expire(now).await
    }

    async fn expire(&self, now: Version) -> Result<Pace, Error> {
        let generation = self.storage.generation();
        let expired = self.storage.expired(now, KEYS_PER_LOOK).await;
        let expired = expired.map_err(|error| error.to_error())?;
        let was_full = expired.len() == KEYS_PER_LOOK;
        let mut removed = 0;
        for keys in records(expired) {
            // No longer: what takes the room may be requests, which the next look forgets.
            if timeout(INTERVAL, self.storage.room()).await.is_err() {
                break;
            }
            removed += self.sequencer.expire(keys, generation)?;
        }
        self.expired.increment(removed as u64);
        if !was_full || removed == 0 {
            return Ok(Pace::Idle(INTERVAL));
        }
        // The store answers the same keys until it has seen them go.
        let stored = self.storage.checkpoint().await;
        stored.map_err(|error| error.to_error())?;
        Ok(Pace::Busy)
    }

    async fn forget_tombstones(&self, now: Version) -> Result<(), Error> {
        let oldest = self.storage.oldest_tombstone().await;
        let Some(oldest) = oldest.map_err(|error| error.to_error())? else {
            return Ok(());
        };
        // Some of them together: a record for each would never end.
        if oldest.after(self.tombstone_retention + FORGET_INTERVAL) > now {
            return Ok(());
        }
        let retention = u64::try_from(self.tombstone_retention.as_millis()).unwrap_or(u64::MAX);
        let up_to = Version::from_millis(now.millis().saturating_sub(retention));
        self.sequencer.forget_tombstones(up_to)
    }
}
