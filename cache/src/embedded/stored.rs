//! The contents of the embedded cache's map.

use std::hash::{Hash, Hasher};

use quick_cache::{Equivalent, Weighter};
use tierkv_protocol::cache::Entry;
use tierkv_types::BootTime;

use crate::key::CacheKey;

/// The memory of an entry beside its key's and value's bytes: its place in the map, two
/// allocations, and the ghost of an evicted key.
const ENTRY_OVERHEAD_BYTES: u64 = 192;

/// A [`CacheKey`] that owns its bytes; it can be looked up by a borrowed one.
#[derive(PartialEq, Eq)]
pub(super) struct OwnedKey {
    slot_revision: u64,
    item: Box<[u8]>,
}

impl From<&CacheKey<'_>> for OwnedKey {
    fn from(key: &CacheKey<'_>) -> Self {
        Self {
            slot_revision: key.slot_revision,
            item: key.item.into(),
        }
    }
}

impl Hash for OwnedKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let borrowed = CacheKey {
            item: &self.item,
            slot_revision: self.slot_revision,
        };
        borrowed.hash(state);
    }
}

impl Hash for CacheKey<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.slot_revision);
        state.write(self.item);
    }
}

impl Equivalent<OwnedKey> for CacheKey<'_> {
    fn equivalent(&self, key: &OwnedKey) -> bool {
        self.slot_revision == key.slot_revision && *self.item == *key.item
    }
}

/// An entry with its expiry.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) entry: Entry,
    /// From this time on it is a miss.
    pub(super) until: BootTime,
}

/// Weighs entries by their bytes.
#[derive(Clone)]
pub(super) struct WeightInBytes;

impl Weighter<OwnedKey, Stored> for WeightInBytes {
    fn weight(&self, key: &OwnedKey, stored: &Stored) -> u64 {
        bytes(key.item.len(), &stored.entry)
    }
}

/// The bytes of `entry` under `key`.
pub(super) fn weight(key: &CacheKey<'_>, entry: &Entry) -> u64 {
    bytes(key.item.len(), entry)
}

fn bytes(item: usize, entry: &Entry) -> u64 {
    (item + entry.value_bytes()) as u64 + ENTRY_OVERHEAD_BYTES
}
