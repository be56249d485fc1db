//! Time as the protocols see it: injected, never read from `std` inside them.

use std::time::Duration;

/// Time since this machine booted, suspends included (`CLOCK_BOOTTIME`).
///
/// Ages and leases are measured on it: it never jumps, and it goes on while the
/// machine sleeps. Values of two machines can't be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(Duration);

impl BootTime {
    /// The instant `since_boot` after the machine booted.
    #[must_use]
    pub const fn from_boot(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// How long before `self` the instant `earlier` was; zero if it was not before.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The instant `by` later.
    #[must_use]
    pub const fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

/// The two clocks a tier reads, behind one trait so that tests own time.
pub trait Clock: Send + Sync + 'static {
    /// The boot-time clock, for ages, leases and deadlines.
    fn boot_time(&self) -> BootTime;

    /// Milliseconds since the Unix epoch, as the machine believes. Only ever merged
    /// into a hybrid logical clock, never trusted on its own.
    fn wall_millis(&self) -> u64;
}

/// The machine's own clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn boot_time(&self) -> BootTime {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        BootTime(to_duration(now))
    }

    fn wall_millis(&self) -> u64 {
        let now = to_duration(rustix::time::clock_gettime(rustix::time::ClockId::Realtime));
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }
}

fn to_duration(time: rustix::time::Timespec) -> Duration {
    // Neither part is negative on a running Linux; zero is a safe answer if one were.
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clocks_go_forward() {
        let clock = SystemClock;
        let before = clock.boot_time();
        assert!(clock.boot_time() >= before);
        assert!(
            clock.wall_millis() > 1_600_000_000_000,
            "the wall clock is before 2020"
        );
    }

    #[test]
    fn a_later_earlier_instant_is_no_time_ago() {
        let early = BootTime::from_boot(Duration::from_secs(1));
        let late = early.after(Duration::from_secs(2));
        assert_eq!(late.since(early), Duration::from_secs(2));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
