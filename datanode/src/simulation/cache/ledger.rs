//! The ledger of a cache: its events, in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use tierkv_cache::CacheKey;
use tierkv_protocol::cache::Mark;
use tierkv_types::Version;

/// The key of an entry: the item key's bytes and the slot's revision.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::simulation) struct CachedKey {
    pub(in crate::simulation) item: Vec<u8>,
    pub(in crate::simulation) slot_revision: u64,
}

impl From<&CacheKey<'_>> for CachedKey {
    fn from(key: &CacheKey<'_>) -> Self {
        Self {
            item: key.item.to_vec(),
            slot_revision: key.slot_revision,
        }
    }
}

/// The version of each entry that was filled and not deleted since.
pub(in crate::simulation) type Held = BTreeMap<CachedKey, Version>;

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::simulation) enum CacheEvent {
    /// An entry of this version was stored.
    Filled(CachedKey, Version),
    /// Entries and leases were removed, whether or not the caller gets the answer.
    Removed(BTreeSet<CachedKey>),
    /// The caller got the answer that these keys are deleted.
    Confirmed(BTreeSet<CachedKey>),
    /// The caller got the answer that some of these keys may not be deleted.
    Refused(BTreeSet<CachedKey>),
    /// A mark arrived while the cache held these entries.
    Marked(Mark, Held),
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    events: Vec<CacheEvent>,
    held: Held,
}

impl Ledger {
    pub(super) fn take_events(&mut self) -> Vec<CacheEvent> {
        mem::take(&mut self.events)
    }

    pub(super) fn held(&self) -> Held {
        self.held.clone()
    }

    pub(super) fn filled(&mut self, key: CacheKey<'_>, version: Version) {
        let key = CachedKey::from(&key);
        self.held.insert(key.clone(), version);
        self.events.push(CacheEvent::Filled(key, version));
    }

    pub(super) fn removed(&mut self, keys: &[CacheKey<'_>]) {
        let keys: BTreeSet<CachedKey> = keys.iter().map(CachedKey::from).collect();
        self.held.retain(|key, _| !keys.contains(key));
        self.events.push(CacheEvent::Removed(keys));
    }

    pub(super) fn confirmed(&mut self, keys: &[CacheKey<'_>]) {
        let keys = keys.iter().map(CachedKey::from).collect();
        self.events.push(CacheEvent::Confirmed(keys));
    }

    pub(super) fn refused(&mut self, keys: &[CacheKey<'_>]) {
        let keys = keys.iter().map(CachedKey::from).collect();
        self.events.push(CacheEvent::Refused(keys));
    }

    pub(super) fn marked(&mut self, mark: Mark) {
        self.events.push(CacheEvent::Marked(mark, self.held()));
    }
}
