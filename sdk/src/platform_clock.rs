//! The client's copy of platform time, in which request ids are born (TXN-IDS).
//!
//! Every answer carries platform time, refusals too. The latest reading counts, even if it is
//! earlier than one before: a platform that was set up anew, or lost time over a restart, is
//! believed. Between readings this machine's boot-time clock carries it on; the wall clock is never
//! read. Masters refuse births ten seconds ahead and accept two minutes behind, so the time between
//! readings is counted a little short: a client whose clock runs fast is never ahead.
//!
//! While the clusters' times are apart, the platform's time is not that of every cluster. A write
//! that is refused for its birth returns its master's time, and the next writes to the same slot are
//! born in that one: one more round trip for each slot, not for each write.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tierkv_types::{BootTime, Clock, Slot};

/// This fraction (one part in 1,000) of the elapsed time is not counted: more than any clock
/// drifts.
const UNCOUNTED_PART: u32 = 1_000;
/// Without a reading for this long, the platform is asked for its time. What is not counted until
/// then is far below the two minutes that masters accept.
const NEWS_INTERVAL: Duration = Duration::from_secs(3_600);
/// A slot whose master's time is this close to the platform's needs no time of its own: masters
/// accept births ten seconds ahead.
const AGREEMENT_MILLIS: u64 = 5_000;

/// Platform time: the last reading, carried on by the boot-time clock.
pub(crate) struct PlatformClock {
    clock: Box<dyn Clock>,
    reading: Mutex<Option<Reading>>,
    /// The times of masters that refused a birth; at most one for each of the 4,096 slots.
    slots: Mutex<HashMap<Slot, Reading>>,
    /// Whether there are any, so that most writes need not look.
    has_slots: AtomicBool,
}

#[derive(Clone, Copy)]
struct Reading {
    /// The platform time of the last reading, in milliseconds since the Unix epoch, and when it
    /// came.
    millis: u64,
    at: BootTime,
    /// When the platform's time was last read or asked for.
    news: BootTime,
}

impl Reading {
    fn now(&self, now: BootTime) -> u64 {
        let passed = now.since(self.at);
        let counted = passed.saturating_sub(passed / UNCOUNTED_PART);
        let counted = u64::try_from(counted.as_millis()).unwrap_or(u64::MAX);
        self.millis.saturating_add(counted)
    }
}

