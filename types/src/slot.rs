//! Slots: the unit of placement.

use std::fmt;

/// The number of slots.
pub const SLOT_COUNT: u16 = 4096;

/// One of the 4,096 parts of the key space; a slot belongs to one cluster (I10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u16);

impl Slot {
    /// The slot with this number.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < SLOT_COUNT {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The slot of an item key's canonical bytes: XXH3-64 with seed 0, mod 4096.
    #[must_use]
    pub fn of(item_key: &[u8]) -> Self {
        let hash = xxhash_rust::xxh3::xxh3_64(item_key);
        // The remainder is below 4096, so the cast loses nothing.
        #[allow(clippy::cast_possible_truncation)]
        Self((hash % u64::from(SLOT_COUNT)) as u16)
    }

    /// Every slot, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOT_COUNT).map(Self)
    }

    /// The slot's number, below [`SLOT_COUNT`].
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The slot's number as an index into a table of [`SLOT_COUNT`] places.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ItemKey;

    /// Fixed test vectors, checked against the reference implementation: a changed hash would
    /// orphan every key on disk.
    #[test]
    fn the_slot_function_never_changes() {
        let slots: Vec<u16> = [
            ("default", &b"a"[..]),
            ("packages", b"bash"),
            ("n", &[0xff; 1024]),
        ]
        .into_iter()
        .map(|(ns, key)| ItemKey::new(ns, key).unwrap().slot().number())
        .collect();
        assert_eq!(slots, GOLDEN);
    }

    const GOLDEN: [u16; 3] = [3506, 2894, 2844];

    #[test]
    fn only_numbers_below_the_count_are_slots() {
        assert!(Slot::new(4095).is_some());
        assert!(Slot::new(4096).is_none());
        assert_eq!(Slot::all().count(), 4096);
    }
}
