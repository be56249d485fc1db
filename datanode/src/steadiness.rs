//! [`Steadiness`]: notices that this machine's clocks stood still, as those of a virtual machine do
//! while it is paused (CLOCK-STEADY).
//!
//! What other processes show of platform time is compared with this machine's boot-time clock. What
//! they send arrives late, so their time seems earlier than it is, and never later. Once it is
//! suddenly later by more than half a second, this machine's clock has stood still.
//!
//! After a pause, messages may wait that were sent during it: each shows a time a little later than
//! the one before. So the comparison is with a time *before the last windows*, which end by this
//! machine's own clock, and not with the last message.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use tierkv_types::BootTime;

/// A clock that is this far behind what others show has stood still, or theirs have jumped.
const JUMP: Duration = Duration::from_millis(500);
/// How long a window is. Two clocks drift apart by far less than the jump in a few of them, also
/// while a cluster's time is drawn to the others'.
const WINDOW: Duration = Duration::from_secs(5);
/// No time was shown yet.
const NONE: i64 = i64::MIN;

/// How far other processes' time is ahead of this machine's boot-time clock, in milliseconds: the
/// highest distance of each window. Takes no lock.
#[derive(Debug)]
pub(crate) struct Steadiness {
    /// What is compared with: a window before the last one.
    reference: AtomicI64,
    last: AtomicI64,
    newest: AtomicI64,
    /// When the newest window began, on the boot-time clock, in milliseconds.
    since: AtomicU64,
}

impl Default for Steadiness {
    fn default() -> Self {
        Self {
            reference: AtomicI64::new(NONE),
            last: AtomicI64::new(NONE),
            newest: AtomicI64::new(NONE),
            since: AtomicU64::new(0),
        }
    }
}

impl Steadiness {
    /// Compares the time `shown`, in milliseconds, by something that arrived at `now`. Returns
    /// whether ages that were measured before still hold: not if the clock stood still, and not if
    /// there was nothing to compare with until now.
    pub(crate) fn is_steady(&self, now: BootTime, shown_millis: u64) -> bool {
        let own = millis(now.since_boot());
        let ahead = signed(shown_millis).saturating_sub(signed(own));
        let reference = self.reference.load(Ordering::Acquire);
        if reference == NONE || ahead > reference.saturating_add(signed(millis(JUMP))) {
            self.since.store(own, Ordering::Release);
            for place in [&self.newest, &self.last, &self.reference] {
                place.store(ahead, Ordering::Release);
            }
            return false;
        }
        if self.newest.load(Ordering::Acquire) < ahead {
            self.newest.fetch_max(ahead, Ordering::AcqRel);
        }
        let since = self.since.load(Ordering::Acquire);
        if own.saturating_sub(since) >= millis(WINDOW) {
            let begun =
                (self.since).compare_exchange(since, own, Ordering::AcqRel, Ordering::Relaxed);
            if begun.is_ok() {
                let newest = self.newest.swap(ahead, Ordering::AcqRel);
                let last = self.last.swap(newest, Ordering::AcqRel);
                self.reference.store(last, Ordering::Release);
            }
        }
        true
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn signed(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AHEAD: u64 = 1_700_000_000_000;

    /// Shows the time of `real` milliseconds, sent `late` before, to a machine that was paused for
    /// `paused` until now.
    fn show(steadiness: &Steadiness, real: u64, late: u64, paused: u64) -> bool {
        let now = BootTime::from_boot(Duration::from_millis(real - paused));
        steadiness.is_steady(now, AHEAD + real - late)
    }

    /// A machine that has run for `millis`.
    fn ran(millis: u64) -> Steadiness {
        let steadiness = Steadiness::default();
        assert!(
            !show(&steadiness, 1_000, 5, 0),
            "there was nothing to compare"
        );
        for real in (1_000..millis).step_by(50) {
            assert!(show(&steadiness, real, real % 40, 0), "at {real}");
        }
        steadiness
    }

    #[test]
    fn late_messages_are_no_jump() {
        for run in [2_000, 20_000, 3_600_000] {
            let steadiness = ran(run);
            assert!(show(&steadiness, run, 60_000.min(run), 0));
            assert!(show(&steadiness, run + 10, 0, 0));
            assert!(
                show(&steadiness, run + 60_000, 0, 0),
                "nothing came for a while"
            );
        }
    }

    #[test]
    fn a_pause_is_noticed_once() {
        for pause in [600, 5_000, 3_600_000] {
            for run in [2_000, 5_990, 6_000, 20_000] {
                let steadiness = ran(run);
                let real = run + pause;
                assert!(!show(&steadiness, real, 10, pause), "{pause} after {run}");
                assert!(show(&steadiness, real, 10, pause));
                assert!(show(&steadiness, real + 20_000, 10, pause));
            }
        }
        assert!(show(&ran(20_000), 20_400, 0, 400), "less is not noticed");
        for (shown, is_steady) in [(499, true), (501, false)] {
            let steadiness = Steadiness::default();
            let now = BootTime::from_boot(Duration::from_secs(1));
            assert!(!steadiness.is_steady(now, AHEAD), "the first one");
            assert_eq!(
                steadiness.is_steady(now, AHEAD + shown),
                is_steady,
                "{shown}"
            );
        }
    }

    /// What was sent during the pause is delivered after it, one message after the other.
    #[test]
    fn messages_from_during_a_pause_do_not_hide_it() {
        for run in (20_000..26_000).step_by(250) {
            let steadiness = ran(run);
            let resumed = run + 10_000;
            let mut noticed_at = None;
            for sent in (run..resumed).step_by(50) {
                // The machine's clock goes on by a millisecond in all.
                let paused = 10_000 - (sent - run) / 10_000;
                if !show(&steadiness, resumed, resumed - sent, paused) {
                    noticed_at.get_or_insert(sent - run);
                }
            }
            assert!(noticed_at.is_some_and(|at| at < 700), "{noticed_at:?}");
        }
    }

    #[test]
    fn clocks_that_drift_apart_are_no_jump() {
        let steadiness = ran(2_000);
        for real in (2_000..1_000_000_u64).step_by(100) {
            let drifted = real + real / 100;
            let now = BootTime::from_boot(Duration::from_millis(real));
            assert!(steadiness.is_steady(now, AHEAD + drifted), "at {real}");
        }
    }
}