impl PlatformClock {
    /// A clock without a reading.
    pub(crate) fn new(clock: impl Clock) -> Self {
        Self {
            clock: Box::new(clock),
            reading: Mutex::new(None),
            slots: Mutex::default(),
            has_slots: AtomicBool::new(false),
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Slot, Reading>> {
        // As below.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reading(&self) -> MutexGuard<'_, Option<Reading>> {
        // The whole value is copied at once, so a panic can't leave half of it.
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the platform's time was `millis` a moment ago. A node that does not have the
    /// time sends 0.
    pub(crate) fn record(&self, millis: u64) {
        if millis == 0 {
            return;
        }
        let now = self.clock.boot_time();
        *self.reading() = Some(Reading {
            millis,
            at: now,
            news: now,
        });
    }

    /// Records the time of the master of `slot`, which refused a birth.
    pub(crate) fn record_refusal(&self, slot: Slot, millis: u64) {
        let now = self.clock.boot_time();
        let reading = Reading {
            millis,
            at: now,
            news: now,
        };
        self.slots().insert(slot, reading);
        self.has_slots.store(true, Ordering::Release);
    }

    /// The birth of a new request to the slot that `slot` returns: in its master's time, if that is
    /// known to differ from the platform's. `None` before the first reading.
    pub(crate) fn birth(&self, slot: impl FnOnce() -> Option<Slot>) -> Option<u64> {
        let platform = self.millis();
        if !self.has_slots.load(Ordering::Acquire) {
            return platform;
        }
        let now = self.clock.boot_time();
        let Some(slot) = slot() else { return platform };
        let mut slots = self.slots();
        let own = slots.get(&slot).map(|reading| reading.now(now));
        let (Some(own), Some(platform)) = (own, platform) else {
            return own.or(platform);
        };
        if own.abs_diff(platform) > AGREEMENT_MILLIS {
            return Some(own);
        }
        slots.remove(&slot);
        self.has_slots.store(!slots.is_empty(), Ordering::Release);
        Some(platform)
    }

    /// The platform's time in milliseconds since the Unix epoch; `None` before the first reading.
    pub(crate) fn millis(&self) -> Option<u64> {
        let now = self.clock.boot_time();
        self.reading().map(|reading| reading.now(now))
    }

    /// Whether the caller must ask the platform for its time: there is no reading yet, or the last
    /// is old and no other caller was sent to ask.
    pub(crate) fn needs_news(&self) -> bool {
        let now = self.clock.boot_time();
        match &mut *self.reading() {
            Some(reading) if now.since(reading.news) >= NEWS_INTERVAL => {
                reading.news = now;
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

    /// Seconds since boot, set by the test; the wall clock must not be read.
    #[derive(Clone, Default)]
    struct Hands(Arc<AtomicU64>);

    impl Clock for Hands {
        fn boot_time(&self) -> BootTime {
            BootTime::from_boot(Duration::from_secs(self.0.load(Ordering::SeqCst)))
        }

        fn boot(&self) -> Option<Boot> {
            panic!("a client compares only readings of its own process")
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
    fn the_last_reading_is_carried_on_and_never_ahead() {
        let hands = Hands::default();
        let clock = PlatformClock::new(hands.clone());
        assert_eq!(clock.millis(), None);
        clock.record(50_000);
        hands.pass(10);
        assert_eq!(clock.millis(), Some(59_990));
        clock.record(60_001);
        assert_eq!(clock.millis(), Some(60_001));
        // The platform's time went back.
        clock.record(7_000);
        hands.pass(1);
        assert_eq!(clock.millis(), Some(7_999));
        // A node that does not have the time.
        clock.record(0);
        assert_eq!(clock.millis(), Some(7_999));
    }

    #[test]
    fn a_slot_whose_master_refused_a_birth_has_a_time_of_its_own_until_it_agrees() {
        let [slot, other] = [1, 2].map(|number| Slot::new(number).unwrap());
        let hands = Hands::default();
        let clock = PlatformClock::new(hands.clone());
        assert_eq!(clock.birth(|| Some(slot)), None);
        clock.record(8_000_000);
        clock.record_refusal(slot, 4_000_000);
        hands.pass(10);
        // Answers of other clusters do not change it.
        clock.record(8_010_000);
        assert_eq!(clock.birth(|| Some(slot)), Some(4_009_990));
        assert_eq!(clock.birth(|| Some(other)), Some(8_010_000));
        assert_eq!(clock.birth(|| None), Some(8_010_000));
        clock.record(4_013_000);
        assert_eq!(clock.birth(|| Some(slot)), Some(4_013_000));
        clock.record(8_020_000);
        assert_eq!(clock.birth(|| panic!("no slot is left")), Some(8_020_000));
    }

    #[test]
    fn one_caller_asks_after_long_silence() {
        let hands = Hands::default();
        let clock = PlatformClock::new(hands.clone());
        assert!(clock.needs_news(), "there is no reading yet");
        clock.record(0);
        assert!(clock.needs_news(), "the node asked did not have the time");
        clock.record(1_000);
        hands.pass(NEWS_INTERVAL.as_secs() - 1);
        assert!(!clock.needs_news());
        hands.pass(1);
        assert!(clock.needs_news());
        assert!(!clock.needs_news(), "another caller is asking");
        hands.pass(NEWS_INTERVAL.as_secs());
        clock.record(2_000);
        assert!(!clock.needs_news(), "an earlier time counts as a reading");
    }
}
