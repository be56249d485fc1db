//! The records that the master logs by itself: the opening of its term, the slots that its cluster
//! owns, expired items, and tombstones to forget.

use tierkv_storage::{Residence, StorageError};
use tierkv_types::{Change, ChangeKind, Error, Index, ItemKey, Payload, Position, Version};

use super::{Sequencer, State, not_master};
use crate::rules::Rule;

impl Sequencer {
    /// Appends the record that opens a term (REP-NOOP).
    ///
    /// # Errors
    /// That of the log. If it passes, as a full disk, the caller appends the record again later:
    /// the machine counts it as appended, and takes no writes before it is committed.
    pub(crate) fn append_noop(&self, position: Position) -> Result<(), StorageError> {
        let mut state = self.lock();
        let version = self.cluster_clock.tick(self.unsettled_millis());
        let record = state.append(position, version, Payload::Noop);
        let queued = self.storage.append_allocated(vec![record]);
        if queued.is_err() {
            let before = position.index.0.saturating_sub(1);
            state.appended.truncate(Index(before));
        }
        drop(state);
        queued.map(drop)
    }

    /// Appends the slots that the newest placement map gives the cluster, unless the log has them
    /// (PLACE-OWN). What the log does not take now, it takes at a later event.
    pub(super) fn log_slots(&self, state: &mut State) {
        if !self.is_acting() {
            return;
        }
        let Some(slots) = self.owned.unlogged(state.appended.owned_version()) else {
            return;
        };
        let payload = Payload::Own(slots);
        if let Err(error) = self.append_at(state, self.unsettled_millis(), payload) {
            tracing::debug!(%error, "the slots of the cluster are not logged yet");
        }
    }

    /// Platform time in milliseconds for records of a founder before its first write: 0, as these
    /// must not keep its clock from being set back (CLOCK-STEADY).
    fn unsettled_millis(&self) -> u64 {
        match self.time.is_founding() {
            true => 0,
            false => self.time.millis(),
        }
    }

    /// Appends a record that removes the `candidates` that still hold the version that expired.
    /// `generation`: the store's before the candidates were read. Returns how many it removes.
    ///
    /// # Errors
    /// `NotMaster`, or the log's error.
    pub(crate) fn expire(
        &self,
        candidates: Vec<(ItemKey, Version)>,
        generation: u64,
    ) -> Result<usize, Error> {
        let mut state = self.lock();
        let changes: Vec<Change> = (candidates.into_iter())
            .filter(|(key, version)| self.still_holds(&state, key, *version, generation))
            .map(|(key, _)| Change {
                key,
                kind: ChangeKind::Delete { existed: true },
            })
            .collect();
        let count = changes.len();
        if count > 0 {
            self.append_own(&mut state, Payload::Expire(changes))?;
        }
        Ok(count)
    }

    /// Appends a record that forgets the tombstones up to a version.
    ///
    /// # Errors
    /// `NotMaster`, or the log's error.
    pub(crate) fn forget_tombstones(&self, up_to: Version) -> Result<(), Error> {
        self.append_own(&mut self.lock(), Payload::Forget { up_to })
    }

    /// Appends a record of the node's own, not of a client.
    fn append_own(&self, state: &mut State, payload: Payload) -> Result<(), Error> {
        self.time.settle();
        self.append_at(state, self.time.millis(), payload)
    }

    /// Appends a record at this platform time, in milliseconds.
    fn append_at(&self, state: &mut State, platform: u64, payload: Payload) -> Result<(), Error> {
        let before = state.replica.last();
        let position = state.replica.propose();
        let position = position.map_err(not_master)?;
        let version = self.cluster_clock.tick(platform);
        let record = state.append(position, version, payload);
        let queued = self.storage.append_allocated(vec![record]);
        queued.map(drop).map_err(|error| {
            state.take_back(before);
            error.to_error()
        })
    }

    /// Whether this version is the key's last change in the appended state.
    fn still_holds(&self, state: &State, key: &ItemKey, version: Version, generation: u64) -> bool {
        if self.rules.lack(Rule::ExpiredStillHeld) {
            return true;
        }
        if state.appended.entry(key).is_some() {
            return false;
        }
        match self.storage.get(key.as_bytes()) {
            Residence::Found(item) => item.version == version,
            Residence::Absent => false,
            // No checkpoint has ended since the store was read, so its answer is still right.
            Residence::Unknown => self.storage.generation() == generation,
        }
    }
}
