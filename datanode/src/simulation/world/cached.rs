//! Checks the cache's ledger against the log.

use std::collections::BTreeMap;

use tierkv_protocol::cache::{ENTRY_LIFE, Mark};
use tierkv_types::Version;

use super::{
    super::cache::{CacheEvent, CachedKey, Held},
    World,
    history::When,
};

/// When keys were deleted from the cache and filled.
#[derive(Debug, Default)]
pub(super) struct Cached {
    /// By item key: the turn of the last removal.
    removed: BTreeMap<Vec<u8>, u64>,
    /// The turn of the last removal that was confirmed, or of a later refusal.
    answered: BTreeMap<Vec<u8>, u64>,
    /// The last fill.
    filled: BTreeMap<CachedKey, When>,
}

impl Cached {
    /// The turn of the last removal of a key that was confirmed, or refused.
    pub(super) fn answered(&self, key: &[u8]) -> u64 {
        self.answered.get(key).copied().unwrap_or(0)
    }
}

impl World {
    pub(super) fn check_cache(&mut self) {
        let now = self.now();
        for event in self.machine.cache.take_events() {
            match event {
                CacheEvent::Filled(key, _) => {
                    self.cached.filled.insert(key, now);
                }
                CacheEvent::Removed(keys) => {
                    for key in keys {
                        self.cached.removed.insert(key.item, now.turn);
                    }
                }
                CacheEvent::Confirmed(keys) => {
                    for key in keys {
                        let removed = self.cached.removed.get(&key.item).copied().unwrap_or(0);
                        self.cached.answered.insert(key.item, removed);
                    }
                }
                CacheEvent::Refused(keys) => {
                    for key in keys {
                        self.cached.answered.insert(key.item, now.turn);
                    }
                }
                CacheEvent::Marked(mark, held) => self.check_mark(mark, &held),
            }
        }
    }

    /// CACHE-MARK: the cache holds no entry older than the mark vouches for, except entries too
    /// old to be used.
    fn check_mark(&mut self, mark: Mark, held: &Held) {
        assert!(
            mark.index <= self.history.committed(),
            "CACHE-MARK: a mark is of the future"
        );
        let now = self.now().millis;
        for (key, version) in held {
            let filled = self.cached.filled.get(key).map_or(0, |when| when.millis);
            if u128::from(now - filled) > ENTRY_LIFE.as_millis() {
                continue;
            }
            // A master whose answer has this revision gave it before the slot moved.
            let owned_up_to = self.history.end_of_revision(key.slot_revision);
            let newest: Version =
                (self.history).last_change(&key.item, mark.index.min(owned_up_to));
            assert!(
                *version >= newest,
                "CACHE-MARK: {mark:?} stands beside an entry of version {version}, and version \
                 {newest} is below the mark"
            );
        }
        self.seen.marks += 1;
    }
}
