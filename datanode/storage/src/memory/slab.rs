//! One shard's clean entries, without gaps, each in one of three queues.
//!
//! A queue is a doubly linked list of u32 indices. The last entry moves into the place of a
//! removed one; the caller then updates the shard's index.

use super::{chunked::Chunked, packed::PackedItem};

/// Most entries of one shard: indices are u32, and one of them means "none".
pub(super) const MAX_ENTRIES: u64 = NONE as u64;
const NONE: u32 = u32::MAX;

/// The number of queues for a policy.
const QUEUES: usize = 3;

/// An entry's bytes beside its block: its slot, its part of the shard's index, and the spare
/// capacity of both.
pub(super) const SLOT_BYTES: u64 = 64;

/// One of a policy's queues. The policy defines its use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queue(u8);

impl Queue {
    pub(super) const FIRST: Self = Self(0);
    pub(super) const SECOND: Self = Self(1);
    pub(super) const THIRD: Self = Self(2);
    const ALL: [Self; QUEUES] = [Self::FIRST, Self::SECOND, Self::THIRD];
}

/// A number of entries and of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Size {
    /// `percent` of this, rounded down, and at least one record.
    pub(super) const fn percent(self, percent: u64) -> Self {
        let records = part(self.records, percent);
        Self {
            records: if records == 0 { 1 } else { records },
            bytes: part(self.bytes, percent),
        }
    }

    /// Whether it is at the bound or over it, in records or in bytes.
    pub(super) const fn reaches(self, bound: Self) -> bool {
        self.records >= bound.records || self.bytes >= bound.bytes
    }

    /// Whether it is over the bound, in records or in bytes.
    pub(super) const fn exceeds(self, bound: Self) -> bool {
        self.records > bound.records || self.bytes > bound.bytes
    }

    pub(super) const fn plus(self, other: Self) -> Self {
        Self {
            records: self.records + other.records,
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// A percentage without overflow for unbounded numbers, exact for small ones.
const fn part(whole: u64, percent: u64) -> u64 {
    whole / 100 * percent + whole % 100 * percent / 100
}

/// A clean entry in its place.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) item: PackedItem,
    /// The key's hash, so that the index grows without reading keys.
    pub(super) hash: u32,
    /// Towards the queue's front.
    newer: u32,
    /// Towards the queue's back.
    older: u32,
    queue: Queue,
    /// For the policy: the entry's hits, up to the policy's maximum.
    pub(super) frequency: u8,
}

impl Slot {
    pub(super) fn new(item: PackedItem, hash: u32) -> Self {
        Self {
            item,
            hash,
            newer: NONE,
            older: NONE,
            queue: Queue::FIRST,
            frequency: 0,
        }
    }

    pub(super) const fn queue(&self) -> Queue {
        self.queue
    }

    /// The size that this entry adds to its shard.
    pub(super) fn size(&self) -> Size {
        size(self.item.bytes())
    }
}

/// The size that an entry with a packed item of `bytes` adds to its shard.
pub(super) const fn size(bytes: u64) -> Size {
    Size {
        records: 1,
        bytes: bytes + SLOT_BYTES,
    }
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    front: u32,
    back: u32,
    size: Size,
}

impl Ends {
    const EMPTY: Self = Self {
        front: NONE,
        back: NONE,
        size: Size {
            records: 0,
            bytes: 0,
        },
    };
}

/// An entry that moved into the place of a removed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) from: u32,
    pub(super) to: u32,
}

/// The entries.
#[derive(Debug)]
pub(super) struct Slab {
    slots: Chunked<Slot>,
    queues: [Ends; QUEUES],
}

