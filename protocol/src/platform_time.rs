//! Platform time of one process (CLOCK-STEADY): the boot-time clock plus an offset that is
//! slowly drawn towards the wall clock, or towards the time of the other clusters.
//!
//! ```text
//!   founding ──settle──► going on ◄── time_after_restart(what was stored)
//!   (steps with the        │  ▲
//!    wall clock, or        └──┘ draw, with each heartbeat of the master
//!    another cluster)           ▲
//!                    hear: a coordinator's question with the other clusters' times
//! ```
//!
//! [`carrier`] is the coordinator's side: it measures the clusters' times and carries them.
//! [`members`] is what a node has heard of the clocks of its cluster's other members: a replica
//! follows the master's time. [`others`] is what a master has heard of the other clusters, and [`median`] the platform's time.

pub mod carrier;
pub mod median;
pub mod members;
pub mod others;

use std::time::Duration;

use tierkv_types::{Boot, BootTime, ClusterId, NodeId, TimeReading};

use self::{
    members::{MemberTime, OtherMembers},
    others::{OtherClusters, TimeQuestion},
};

/// The offset may change by one part in so many of the passing time, towards the wall clock.
pub const DRAWN_PART: u32 = 1_000;
/// The same towards the median of the clusters: the part of an hour takes 100 hours.
pub const PLATFORM_DRAWN_PART: u32 = 100;
/// A cluster further than this from the median of the clusters is drawn towards it, whatever its
/// wall clock shows. Nearer, the wall clock counts. Masters tolerate births twice as far ahead.
pub const CLUSTERS_FAR: Duration = Duration::from_secs(5);
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
    /// Whether a founder has taken another cluster's time. It does not follow the wall clock again
    /// when it hears of no cluster for a while.
    has_followed: bool,
    /// What was heard of the other clusters' times.
    others: OtherClusters,
    /// What was heard of the clocks of the cluster's other members.
    members: OtherMembers,
}

impl PlatformTime {
    /// A founder's time: until [`Self::settle`] it follows the other clusters, or else the wall
    /// clock, and their steps.
    #[must_use]
    pub fn founding(cluster: ClusterId, boot_time: BootTime, wall_millis: u64) -> Self {
        Self {
            is_founding: true,
            ..Self::going_on(cluster, boot_time, wall_millis)
        }
    }

    /// A time of `cluster` that is `platform_millis` at `boot_time`.
    #[must_use]
    pub fn going_on(cluster: ClusterId, boot_time: BootTime, platform_millis: u64) -> Self {
        Self {
            offset: offset_of(boot_time, platform_millis),
            drawn: boot_time,
            is_founding: false,
            has_followed: false,
            others: OtherClusters::of(cluster),
            members: OtherMembers::default(),
        }
    }

    /// The offset to add to the boot-time clock, in microseconds.
    #[must_use]
    pub const fn offset_micros(&self) -> i64 {
        self.offset
    }

    /// Whether the time may still step.
    #[must_use]
    pub const fn is_founding(&self) -> bool {
        self.is_founding
    }

    /// Ends the steps, before a write gets its version.
    pub const fn settle(&mut self) {
        self.is_founding = false;
    }

    /// Records the other clusters' times in a question that arrived at `boot_time`.
    pub fn hear(&mut self, boot_time: BootTime, question: &TimeQuestion) {
        self.others.hear(boot_time, question);
    }

    /// Records the clocks of another member, whose message arrived at `boot_time`.
    pub fn hear_member(&mut self, boot_time: BootTime, node: &NodeId, time: &MemberTime) {
        self.members.hear(boot_time, node, time);
    }

    /// Takes the time of the cluster's master, whose last message was just heard.
    pub fn follow(&mut self, master: &NodeId, is_founding: bool) {
        if let Some(offset) = self.members.follow(master) {
            self.offset = offset;
            self.is_founding &= is_founding;
        }
    }

    /// Begins a mastership. After a full stop of the cluster no master's time goes on, so it begins
    /// with the median of the members' times.
    pub fn take_over(&mut self, boot_time: BootTime) {
        self.drawn = boot_time;
        if !self.members.has_followed() && !self.is_founding {
            self.offset = self.members.median_platform(boot_time, self.offset);
        }
    }

    /// How far this cluster's time is ahead of the median of the clusters, in microseconds; `None`
    /// while there is no other one to compare it with.
    #[must_use]
    pub fn ahead_micros(&self, boot_time: BootTime) -> Option<i64> {
        let platform = self.platform_offset(boot_time)?;
        Some(self.offset.saturating_sub(platform))
    }

    fn platform_offset(&self, boot_time: BootTime) -> Option<i64> {
        match self.is_founding {
            true => self.others.founders_offset(boot_time),
            false => self.others.median_offset(boot_time, self.offset),
        }
    }

    /// Draws the time on. Towards the median of the clusters, by a hundredth of the time since the
    /// last call, while it is over 5 s away; else towards the median of the wall clocks of this
    /// node and of `in_sync`, by a thousandth, and not at all while that is over a minute away. In
    /// both cases by 1 ms at most.
    pub fn draw(&mut self, boot_time: BootTime, wall_millis: u64, in_sync: &[NodeId]) {
        let passed = boot_time.since(self.drawn);
        self.drawn = boot_time;
        let wall = offset_of(boot_time, wall_millis);
        let wall = self.members.median_wall(boot_time, wall, in_sync);
        let platform = self.platform_offset(boot_time);
        if self.is_founding {
            self.offset = match platform {
                Some(platform) => platform,
                None if self.has_followed => self.offset,
                None => wall,
            };
            self.has_followed |= platform.is_some();
            return;
        }
        let (gap, part) = match platform.map(|platform| platform.saturating_sub(self.offset)) {
            Some(gap) if is_over(gap, CLUSTERS_FAR) => (gap, PLATFORM_DRAWN_PART),
            _ => (wall.saturating_sub(self.offset), DRAWN_PART),
        };
        if part == DRAWN_PART && is_over(gap, FAR) {
            return;
        }
        let most = as_micros((passed / part).min(MOST_DRAWN));
        self.offset += gap.clamp(-most, most);
    }
}

fn is_over(gap_micros: i64, limit: Duration) -> bool {
    gap_micros.unsigned_abs() > as_micros(limit).unsigned_abs()
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

/// The offset of a time that is `millis` at `boot_time`, in microseconds.
fn offset_of(boot_time: BootTime, millis: u64) -> i64 {
    micros(millis).saturating_sub(boot_micros(boot_time))
}

fn micros(millis: u64) -> i64 {
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    millis.saturating_mul(MICROS_PER_MILLI)
}

fn as_micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// A moment on the boot-time clock, in microseconds.
#[must_use]
pub fn boot_micros(boot_time: BootTime) -> i64 {
    as_micros(boot_time.since_boot())
}

#[cfg(test)]
mod tests;
