//! The write-ahead index: memory that all connections to one database share.
//!
//! SQLite normally maps a file, so that processes can share it. Here only one process has the
//! database, so the index is on the heap. SQLite rebuilds it from the write-ahead file for its
//! first user.

use std::{
    ptr::NonNull,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering, fence},
    },
};

use super::locks::{Busy, Held, SlotLocks};
use crate::locked;

/// The regions, their users, and the locks on slots.
#[derive(Debug, Default)]
pub(super) struct SharedMemory(Mutex<Shared>);

#[derive(Debug, Default)]
struct Shared {
    slots: SlotLocks,
    /// Connections that have mapped regions.
    users: usize,
    regions: Vec<Region>,
}

/// Words that SQLite may change behind a shared reference.
#[derive(Debug)]
struct Region(Box<[AtomicU64]>);

impl Region {
    fn new(bytes: usize) -> Self {
        let words = bytes.div_ceil(size_of::<u64>());
        Self((0..words).map(|_| AtomicU64::new(0)).collect())
    }
}

/// The mappings and locks of one connection.
#[derive(Debug, Default)]
pub(super) struct SharedMemoryUse {
    is_user: bool,
    held: Held,
}

impl SharedMemory {
    /// The start of a region. A missing region is created with zeros if `extend` is set.
    pub(super) fn map(
        &self,
        user: &mut SharedMemoryUse,
        region: usize,
        bytes: usize,
        extend: bool,
    ) -> Option<NonNull<u8>> {
        let mut shared = locked(&self.0);
        if !user.is_user {
            user.is_user = true;
            shared.users += 1;
        }
        while extend && shared.regions.len() <= region {
            shared.regions.push(Region::new(bytes));
        }
        let words: &[AtomicU64] = &shared.regions.get(region)?.0;
        // The words do not move until the last user unmaps them.
        Some(NonNull::from(words).cast())
    }

    /// Unmaps all regions. The last user frees the memory; SQLite then recovers the index for
    /// the next one.
    pub(super) fn unmap(&self, user: &mut SharedMemoryUse) {
        let mut shared = locked(&self.0);
        shared.slots.release(&mut user.held, u8::MAX);
        if std::mem::take(&mut user.is_user) {
            shared.users -= 1;
            if shared.users == 0 {
                shared.regions.clear();
            }
        }
    }

    pub(super) fn share(&self, user: &mut SharedMemoryUse, slots: u8) -> Result<(), Busy> {
        locked(&self.0).slots.share(&mut user.held, slots)
    }

    pub(super) fn exclude(&self, user: &mut SharedMemoryUse, slots: u8) -> Result<(), Busy> {
        locked(&self.0).slots.exclude(&mut user.held, slots)
    }

    pub(super) fn release(&self, user: &mut SharedMemoryUse, slots: u8) {
        locked(&self.0).slots.release(&mut user.held, slots);
    }

    /// Orders this thread's earlier writes to the regions before its later reads.
    pub(super) fn barrier(&self) {
        // A lock as well as a fence, so that writes of others under the lock are seen too.
        drop(locked(&self.0));
        fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_one_place_for_all_and_fresh_after_the_last_user() {
        let memory = SharedMemory::default();
        let (mut one, mut other) = (SharedMemoryUse::default(), SharedMemoryUse::default());
        assert_eq!(memory.map(&mut one, 0, 32 << 10, false), None);
        let place = memory.map(&mut one, 1, 32 << 10, true).unwrap();
        assert_eq!(memory.map(&mut other, 1, 32 << 10, false), Some(place));
        assert!(memory.map(&mut other, 0, 32 << 10, false).is_some());
        memory.share(&mut one, 1).unwrap();
        assert_eq!(memory.exclude(&mut other, 1), Err(Busy));
        memory.unmap(&mut one);
        memory.exclude(&mut other, 1).unwrap();
        assert_eq!(memory.map(&mut other, 1, 32 << 10, false), Some(place));
        memory.unmap(&mut other);
        assert_eq!(memory.map(&mut one, 0, 32 << 10, false), None);
    }
}