impl Slab {
    pub(super) const fn new() -> Self {
        Self {
            slots: Chunked::new(),
            queues: [Ends::EMPTY; QUEUES],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Of all queues together.
    pub(super) fn size(&self) -> Size {
        let sizes = self.queues.iter().map(|ends| ends.size);
        sizes.fold(Size::default(), Size::plus)
    }

    pub(super) fn size_of(&self, queue: Queue) -> Size {
        self.queues[usize::from(queue.0)].size
    }

    pub(super) fn slot(&self, at: u32) -> &Slot {
        &self.slots[at]
    }

    pub(super) fn slot_mut(&mut self, at: u32) -> &mut Slot {
        &mut self.slots[at]
    }

    /// The entry at the back of `queue`: the one longest in it.
    pub(super) fn back(&self, queue: Queue) -> Option<u32> {
        let back = self.queues[usize::from(queue.0)].back;
        (back != NONE).then_some(back)
    }

    pub(super) fn is_front(&self, at: u32) -> bool {
        self.slot(at).newer == NONE
    }

    /// Adds an entry at the front of `queue` and returns its place.
    ///
    /// # Panics
    /// If there are [`MAX_ENTRIES`] already.
    pub(super) fn push_front(&mut self, queue: Queue, slot: Slot) -> u32 {
        assert!(
            (self.slots.len() as u64) < MAX_ENTRIES,
            "a shard's clean entries are not bounded"
        );
        // Asserted above.
        #[allow(clippy::cast_possible_truncation)]
        let at = self.slots.len() as u32;
        self.slots.push(slot);
        self.link_front(queue, at);
        at
    }

    /// Moves an entry to the front of `queue`, which may be the one it is in.
    pub(super) fn move_to_front(&mut self, at: u32, queue: Queue) {
        self.unlink(at);
        self.link_front(queue, at);
    }

    /// Replaces an entry's item by another one of the same key.
    pub(super) fn replace(&mut self, at: u32, item: PackedItem) {
        let slot = &mut self.slots[at];
        let ends = &mut self.queues[usize::from(slot.queue.0)];
        ends.size.bytes = ends.size.bytes - slot.item.bytes() + item.bytes();
        slot.item = item;
    }

    /// Removes an entry. The last one may move into its place.
    ///
    /// # Panics
    /// If there is none at `at`.
    pub(super) fn remove(&mut self, at: u32) -> (Slot, Option<Moved>) {
        self.unlink(at);
        let Some(last) = self.slots.pop() else {
            unreachable!("an entry was unlinked, so there is one");
        };
        // It was a place before, so it fits.
        #[allow(clippy::cast_possible_truncation)]
        let from = self.slots.len() as u32;
        if at == from {
            return (last, None);
        }
        let (newer, older, queue) = (last.newer, last.older, last.queue);
        let removed = std::mem::replace(&mut self.slots[at], last);
        *self.older_of(newer, queue) = at;
        *self.newer_of(older, queue) = at;
        (removed, Some(Moved { from, to: at }))
    }

    /// Merges all queues into one, the entries of the first at the back, and clears the hits.
    pub(super) fn merge(&mut self, into: Queue) {
        let mut order = Vec::with_capacity(self.slots.len());
        for queue in Queue::ALL {
            let mut at = self.queues[usize::from(queue.0)].back;
            while at != NONE {
                order.push(at);
                at = self.slot(at).newer;
            }
        }
        self.queues = [Ends::EMPTY; QUEUES];
        for at in order {
            self.slot_mut(at).frequency = 0;
            self.link_front(into, at);
        }
    }

    fn link_front(&mut self, queue: Queue, at: u32) {
        let ends = &mut self.queues[usize::from(queue.0)];
        let slot = &mut self.slots[at];
        let older = ends.front;
        slot.queue = queue;
        slot.newer = NONE;
        slot.older = older;
        ends.front = at;
        ends.size = ends.size.plus(slot.size());
        *self.newer_of(older, queue) = at;
    }

    fn unlink(&mut self, at: u32) {
        let slot = &self.slots[at];
        let (newer, older, queue, size) = (slot.newer, slot.older, slot.queue, slot.size());
        *self.older_of(newer, queue) = older;
        *self.newer_of(older, queue) = newer;
        let total = &mut self.queues[usize::from(queue.0)].size;
        total.records -= size.records;
        total.bytes -= size.bytes;
    }

    /// The link towards the back of an entry, or of the queue itself.
    fn older_of(&mut self, at: u32, queue: Queue) -> &mut u32 {
        match at {
            NONE => &mut self.queues[usize::from(queue.0)].front,
            _ => &mut self.slots[at].older,
        }
    }

    /// The link towards the front of an entry, or of the queue itself.
    fn newer_of(&mut self, at: u32, queue: Queue) -> &mut u32 {
        match at {
            NONE => &mut self.queues[usize::from(queue.0)].back,
            _ => &mut self.slots[at].newer,
        }
    }
}

#[cfg(test)]
impl Slab {
    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        // A number of places fits.
        (0..u32::try_from(self.len()).unwrap()).map(|at| self.slot(at))
    }

    /// Walks every queue both ways, and checks sizes, links and membership.
    pub(super) fn check(&self) {
        let mut seen = 0;
        for queue in Queue::ALL {
            let ends = self.queues[usize::from(queue.0)];
            let (mut newer, mut at, mut size) = (NONE, ends.front, Size::default());
            while at != NONE {
                let slot = self.slot(at);
                assert_eq!((slot.queue, slot.newer), (queue, newer));
                size = size.plus(slot.size());
                (newer, at) = (at, slot.older);
            }
            assert_eq!((ends.back, ends.size), (newer, size));
            seen += size.records;
        }
        assert_eq!(seen, self.slots.len() as u64);
    }
}
