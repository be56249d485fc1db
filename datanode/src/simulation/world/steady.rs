//! CLOCK-STEADY: compares the cluster's time with true time, which only the world knows.

use tierkv_types::{Clock, TimeReading, Version};

use super::{super::clock::signed, World, node::Booted};

/// The allowed difference of rounded readings, in milliseconds.
const ROUNDING: i64 = 2;
/// A wall clock further away than this, in milliseconds, must not be followed.
const FAR: i64 = 60_000;

/// How far the cluster's time may be ahead of true time, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steady {
    least: i64,
    most: i64,
    /// When these limits were computed, in virtual milliseconds.
    at: u64,
    /// How far the wall clock was ahead of the cluster's time then, in milliseconds.
    gap: i64,
}

impl Steady {
    fn of(ahead: i64, at: u64, gap: i64) -> Self {
        Self {
            least: ahead * 1_000,
            most: ahead * 1_000,
            at,
            gap,
        }
    }

    /// The limits some milliseconds later: the time may have been drawn towards the wall clock by
    /// a thousandth of them.
    fn later(&mut self, at: u64, gap: i64) {
        let drawn = signed(at - self.at);
        if self.gap.abs() <= FAR + ROUNDING {
            match self.gap >= 0 {
                true => self.most += drawn,
                false => self.least -= drawn,
            }
        }
        (self.at, self.gap) = (at, gap);
    }

    fn check(&self, ahead: i64) {
        let (least, most) = (self.least / 1_000 - ROUNDING, self.most / 1_000 + ROUNDING);
        assert!(
            (least..=most).contains(&ahead),
            "CLOCK-STEADY: the cluster's time is {ahead} ms ahead of true time, and should be \
             between {least} and {most}"
        );
    }
}

impl World {
    /// Checks that the cluster's time follows true time, and not steps of the wall clock.
    pub(super) fn check_time(&mut self) {
        let Some(node) = &self.node else { return };
        if !self.history.has_writes() {
            // A founder's time may step.
            self.steady = None;
            return;
        }
        let at = self.scheduler.time().millis();
        let ahead = ahead(node.sequencer.now(), at);
        let gap = self.machine.clock.wall_ahead() - ahead;
        match &mut self.steady {
            None => self.steady = Some(Steady::of(ahead, at, gap)),
            Some(steady) => {
                steady.later(at, gap);
                steady.check(ahead);
            }
        }
    }

    /// Checks that after a restart the time continues from the stored one by the true time that
    /// passed: in the same boot, and in another one if the wall clock was right at both ends. Else
    /// no time is counted.
    pub(super) fn check_time_at_start(&mut self, booted: &Booted) {
        let Some(stored) = booted.found.time.filter(|_| self.history.has_writes()) else {
            // The process ended within a second of its first write.
            self.steady = None;
            return;
        };
        self.seen.went_on += 1;
        let clock = &self.machine.clock;
        let (at, now) = (self.scheduler.time().millis(), booted.time.millis());
        let boot = stored.boot.expect("every reading has a boot");
        let is_same_boot = clock.boot() == Some(boot);
        let stored_at = clock.moment(boot, stored.boot_time);
        let passed = signed(at - stored_at);
        let counted = if is_same_boot {
            passed
        } else {
            self.seen.in_another_boot += 1;
            match (clock.was_synchronised(stored_at), clock.is_synchronised()) {
                (true, true) => {
                    self.seen.counted += 1;
                    passed
                }
                (was_right, is_right) => {
                    self.seen.corrected += u64::from(is_right && !was_right);
                    0
                }
            }
        };
        let expected = expected(&stored, counted, booted.found.clock);
        // The stored reading may be from before or after a change in the same millisecond.
        let is_ambiguous =
            !is_same_boot && clock.is_synchronised() && clock.changed_within(stored_at);
        let also = [0, passed].map(|counted| self::expected(&stored, counted, booted.found.clock));
        let is_near = |expected: i64| (signed(now) - expected).abs() <= ROUNDING;
        assert!(
            is_near(expected) || (is_ambiguous && also.into_iter().any(is_near)),
            "CLOCK-STEADY: after a restart it is {now}, and should be {expected}"
        );
        match &mut self.steady {
            // Changes of the offset since the last stored reading are lost.
            Some(steady) if is_same_boot => {
                let lost = passed;
                (steady.least, steady.most) = (steady.least - lost, steady.most + lost);
            }
            _ => self.steady = None,
        }
    }
}

/// The time to continue from: never below the versions in the log.
fn expected(stored: &TimeReading, counted: i64, seen: Version) -> i64 {
    (signed(stored.platform_millis) + counted).max(signed(seen.millis()))
}

fn ahead(clock: Version, at: u64) -> i64 {
    signed(clock.millis()) - signed(at)
}
