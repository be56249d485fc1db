//! Platform time as one process keeps it (CLOCK-STEADY): the boot-time clock plus an offset
//! that is drawn towards the wall clock too slowly for anybody to see.
//!
//! ```text
//!   founding ──settle──► going on ◄── time_after_restart(what was stored)
//!   (steps with the        │  ▲
//!    wall clock)           └──┘ draw, with each heartbeat of the master
//! ```

use std::time::Duration;

use tierkv_types::{Boot, BootTime, TimeReading};

/// Of the time that passes, one part in so many may be drawn.
pub const DRAWN_PART: u32 = 1_000;
/// The most that is drawn at once: what platform time is counted in.
pub const MOST_DRAWN: Duration = Duration::from_millis(1);
/// A wall clock that is further away than this is not followed: somebody set it.
pub const FAR: Duration = Duration::from_secs(60);

/// Platform time, whose readers add [`Self::offset_micros`] to the boot-time clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformTime {
    /// Platform time less boot time, in microseconds.
    offset: i64,
    /// Up to when the time that passed was used for drawing.
    drawn: BootTime,
    is_founding: bool,
}

impl PlatformTime {
    /// The time of a founder: the wall clock's, with its steps, until [`Self::settle`].
    #[must_use]
    pub fn founding(boot_time: BootTime, wall_millis: u64) -> Self {
        Self {
            is_founding: true,
            ..Self::going_on(boot_time, wall_millis)
        }
    }

    /// The time that is `platform_millis` at `boot_time` and goes on from there.
    #[must_use]
    pub fn going_on(boot_time: BootTime, platform_millis: u64) -> Self {
        Self {
            offset: micros(platform_millis).saturating_sub(boot_micros(boot_time)),
            drawn: boot_time,
            is_founding: false,
        }
    }

    /// What is added to the boot-time clock, in microseconds.
    #[must_use]
    pub const fn offset_micros(&self) -> i64 {
        self.offset
    }

    /// Whether the time still follows the steps of the wall clock.
    #[must_use]
    pub const fn is_founding(&self) -> bool {
        self.is_founding
    }

    /// From now on there are no steps: a write is about to get its version.
    pub const fn settle(&mut self) {
        self.is_founding = false;
    }

    /// Draws the time towards the wall clock: by a thousandth of what passed since the last
    /// call, by a millisecond at most, and not at all while they are over a minute apart.
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

/// The platform time, in milliseconds, that is `offset_micros` after the boot-time clock.
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
    /// What it counts from.
    pub boot: Option<Boot>,
    /// The wall clock, if the kernel calls it synchronised.
    pub synchronised_wall_millis: Option<u64>,
}

/// Whether a start in this boot needs no wall clock to go on from what was stored.
#[must_use]
pub fn is_same_boot(stored: &TimeReading, boot: Option<Boot>) -> bool {
    boot.is_some() && stored.boot == boot
}

/// Where platform time goes on after a restart, in milliseconds: in the same boot by the
/// boot-time clock, else by what passed on the wall clock, if that is synchronised; never
/// below what was stored.
#[must_use]
pub fn time_after_restart(stored: &TimeReading, now: &StartReading) -> u64 {
    let passed = if is_same_boot(stored, now.boot) {
        let passed = now.boot_time.since(stored.boot_time).as_millis();
        u64::try_from(passed).unwrap_or(u64::MAX)
    } else {
        let wall = now.synchronised_wall_millis.unwrap_or(0);
        wall.saturating_sub(stored.wall_millis)
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
