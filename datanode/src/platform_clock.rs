//! Platform time of this process, and how it goes on after a restart (CLOCK-STEADY).
//!
//! Readers take no lock: they add an atomic offset to the boot-time clock. Whoever moves the
//! offset does so under one.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use tierkv_protocol::platform_time::{
    PlatformTime, StartReading, is_same_boot, platform_millis, time_after_restart,
};
use tierkv_types::{BootTime, Clock, TimeReading, Version};
use tokio::time::{Instant, sleep};

use crate::rules::{Rule, Rules};

/// How long a start in another boot waits for the kernel to call the wall clock synchronised.
pub(crate) const SYNCHRONISATION_WAIT: Duration = Duration::from_secs(30);
/// How often it looks.
const SYNCHRONISATION_POLL: Duration = Duration::from_millis(500);

/// Versions below this one were given by a founder before its first write: they count the
/// records that open its epochs, and tell no time.
const FIRST_OF_A_TIME: Version = Version::from_millis(1);

/// Platform time, as all of the process reads it.
pub(crate) struct PlatformClock {
    clock: Arc<dyn Clock>,
    /// What is added to the boot-time clock, in microseconds.
    offset: AtomicI64,
    is_founding: AtomicBool,
    time: Mutex<PlatformTime>,
    rules: Rules,
}

impl PlatformClock {
    /// Goes on from what the last process stored, at least at the last version in the log.
    /// Waits, if this is another boot, until the wall clock can be believed, or for 30 s.
    pub(crate) async fn start(
        clock: Arc<dyn Clock>,
        stored: Option<TimeReading>,
        seen: Version,
        rules: Rules,
    ) -> Self {
        if seen < FIRST_OF_A_TIME {
            let time = PlatformTime::founding(clock.boot_time(), clock.wall_millis());
            return Self::of(clock, time, rules);
        }
        let went_on = match stored {
            Some(stored) if !rules.lack(Rule::TimeStored) => {
                after_restart(&*clock, &stored, rules).await
            }
            Some(_) | None => {
                tracing::warn!(
                    "no platform time is stored beside the log; it goes on by the wall clock"
                );
                clock.wall_millis()
            }
        };
        let time = PlatformTime::going_on(clock.boot_time(), went_on.max(seen.millis()));
        Self::of(clock, time, rules)
    }

    fn of(clock: Arc<dyn Clock>, time: PlatformTime, rules: Rules) -> Self {
        Self {
            clock,
            offset: AtomicI64::new(time.offset_micros()),
            is_founding: AtomicBool::new(time.is_founding()),
            time: Mutex::new(time),
            rules,
        }
    }

    fn time(&self) -> MutexGuard<'_, PlatformTime> {
        // It is small arithmetic that does not panic.
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The boot-time clock of the machine.
    pub(crate) fn boot_time(&self) -> BootTime {
        self.clock.boot_time()
    }

    /// Platform time, in milliseconds since the Unix epoch.
    pub(crate) fn millis(&self) -> u64 {
        self.millis_at(self.clock.boot_time())
    }

    /// Platform time at a moment of this process.
    pub(crate) fn millis_at(&self, boot_time: BootTime) -> u64 {
        if self.rules.lack(Rule::TimeSteady) {
            return self.clock.wall_millis();
        }
        platform_millis(boot_time, self.offset.load(Ordering::Acquire))
    }

    /// Whether the time still follows the steps of the wall clock, for nothing was written.
    pub(crate) fn is_founding(&self) -> bool {
        self.is_founding.load(Ordering::Acquire)
    }

    /// Ends the steps of a founder, before anything is written. Costs nothing afterwards.
    pub(crate) fn settle(&self) {
        if !self.is_founding() || self.rules.lack(Rule::FounderSettles) {
            return;
        }
        self.time().settle();
        self.is_founding.store(false, Ordering::Release);
    }

    /// Draws the time towards the wall clock; only the master does.
    pub(crate) fn draw(&self) {
        let mut time = self.time();
        let (boot_time, wall) = (self.clock.boot_time(), self.clock.wall_millis());
        time.draw(boot_time, wall);
        self.offset.store(time.offset_micros(), Ordering::Release);
    }

    /// All clocks at this moment.
    pub(crate) fn reading(&self) -> TimeReading {
        let boot_time = self.clock.boot_time();
        TimeReading {
            platform_millis: self.millis_at(boot_time),
            boot_time,
            boot: self.clock.boot(),
            wall_millis: self.clock.wall_millis(),
        }
    }
}

/// Where platform time goes on, in milliseconds.
async fn after_restart(clock: &dyn Clock, stored: &TimeReading, rules: Rules) -> u64 {
    let boot = clock.boot();
    let is_believed = is_same_boot(stored, boot)
        || rules.lack(Rule::WallSynchronised)
        || is_synchronised_in_time(clock).await;
    if !is_believed {
        tracing::warn!(
            waited = ?SYNCHRONISATION_WAIT,
            "the kernel does not call the wall clock synchronised, so the time since the \
             machine was stopped is not counted: keys live that much longer"
        );
    }
    let now = StartReading {
        boot_time: clock.boot_time(),
        boot,
        synchronised_wall_millis: is_believed.then(|| clock.wall_millis()),
    };
    time_after_restart(stored, &now)
}

/// Waits until the kernel calls the wall clock synchronised; whether it did in time.
async fn is_synchronised_in_time(clock: &dyn Clock) -> bool {
    let limit = Instant::now() + SYNCHRONISATION_WAIT;
    let mut is_told = false;
    while !clock.is_synchronised() {
        if Instant::now() >= limit {
            return false;
        }
        if !is_told {
            let most = SYNCHRONISATION_WAIT;
            tracing::warn!(?most, "waiting until the wall clock is synchronised");
            is_told = true;
        }
        sleep(SYNCHRONISATION_POLL).await;
    }
    true
}
