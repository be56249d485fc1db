//! [`ClusterClock`]: what a cluster's clock shows, as far as its answers have shown.
//!
//! Reads carry it to the data nodes. A node whose machine was paused has clocks that stood still,
//! and notices by it that the ages which it computes are too low (CLOCK-STEADY).

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tierkv_types::{BootTime, Version};

/// Answers of this long decide. One that was long under way shows too little; the clocks of two
/// machines drift apart by less than a tenth of a second in it.
const WINDOW: Duration = Duration::from_secs(10);

/// A lower bound of a cluster's clock.
#[derive(Debug, Default)]
pub(crate) struct ClusterClock(Mutex<Windows>);

/// The highest distances of the cluster's clock from this machine's boot-time clock, in
/// milliseconds: in the window under way, and in the one before.
#[derive(Debug, Default)]
struct Windows {
    newest: Option<i64>,
    previous: Option<i64>,
    since: BootTime,
}

impl ClusterClock {
    /// An answer that arrived at `now` has shown a clock; zero: it has not.
    pub(crate) fn learn(&self, now: BootTime, shown: Version) {
        if shown == Version::ZERO {
            return;
        }
        let ahead = millis(shown).saturating_sub(since_boot(now));
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(windows.since) >= WINDOW {
            windows.previous = windows.newest.take();
            windows.since = now;
        }
        windows.newest = windows.newest.max(Some(ahead));
    }

    /// What the cluster's clock shows at least; zero before the first answer.
    pub(crate) fn at(&self, now: BootTime) -> Version {
        let windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = windows.newest.max(windows.previous);
        drop(windows);
        let shown = ahead.map(|ahead| since_boot(now).saturating_add(ahead));
        let shown = shown.and_then(|shown| u64::try_from(shown).ok());
        shown.map_or(Version::ZERO, Version::from_millis)
    }
}

fn millis(version: Version) -> i64 {
    i64::try_from(version.millis()).unwrap_or(i64::MAX)
}

fn since_boot(now: BootTime) -> i64 {
    i64::try_from(now.since_boot().as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    #[test]
    fn late_answers_do_not_set_it_back_and_old_ones_are_forgotten() {
        let clock = ClusterClock::default();
        assert_eq!(clock.at(at(5)), Version::ZERO);
        clock.learn(at(1_000), Version::from_millis(500_000));
        clock.learn(at(1_900), Version::from_millis(500_100));
        clock.learn(at(1_950), Version::ZERO);
        assert_eq!(clock.at(at(2_000)), Version::from_millis(501_000));
        // The cluster's clock is slower than this one by a thousandth.
        for second in 2..100 {
            let shown = 500_000 + 999 * second;
            clock.learn(at(1_000 + 1_000 * second), Version::from_millis(shown));
        }
        let shown = clock.at(at(100_000)).millis();
        assert!((598_901..598_930).contains(&shown), "{shown}");
    }
}
