//! Platform time as a client knows it: request ids are born in it (TXN-IDS).
//!
//! Every answer tells it, refusals too, and what was heard last counts, also if it is earlier
//! than what was heard before: a platform that was set up anew, or lost time over a restart,
//! is believed. It is carried on by this machine's boot-time clock; the wall clock is never
//! read. Masters refuse births ten seconds ahead and forgive two minutes behind, so the time
//! between two hearings is counted a little short: a client whose clock runs fast is never
//! ahead.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tierkv_types::{BootTime, Clock};

/// One part in so many of the time that passed is not counted: more than any clock's drift.
const UNCOUNTED_PART: u32 = 1_000;
/// After so long without news the platform is asked for its time; what is not counted until
/// then is far below the two minutes that masters forgive.
const NEWS_INTERVAL: Duration = Duration::from_secs(3_600);

/// Platform time, heard and carried on.
pub(crate) struct PlatformClock {
    clock: Box<dyn Clock>,
    heard: Mutex<Option<Heard>>,
}

#[derive(Clone, Copy)]
struct Heard {
    /// The platform time that was heard last, in milliseconds since the Unix epoch, and when
    /// that was.
    millis: u64,
    at: BootTime,
    /// When the time was heard last, or asked for.
    news: BootTime,
}

impl Heard {
    fn now(&self, now: BootTime) -> u64 {
        let passed = now.since(self.at);
        let counted = passed.saturating_sub(passed / UNCOUNTED_PART);
        let counted = u64::try_from(counted.as_millis()).unwrap_or(u64::MAX);
        self.millis.saturating_add(counted)
    }
}

impl PlatformClock {
    /// A clock that heard nothing yet.
    pub(crate) fn new(clock: impl Clock) -> Self {
        Self {
            clock: Box::new(clock),
            heard: Mutex::new(None),
        }
    }

    fn heard(&self) -> MutexGuard<'_, Option<Heard>> {
        // It is copied as a whole, so a panic can't leave half of it.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in that the platform's time was `millis` a moment ago; 0 is said by who does not
    /// know it.
    pub(crate) fn hear(&self, millis: u64) {
        if millis == 0 {
            return;
        }
        let now = self.clock.boot_time();
        *self.heard() = Some(Heard {
            millis,
            at: now,
            news: now,
        });
    }

    /// The platform's time in milliseconds since the Unix epoch; `None` before anything was
    /// heard.
    pub(crate) fn millis(&self) -> Option<u64> {
        let now = self.clock.boot_time();
        self.heard().map(|heard| heard.now(now))
    }

    /// Whether the caller is to ask the platform for its time: nothing was heard ever, or for
    /// long and nobody else was told to ask.
    pub(crate) fn needs_news(&self) -> bool {
        let now = self.clock.boot_time();
        match &mut *self.heard() {
            Some(heard) if now.since(heard.news) >= NEWS_INTERVAL => {
                heard.news = now;
                true
            }
            Some(_) => false,
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use tierkv_types::Boot;

    use super::*;

    /// Seconds since boot that the test sets; the wall clock must not be read.
    #[derive(Clone, Default)]
    struct Hands(Arc<AtomicU64>);

    impl Clock for Hands {
        fn boot_time(&self) -> BootTime {
            BootTime::from_boot(Duration::from_secs(self.0.load(Ordering::SeqCst)))
        }

        fn boot(&self) -> Option<Boot> {
            panic!("a client compares readings of its own process alone")
        }

        fn wall_millis(&self) -> u64 {
            panic!("a client's wall clock means nothing")
        }

        fn is_synchronised(&self) -> bool {
            panic!("a client's wall clock means nothing")
        }
    }

    impl Hands {
        fn pass(&self, seconds: u64) {
            self.0.fetch_add(seconds, Ordering::SeqCst);
        }
    }

    #[test]
    fn the_time_heard_last_goes_on_and_never_ahead() {
        let hands = Hands::default();
        let clock = PlatformClock::new(hands.clone());
        assert_eq!(clock.millis(), None);
        clock.hear(50_000);
        hands.pass(10);
        assert_eq!(clock.millis(), Some(59_990));
        clock.hear(60_001);
        assert_eq!(clock.millis(), Some(60_001));
        // The platform's time went back.
        clock.hear(7_000);
        hands.pass(1);
        assert_eq!(clock.millis(), Some(7_999));
        // Somebody who does not know it.
        clock.hear(0);
        assert_eq!(clock.millis(), Some(7_999));
    }

    #[test]
    fn one_caller_asks_after_long_silence() {
        let hands = Hands::default();
        let clock = PlatformClock::new(hands.clone());
        assert!(clock.needs_news(), "nothing was ever heard");
        clock.hear(0);
        assert!(clock.needs_news(), "who was asked did not know it");
        clock.hear(1_000);
        hands.pass(NEWS_INTERVAL.as_secs() - 1);
        assert!(!clock.needs_news());
        hands.pass(1);
        assert!(clock.needs_news());
        assert!(!clock.needs_news(), "somebody asks already");
        hands.pass(NEWS_INTERVAL.as_secs());
        clock.hear(2_000);
        assert!(!clock.needs_news(), "an earlier time is news, too");
    }
}
