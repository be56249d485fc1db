//! Platform time of one process (CLOCK-STEADY): the boot-time clock plus an offset that is
//! slowly drawn towards the wall clock.
//!
//! ```text
//!   founding ──settle──► going on ◄── time_after_restart(what was stored)
//!   (steps with the        │  ▲
//!    wall clock)           └──┘ draw, with each heartbeat of the master
//! ```

use std::time::Duration;

use tierkv_types::{Boot, BootTime, TimeReading};

/// The offset may change by one part in so many of the passing time.
pub const DRAWN_PART: u32 = 1_000;
/// The largest change at once: the unit of platform time.
pub const MOST_DRAWN: Duration = Duration::from_millis(1);
/// A wall clock further away than this is not followed: it was set.
pub const FAR: Duration = Duration::from_secs(60);

/// Platform time. Readers add [`Self::offset_micros`] to the boot-time clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformTime {
    /// Platform time minus boot time, in microseconds.
    offset: i64,
    /// The boot time of the last draw: the time since then may be used for the next.
    drawn: BootTime,
    is_founding: bool,
}

impl PlatformTime {
    /// A founder's time: it follows the wall clock and its steps until [`Self::settle`].
    #[must_use]
    pub fn founding(boot_time: BootTime, wall_millis: u64) -> Self {
        Self {
            is_founding: true,
            ..Self::going_on(boot_time, wall_millis)
        }
    }

    /// A time that is `platform_millis` at `boot_time`.
    #[must_use]
    pub fn going_on(boot_time: BootTime, platform_millis: u64) -> Self {
        Self {
            offset: micros(platform_millis).saturating_sub(boot_micros(boot_time)),
            drawn: boot_time,
            is_founding: false,
        }
    }

    /// The offset to add to the boot-time clock, in microseconds.
    #[must_use]
    pub const fn offset_micros(&self) -> i64 {
        self.offset
    }

    /// Whether the time still follows the steps of the wall clock.
    #[must_use]
    pub const fn is_founding(&self) -> bool {
        self.is_founding
    }

    /// Ends following the wall clock's steps, before a write gets its version.
    pub const fn settle(&mut self) {
        self.is_founding = false;
    }

    /// Draws the time towards the wall clock: by a thousandth of the time since the last call, by
    /// 1 ms at most, and not at all while the clocks are over a minute apart.
    pub fn draw(&mut self, boot_time: BootTime, wall_millis: u64) {
        let passed = boot_time.since(self.drawn);
        self.drawn = boot_time;
        let wanted = micros(wall_millis).saturating_sub(boot_micros(boot_time));
        if self.is_founding {
            self.offset = wanted;
            return;
        }
        let gap = wanted.saturating_sub(self.offset);
        if gap.unsigned_abs() > as_micros(FAR).unsigned_abs() {
            return;
        }
        let most = as_micros((passed / DRAWN_PART).min(MOST_DRAWN));
        self.offset += gap.clamp(-most, most);
    }
}

/// The platform time, in milliseconds: the boot-time clock plus `offset_micros`.
#[must_use]
pub fn platform_millis(boot_time: BootTime, offset_micros: i64) -> u64 {
    let micros = boot_micros(boot_time).saturating_add(offset_micros);
    u64::try_from(micros / MICROS_PER_MILLI).unwrap_or(0)
}

/// The clocks of a machine when a node starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartReading {
    /// The boot-time clock.
    pub boot_time: BootTime,
    /// The boot that it counts from.
    pub boot: Option<Boot>,
    /// The wall clock, if the kernel reports it synchronised.
    pub synchronised_wall_millis: Option<u64>,
}

/// Whether a start in this boot can continue from the stored time without the wall clock.
#[must_use]
pub fn is_same_boot(stored: &TimeReading, boot: Option<Boot>) -> bool {
    boot.is_some() && stored.boot == boot
}

/// The platform time after a restart, in milliseconds, never below the stored time. In the same
/// boot the boot-time clock gives the time passed since. In another boot the wall clock does, if
/// it is synchronised now and was when the time was stored: between a wrong reading and a right
/// one lies a correction, and keys would expire by it. Else no time is counted.
#[must_use]
pub fn time_after_restart(stored: &TimeReading, now: &StartReading) -> u64 {
    let passed = if is_same_boot(stored, now.boot) {
        let passed = now.boot_time.since(stored.boot_time).as_millis();
        u64::try_from(passed).unwrap_or(u64::MAX)
    } else {
        let wall = now
            .synchronised_wall_millis
            .filter(|_| stored.is_synchronised);
        wall.map_or(0, |wall| wall.saturating_sub(stored.wall_millis))
    };
    stored.platform_millis.saturating_add(passed)
}

const MICROS_PER_MILLI: i64 = 1_000;

fn micros(millis: u64) -> i64 {
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    millis.saturating_mul(MICROS_PER_MILLI)
}

fn as_micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn boot_micros(boot_time: BootTime) -> i64 {
    as_micros(boot_time.since_boot())
}

#[cfg(test)]
mod tests;
