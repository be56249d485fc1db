//! The locks of one process's connections on one database.
//!
//! The lock on the node's directory keeps other processes out, so tables in memory are enough.
//! The rules are SQLite's: for the five levels on the database file (`xLock`) and for the eight
//! slots of the write-ahead index (`xShmLock`).

use sqlite_plugin::flags::LockLevel;

/// The number of slots of the write-ahead index.
pub(super) const SLOTS: usize = 8;

/// Another holder's lock conflicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy;

/// The locks on the database file.
#[derive(Debug, Default)]
pub(super) struct FileLocks {
    /// The number of holders of at least `Shared`.
    shared: u32,
    /// Whether one holder has `Reserved` or more.
    reserved: bool,
    /// Whether that holder keeps new ones out: `Pending` or `Exclusive`.
    closing: bool,
}

impl FileLocks {
    /// Raises one holder from `held` to `wanted`. After `Busy` it may hold `Pending`, which
    /// keeps new holders out while it waits.
    pub(super) fn raise(&mut self, held: &mut LockLevel, wanted: LockLevel) -> Result<(), Busy> {
        if *held >= wanted {
            return Ok(());
        }
        if *held == LockLevel::Unlocked {
            if self.closing {
                return Err(Busy);
            }
            self.shared += 1;
            *held = LockLevel::Shared;
        }
        if wanted >= LockLevel::Reserved && *held < LockLevel::Reserved {
            if self.reserved {
                return Err(Busy);
            }
            self.reserved = true;
            *held = LockLevel::Reserved;
        }
        if wanted >= LockLevel::Pending {
            self.closing = true;
            *held = (*held).max(LockLevel::Pending);
        }
        if wanted == LockLevel::Exclusive {
            if self.shared > 1 {
                return Err(Busy);
            }
            *held = LockLevel::Exclusive;
        }
        Ok(())
    }

    /// Lowers one holder from `held` to `wanted`: `Shared` or `Unlocked`.
    pub(super) fn lower(&mut self, held: &mut LockLevel, wanted: LockLevel) {
        if *held <= wanted {
            return;
        }
        if *held >= LockLevel::Reserved {
            self.reserved = false;
            self.closing = false;
        }
        if wanted == LockLevel::Unlocked {
            self.shared -= 1;
        }
        *held = wanted;
    }

    /// Whether anyone holds `Reserved` or more.
    pub(super) const fn is_reserved(&self) -> bool {
        self.reserved
    }
}

/// The slots that one connection holds, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    shared: u8,
    exclusive: u8,
}

/// The locks on the slots of the write-ahead index.
#[derive(Debug, Default)]
pub(super) struct SlotLocks([Slot; SLOTS]);

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    sharers: u32,
    exclusive: bool,
}

/// The bits of `count` slots from `first` on; `None` if there are not that many.
pub(super) fn slots(first: u32, count: u32) -> Option<u8> {
    let end = first.checked_add(count)?;
    let end = usize::try_from(end).ok().filter(|end| *end <= SLOTS)?;
    let first = usize::try_from(first).ok()?;
    Some((first..end).fold(0, |bits, slot| bits | 1 << slot))
}

impl SlotLocks {
    fn of(&mut self, bits: u8) -> impl Iterator<Item = &mut Slot> {
        let slots = self.0.iter_mut().enumerate();
        slots.filter_map(move |(nth, slot)| (bits & 1 << nth != 0).then_some(slot))
    }

    /// Takes shared locks on slots: all or none.
    pub(super) fn share(&mut self, held: &mut Held, bits: u8) -> Result<(), Busy> {
        let wanted = bits & !held.shared & !held.exclusive;
        if self.of(wanted).any(|slot| slot.exclusive) {
            return Err(Busy);
        }
        self.of(wanted).for_each(|slot| slot.sharers += 1);
        held.shared |= wanted;
        Ok(())
    }

    /// Takes exclusive locks on slots: all or none.
    pub(super) fn exclude(&mut self, held: &mut Held, bits: u8) -> Result<(), Busy> {
        let wanted = bits & !held.exclusive;
        // A slot that this connection shares itself counts as taken: SQLite releases it first.
        // Otherwise two connections could wait for each other forever.
        if self
            .of(wanted)
            .any(|slot| slot.exclusive || slot.sharers > 0)
        {
            return Err(Busy);
        }
        self.of(wanted).for_each(|slot| slot.exclusive = true);
        held.exclusive |= wanted;
        Ok(())
    }

    /// Releases slots, shared or exclusive.
    pub(super) fn release(&mut self, held: &mut Held, bits: u8) {
        self.of(held.shared & bits)
            .for_each(|slot| slot.sharers -= 1);
        self.of(held.exclusive & bits)
            .for_each(|slot| slot.exclusive = false);
        held.shared &= !bits;
        held.exclusive &= !bits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_the_file_and_one_writer_waits_for_them() {
        let mut locks = FileLocks::default();
        let (mut reader, mut writer) = (LockLevel::Unlocked, LockLevel::Unlocked);
        locks.raise(&mut reader, LockLevel::Shared).unwrap();
        locks.raise(&mut writer, LockLevel::Shared).unwrap();
        locks.raise(&mut writer, LockLevel::Reserved).unwrap();
        assert!(locks.is_reserved());
        assert_eq!(locks.raise(&mut reader, LockLevel::Reserved), Err(Busy));
        assert_eq!(locks.raise(&mut writer, LockLevel::Exclusive), Err(Busy));
        assert_eq!(writer, LockLevel::Pending);
        // While it waits, new holders are kept out, and present ones may leave.
        let mut late = LockLevel::Unlocked;
        assert_eq!(locks.raise(&mut late, LockLevel::Shared), Err(Busy));
        locks.lower(&mut reader, LockLevel::Unlocked);
        locks.raise(&mut writer, LockLevel::Exclusive).unwrap();
        assert_eq!(locks.raise(&mut late, LockLevel::Shared), Err(Busy));
        locks.lower(&mut writer, LockLevel::Shared);
        assert!(!locks.is_reserved());
        locks.raise(&mut late, LockLevel::Shared).unwrap();
        locks.lower(&mut late, LockLevel::Unlocked);
        locks.lower(&mut writer, LockLevel::Unlocked);
        locks.raise(&mut late, LockLevel::Exclusive).unwrap();
    }

    #[test]
    fn slots_are_shared_or_taken_alone_all_or_none() {
        let mut locks = SlotLocks::default();
        let (mut one, mut other) = (Held::default(), Held::default());
        let (low, high, both) = (slots(3, 1).unwrap(), slots(4, 1).unwrap(), 0b1_1000);
        assert_eq!(slots(3, 2), Some(both));
        assert_eq!(slots(0, 8), Some(0xFF));
        assert_eq!(slots(7, 2), None);
        locks.share(&mut one, low).unwrap();
        locks.share(&mut other, low).unwrap();
        locks.share(&mut other, low).unwrap();
        assert_eq!(locks.exclude(&mut one, both), Err(Busy));
        locks.exclude(&mut one, high).unwrap();
        assert_eq!(locks.share(&mut other, high), Err(Busy));
        assert_eq!(locks.exclude(&mut other, high), Err(Busy));
        locks.release(&mut one, 0xFF);
        assert_eq!(locks.exclude(&mut one, low), Err(Busy));
        locks.release(&mut other, low);
        locks.exclude(&mut one, both).unwrap();
        assert_eq!(other, Held::default());
    }
}
