//! The leases of the embedded cache (CACHE-LEASE).
//!
//! A lease is stored under a 64-bit hash of its key. Two keys with the same hash share a place,
//! which can cost a fill but never correctness: one is busy while the other is leased, a delete of
//! one revokes the other's lease, and a fill needs its own token.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tierkv_types::BootTime;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{key::CacheKey, tier::LEASE_LIFE};

/// Shards of the table, each with its own lock.
const SHARDS: usize = 64;

/// Maximum leases of one shard. Over it, keys are busy until leases expire, are filled or released.
const MAX_LEASES_PER_SHARD: usize = 1024;

/// Maximum leases at a time. Over it, a miss is answered from the data node without a fill.
pub const MAX_LEASES: usize = SHARDS * MAX_LEASES_PER_SHARD;

/// The place of a key's lease in its shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place(u64);

/// All leases.
pub(super) struct LeaseTable {
    shards: Box<[LeaseShard]>,
}

impl LeaseTable {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| LeaseShard::default()).collect(),
        }
    }

    /// The shard whose lock orders all accesses to `key`, except hits.
    pub(super) fn shard(&self, key: &CacheKey<'_>) -> (&LeaseShard, Place) {
        let hash = xxh3_64_with_seed(key.item, key.slot_revision);
        // The remainder is less than the number of shards, so the cast loses nothing.
        #[allow(clippy::cast_possible_truncation)]
        let shard = (hash % SHARDS as u64) as usize;
        (&self.shards[shard], Place(hash))
    }

    pub(super) fn shards(&self) -> impl Iterator<Item = &LeaseShard> {
        self.shards.iter()
    }
}

/// One shard of the table with its lock.
#[derive(Default)]
pub(super) struct LeaseShard(Mutex<Leases>);

impl LeaseShard {
    pub(super) fn lock(&self) -> MutexGuard<'_, Leases> {
        // No operation under this lock leaves the table inconsistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The outcome of a request for a lease.
pub(super) enum Grant {
    /// It is granted, with this token.
    Won(u64),
    /// Another reader has it, or the shard is full.
    Held,
}

#[derive(Clone, Copy)]
struct Held {
    token: u64,
    until: BootTime,
}

/// The live leases of one shard, and abandoned ones until their place is needed.
#[derive(Default)]
pub(super) struct Leases {
    held: HashMap<Place, Held, BuildHasherDefault<HashedAlready>>,
    last_token: u64,
    /// While the shard is full, nothing expires before this time: don't scan again.
    full_until: BootTime,
}

impl Leases {
    /// Grants a lease on `place`, unless another is live.
    pub(super) fn grant(&mut self, place: Place, now: BootTime) -> Grant {
        let held = self.held.get(&place);
        if held.is_some_and(|held| now < held.until) {
            return Grant::Held;
        }
        if held.is_none() && self.held.len() >= MAX_LEASES_PER_SHARD && !self.reclaim(now) {
            return Grant::Held;
        }
        self.last_token += 1;
        let lease = Held {
            token: self.last_token,
            until: now.after(LEASE_LIFE),
        };
        self.held.insert(place, lease);
        Grant::Won(lease.token)
    }

    /// Ends the lease `token`; returns whether it was still live.
    pub(super) fn take(&mut self, place: Place, token: u64, now: BootTime) -> bool {
        match self.held.get(&place).copied() {
            Some(held) if held.token == token => {
                self.held.remove(&place);
                now < held.until
            }
            _ => false,
        }
    }

    /// Ends the lease, if there is one.
    pub(super) fn revoke(&mut self, place: Place) {
        self.held.remove(&place);
    }

    /// Whether there is a live lease.
    pub(super) fn holds_any(&self, now: BootTime) -> bool {
        self.held.values().any(|held| now < held.until)
    }

    /// Frees the places of abandoned leases; returns whether there is room now.
    fn reclaim(&mut self, now: BootTime) -> bool {
        if now < self.full_until {
            return false;
        }
        self.held.retain(|_, held| now < held.until);
        let room = self.held.len() < MAX_LEASES_PER_SHARD;
        if !room {
            let first = self.held.values().map(|held| held.until).min();
            self.full_until = first.unwrap_or_default();
        }
        room
    }
}

/// Uses a [`Place`] as its own hash: it is a hash already.
#[derive(Default)]
struct HashedAlready(u64);

impl Hasher for HashedAlready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a place hashes as one u64")
    }

    fn write_u64(&mut self, hash: u64) {
        // Hash maps take their tag from the upper bits and the bucket from the lower bits, and the
        // lower bits also chose the shard: rotate, so that both are still random.
        self.0 = hash.rotate_right(SHARDS.trailing_zeros());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    fn token(grant: &Grant) -> u64 {
        match grant {
            Grant::Won(token) => *token,
            Grant::Held => panic!("the lease was not given"),
        }
    }

    #[test]
    fn an_expired_lease_is_given_anew_and_its_token_is_dead() {
        let mut leases = Leases::default();
        let first = token(&leases.grant(Place(1), at(0)));
        assert!(matches!(leases.grant(Place(1), at(2_999)), Grant::Held));
        let second = token(&leases.grant(Place(1), at(3_000)));
        assert!(!leases.take(Place(1), first, at(3_001)));
        assert!(leases.take(Place(1), second, at(3_001)));
    }

    #[test]
    fn abandoned_leases_are_reclaimed_and_the_shard_stays_bounded() {
        let mut leases = Leases::default();
        let full = MAX_LEASES_PER_SHARD as u64;
        for place in 0..full {
            token(&leases.grant(Place(place), at(place)));
        }
        assert!(matches!(leases.grant(Place(full), at(2_000)), Grant::Held));
        assert!(matches!(leases.grant(Place(full), at(2_999)), Grant::Held));
        // Now the first lease has expired, and only that one.
        token(&leases.grant(Place(full), at(3_000)));
        assert_eq!(leases.held.len(), MAX_LEASES_PER_SHARD);
        token(&leases.grant(Place(full + 1), at(9_000)));
        assert_eq!(leases.held.len(), 1);
    }

    #[test]
    fn a_full_shard_still_gives_a_released_place() {
        let mut leases = Leases::default();
        let full = MAX_LEASES_PER_SHARD as u64;
        for place in 0..full {
            token(&leases.grant(Place(place), at(0)));
        }
        assert!(matches!(leases.grant(Place(full), at(1)), Grant::Held));
        leases.revoke(Place(7));
        token(&leases.grant(Place(full), at(1)));
    }
}
