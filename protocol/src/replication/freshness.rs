//! [`Freshness`]: how old a replica's applied state may be (REP-AGE).

use tierkv_types::{BootTime, Index};

use super::message::Echo;

/// The age of a replica, on its own clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Freshness {
    /// Everything committed before this time is applied.
    since: Option<BootTime>,
    /// An echo whose commit index is not applied yet: the oldest, so that a replica that applies
    /// slowly still becomes fresh.
    awaited: Option<Echo>,
    /// The newest echo after that.
    newest: Option<Echo>,
    /// Probes that were sent up to this time count for nothing.
    from: Option<BootTime>,
}

impl Freshness {
    /// Handles the echo of a probe that this process sent.
    pub(super) fn echo(&mut self, echo: Echo, applied: Index) {
        let known = [
            self.from,
            self.since,
            self.awaited.map(|it| it.probe),
            self.newest.map(|it| it.probe),
        ];
        if known.into_iter().flatten().any(|probe| probe >= echo.probe) {
            return;
        }
        match self.awaited {
            Some(_) => self.newest = Some(echo),
            None => self.awaited = Some(echo),
        }
        self.applied(applied);
    }

    /// Everything up to `index` is applied.
    pub(super) fn applied(&mut self, index: Index) {
        while let Some(echo) = self.awaited.filter(|echo| echo.commit <= index) {
            self.since = Some(echo.probe);
            self.awaited = self.newest.take();
        }
    }

    /// Everything committed before this time is applied; `None` while that is not known.
    pub(super) const fn since(&self) -> Option<BootTime> {
        self.since
    }

    /// Forgets everything from before `now`: the clock may have stood still.
    pub(super) fn begin_anew(&mut self, now: BootTime) {
        *self = Self {
            from: Some(now),
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    fn echo(probe: u64, commit: u64) -> Echo {
        Echo {
            probe: at(probe),
            commit: Index(commit),
        }
    }

    #[test]
    fn an_echo_counts_once_its_index_is_applied() {
        let mut fresh = Freshness::default();
        fresh.echo(echo(10, 5), Index(4));
        assert_eq!(fresh.since(), None);
        fresh.applied(Index(5));
        assert_eq!(fresh.since(), Some(at(10)));
    }

    #[test]
    fn one_that_applies_slowly_becomes_fresh_and_late_echoes_are_ignored() {
        let mut fresh = Freshness::default();
        for time in 1..100 {
            fresh.echo(echo(time, 10 * time), Index(0));
        }
        fresh.applied(Index(10));
        assert_eq!(fresh.since(), Some(at(1)));
        fresh.applied(Index(990));
        assert_eq!(fresh.since(), Some(at(99)));
        fresh.echo(echo(50, 1), Index(990));
        assert_eq!(fresh.since(), Some(at(99)));
    }

    #[test]
    fn probes_from_before_the_clock_stood_still_count_for_nothing() {
        let mut fresh = Freshness::default();
        fresh.echo(echo(10, 1), Index(1));
        fresh.begin_anew(at(20));
        fresh.echo(echo(20, 1), Index(1));
        assert_eq!(fresh.since(), None);
        fresh.echo(echo(21, 1), Index(1));
        assert_eq!(fresh.since(), Some(at(21)));
    }
}
