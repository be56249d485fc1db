//! Versions: the hybrid logical clock that orders every change of a cluster.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A 64-bit hybrid logical clock reading: 48 bits of milliseconds, 16 of counter.
///
/// Versions of one key only grow, over overwrites, deletes, failovers and moves (I5);
/// versions of one log are strictly increasing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(u64);

const COUNTER_BITS: u32 = 16;

impl Version {
    /// Below every issued version.
    pub const ZERO: Self = Self(0);

    /// The version with these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The first version of a millisecond since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis << COUNTER_BITS)
    }

    /// The bits, for the wire.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// When this version was issued, in milliseconds since the Unix epoch by the clock of its
    /// cluster.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0 >> COUNTER_BITS
    }

    /// The first version that is `time` later; at most the last version.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let sum = self.millis().saturating_add(millis);
        if sum >> (u64::BITS - COUNTER_BITS) == 0 {
            Self::from_millis(sum)
        } else {
            Self(u64::MAX)
        }
    }

    /// The next version of the same log, independent of the clock.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The cluster clock of one node: a hybrid logical clock (Kulkarni et al., 2014).
///
/// It is fed by platform time (CLOCK-STEADY) and never goes back. It may be shared: readers and a
/// ticking writer do not wait for each other.
#[derive(Debug, Default)]
pub struct HybridClock {
    last: AtomicU64,
}

impl HybridClock {
    /// A clock that starts above `seen`.
    #[must_use]
    pub const fn starting_above(seen: Version) -> Self {
        Self {
            last: AtomicU64::new(seen.0),
        }
    }

    /// A version above all that this clock has issued or merged.
    ///
    /// To issue versions in the order of other data, tick under that data's lock.
    pub fn tick(&self, platform_millis: u64) -> Version {
        let platform = Version::from_millis(platform_millis);
        let mut last = self.last();
        loop {
            let next = last.next().max(platform);
            let swapped = self.last.compare_exchange_weak(
                last.0,
                next.0,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            match swapped {
                Ok(_) => return next,
                Err(other) => last = Version(other),
            }
        }
    }

    /// The cluster's time now: at least the platform's, never below anything returned before.
    #[must_use]
    pub fn now(&self, platform_millis: u64) -> Version {
        let (last, platform) = (self.last(), Version::from_millis(platform_millis));
        // Usually the millisecond is already there; then no processor's cached copy is invalidated.
        if last >= platform {
            return last;
        }
        Version(self.last.fetch_max(platform.0, Ordering::AcqRel)).max(platform)
    }

    /// The last version issued, merged or returned.
    #[must_use]
    pub fn last(&self) -> Version {
        Version(self.last.load(Ordering::Acquire))
    }

    /// Merges a version issued by another node, however far ahead it is: no node refuses a master
    /// for its clock (CLOCK-STEADY).
    pub fn merge(&self, seen: Version) {
        self.last.fetch_max(seen.0, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_grow_when_the_time_stands_or_goes_back() {
        let clock = HybridClock::default();
        let first = clock.tick(1_000);
        let second = clock.tick(1_000);
        let third = clock.tick(10);
        assert_eq!(first, Version::from_millis(1_000));
        assert!(first < second && second < third);
        let earlier = clock.now(1_500);
        assert!(earlier <= clock.now(1), "the cluster's time went back");
        assert_eq!(clock.tick(2_000), Version::from_millis(2_000));
    }

    #[test]
    fn no_two_ticks_are_equal_on_whatever_threads() {
        let clock = HybridClock::default();
        let ticks = || (0..10_000).map(|at| clock.tick(at / 7)).collect();
        let mut all: Vec<Version> = std::thread::scope(|scope| {
            let other = scope.spawn(ticks);
            let own: Vec<Version> = ticks();
            let other = other.join().unwrap();
            assert!(own.is_sorted() && other.is_sorted());
            own.into_iter().chain(other).collect()
        });
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 20_000);
    }

    #[test]
    fn ticks_are_above_what_was_merged() {
        let clock = HybridClock::default();
        clock.merge(Version::from_millis(70_000));
        clock.merge(Version::from_millis(60_000));
        assert!(clock.tick(0) > Version::from_millis(70_000));
    }
}
