//! How long a lease is held for certain (COORD-LEASE).
//!
//! etcd ends a lease no earlier than its TTL after the last renewal arrived. The holder counts
//! from the *sending* of the last answered renewal, on the boot-time clock, and gives up one fifth
//! of the TTL earlier. So it has noticed the loss before another can have its name, even where
//! its clock is that much slower than etcd's. The end is compared with the clock whenever it
//! matters, not only by a timer: a process that was paused must not see itself as the holder when
//! it goes on.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tierkv_types::clock::{BootTime, Clock};

/// The part of the TTL that is given up.
const MARGIN: u32 = 5;

/// How long a lease is held. Once it is over, it stays over.
pub(super) struct Term {
    clock: Arc<dyn Clock>,
    ttl: Duration,
    state: Mutex<State>,
}

struct State {
    end: BootTime,
    is_over: bool,
}

impl Term {
    /// The term of a lease that was requested at `sent`.
    pub(super) fn new(clock: Arc<dyn Clock>, ttl: Duration, sent: BootTime) -> Self {
        let state = State {
            end: sent.after(held_for(ttl)),
            is_over: false,
        };
        Self {
            clock,
            ttl,
            state: Mutex::new(state),
        }
    }

    /// Whether the lease is not held any more.
    pub(super) fn is_over(&self) -> bool {
        self.now_over(&mut self.state())
    }

    /// Extends the term by a renewal that was sent at `sent` and answered. Returns whether the
    /// lease is held: an answer that came too late changes nothing.
    pub(super) fn renew(&self, sent: BootTime) -> bool {
        let mut state = self.state();
        if self.now_over(&mut state) {
            return false;
        }
        state.end = state.end.max(sent.after(held_for(self.ttl)));
        true
    }

    /// Ends the term.
    pub(super) fn end(&self) {
        self.state().is_over = true;
    }

    /// The rest of the term; zero once it is over.
    pub(super) fn rest(&self) -> Duration {
        let mut state = self.state();
        if self.now_over(&mut state) {
            return Duration::ZERO;
        }
        state.end.since(self.clock.boot_time())
    }

    fn now_over(&self, state: &mut State) -> bool {
        state.is_over = state.is_over || self.clock.boot_time() >= state.end;
        state.is_over
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn held_for(ttl: Duration) -> Duration {
    ttl - ttl / MARGIN
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tierkv_types::clock::Boot;

    use super::*;

    /// A boot-time clock that is set by hand, in milliseconds.
    #[derive(Default)]
    struct Hand(AtomicU64);

    impl Hand {
        fn set(&self, millis: u64) {
            self.0.store(millis, Ordering::SeqCst);
        }
    }

    impl Clock for Hand {
        fn boot_time(&self) -> BootTime {
            at(self.0.load(Ordering::SeqCst))
        }

        fn boot(&self) -> Option<Boot> {
            None
        }

        fn wall_millis(&self) -> u64 {
            0
        }

        fn is_synchronised(&self) -> bool {
            false
        }
    }

    fn at(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    fn term(clock: &Arc<Hand>) -> Term {
        let clock: Arc<dyn Clock> = Arc::<Hand>::clone(clock);
        Term::new(clock, Duration::from_secs(5), at(0))
    }

    #[test]
    fn a_term_ends_before_the_lease() {
        let clock = Arc::new(Hand::default());
        let term = term(&clock);
        clock.set(3_999);
        assert!(!term.is_over());
        assert_eq!(term.rest(), Duration::from_millis(1));
        assert!(term.renew(at(3_000)), "an answer in time");
        clock.set(6_999);
        assert!(!term.is_over(), "counted from the sending");
        clock.set(7_000);
        assert!(term.is_over());
        assert_eq!(term.rest(), Duration::ZERO);
    }

    #[test]
    fn nothing_revives_a_term() {
        let clock = Arc::new(Hand::default());
        let paused = term(&clock);
        clock.set(60_000);
        assert!(!paused.renew(at(59_999)), "nobody looked, but it is over");
        assert!(paused.is_over());
        clock.set(0);
        assert!(paused.is_over());

        let ended = term(&clock);
        ended.end();
        assert!(!ended.renew(at(0)) && ended.is_over());
    }

    #[test]
    fn an_older_renewal_does_not_shorten_it() {
        let clock = Arc::new(Hand::default());
        let term = term(&clock);
        assert!(term.renew(at(2_000)) && term.renew(at(1_000)));
        clock.set(5_999);
        assert!(!term.is_over());
    }
}
