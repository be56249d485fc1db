//! Frees space through the log: expired keys, old tombstones, forgotten requests.
//!
//! An expired key is hidden at once in every read. It is removed when the master logs its
//! removal, so that every member removes it at the same index of the log. Its tombstone is
//! removed the same way, once the log no longer holds the record of the deletion.

use std::{sync::Arc, time::Duration};

use metrics::{Counter, counter};
use tierkv_rpc::{Pace, Worker};
use tierkv_storage::Storage;
use tierkv_types::{Error, ItemKey, Version};
use tokio::time::timeout;

use crate::sequencer::Sequencer;

/// How often it looks for something to reclaim.
const INTERVAL: Duration = Duration::from_secs(1);
/// Most expired keys in one read of the store.
const KEYS_PER_LOOK: usize = 16_384;
/// Most expired keys in one record, and their bytes: the record fits the smallest segment.
const KEYS_PER_RECORD: usize = 1_024;
const BYTES_PER_RECORD: usize = 32 << 10;
/// How long a tombstone may outlive its retention, so that one record forgets many.
const FORGET_INTERVAL: Duration = Duration::from_secs(10);

/// Splits keys into the contents of records.
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
    /// The generation in which tombstones were last forgotten: the store has them until a
    /// checkpoint ends.
    forgot_in: Option<u64>,
    expired: Counter,
}

impl Worker for Reclaimer {
    fn name(&self) -> &'static str {
        "reclaimer"
    }

    fn is_cancellable(&self) -> bool {
        // It waits for room, which may take longer than a stop may.
        true
    }

    async fn work(&mut self) -> Pace {
        match self.reclaim().await {
            Ok(pace) => pace,
            Err(error) => {
                // A full disk or a lost mastership; the next round retries.
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
            "Keys that were removed because they had expired."
        );
        Self {
            sequencer,
            storage,
            tombstone_retention,
            forgot_in: None,
            expired: counter!("tierkv_expired_keys_total"),
        }
    }

    async fn reclaim(&mut self) -> Result<Pace, Error> {
        // Before the first write there is nothing to reclaim. The time may still be set back then,
        // and requests forgotten too early would not be remembered again.
        let Some(now) = self.sequencer.settled_now() else {
            return Ok(Pace::Idle(INTERVAL));
        };
        while !self.storage.forget_requests(now) {
            // Lets the tasks run that wait for the lock.
            tokio::task::yield_now().await;
        }
        self.sequencer.confirm(|_| ())?;
        self.forget_tombstones(now).await?;
        self.expire(now).await
    }

    async fn expire(&self, now: Version) -> Result<Pace, Error> {
        // Only the store finds keys by their expiry.
        let unstored = self.storage.unstored_expiry();
        if unstored.is_some_and(|expires| expires <= now)
            && let Err(error) = self.checkpoint().await
        {
            tracing::debug!(%error, "the newest expired keys are not found yet");
        }
        let generation = self.storage.generation();
        let expired = self.storage.expired(now, KEYS_PER_LOOK).await;
        let expired = expired.map_err(|error| error.to_error())?;
        let was_full = expired.len() == KEYS_PER_LOOK;
        let mut removed = 0;
        for keys in records(expired) {
            // Not longer: the room may be taken by requests, which the next round forgets.
            if timeout(INTERVAL, self.storage.room()).await.is_err() {
                break;
            }
            removed += self.sequencer.expire(keys, generation)?;
        }
        self.expired.increment(removed as u64);
        if !was_full {
            return Ok(Pace::Idle(INTERVAL));
        }
        // The store returns the same keys until a checkpoint has removed them.
        self.checkpoint().await?;
        Ok(match removed {
            0 => Pace::Idle(INTERVAL),
            _ => Pace::Busy,
        })
    }

    async fn checkpoint(&self) -> Result<(), Error> {
        let stored = self.storage.checkpoint().await;
        stored.map_err(|error| error.to_error())
    }

    async fn forget_tombstones(&mut self, now: Version) -> Result<(), Error> {
        let generation = self.storage.generation();
        if self.forgot_in == Some(generation) {
            return Ok(());
        }
        let oldest = self.storage.oldest_tombstone().await;
        let Some(oldest) = oldest.map_err(|error| error.to_error())? else {
            return Ok(());
        };
        // Several together, not one record for each tombstone.
        if oldest.after(self.tombstone_retention + FORGET_INTERVAL) > now {
            return Ok(());
        }
        let retention = u64::try_from(self.tombstone_retention.as_millis()).unwrap_or(u64::MAX);
        let up_to = Version::from_millis(now.millis().saturating_sub(retention));
        self.sequencer.forget_tombstones(up_to)?;
        self.forgot_in = Some(generation);
        Ok(())
    }
}
