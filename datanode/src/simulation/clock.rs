//! Time in the simulation: one virtual time, and the clocks that machines read off it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tierkv_types::{BootTime, Clock};

/// Milliseconds since the world began. Only the scheduler moves it, together with tokio's
/// paused clock. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct VirtualTime(Arc<AtomicU64>);

impl VirtualTime {
    pub(super) fn millis(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn advance(&self, millis: u64) {
        self.0.fetch_add(millis, Ordering::Relaxed);
    }
}

/// The clocks of one machine. It does not read tokio's clock, which would be the real one
/// for whoever asks from outside the scheduler.
#[derive(Debug)]
pub(super) struct MachineClock {
    time: VirtualTime,
    /// When the machine booted, in virtual time.
    booted: AtomicU64,
    /// What the wall clock is ahead of virtual time.
    wall_ahead: AtomicI64,
}

impl MachineClock {
    /// The clocks of a machine that boots now and believes that it is `wall_millis`.
    pub(super) fn new(time: VirtualTime, wall_millis: i64) -> Self {
        let now = time.millis();
        Self {
            time,
            booted: AtomicU64::new(now),
            wall_ahead: AtomicI64::new(wall_millis - signed(now)),
        }
    }

    /// The machine boots anew: its boot time begins at zero.
    pub(super) fn reboot(&self) {
        self.booted.store(self.time.millis(), Ordering::Relaxed);
    }

    /// Somebody sets the wall clock forward, or back.
    pub(super) fn step_wall(&self, by_millis: i64) {
        self.wall_ahead.fetch_add(by_millis, Ordering::Relaxed);
    }
}

impl Clock for MachineClock {
    fn boot_time(&self) -> BootTime {
        let since_boot = self.time.millis() - self.booted.load(Ordering::Relaxed);
        BootTime::from_boot(Duration::from_millis(since_boot))
    }

    fn wall_millis(&self) -> u64 {
        let wall = signed(self.time.millis()) + self.wall_ahead.load(Ordering::Relaxed);
        u64::try_from(wall).unwrap_or(0)
    }
}

fn signed(millis: u64) -> i64 {
    i64::try_from(millis).expect("a world ends long before that")
}

#[test]
fn boot_time_never_jumps_and_the_wall_clock_does() {
    let time = VirtualTime::default();
    time.advance(10);
    let clock = MachineClock::new(time.clone(), 1_000);
    let booted = clock.boot_time();
    assert_eq!((booted, clock.wall_millis()), (BootTime::default(), 1_000));
    time.advance(5);
    clock.step_wall(-3);
    let later = booted.after(Duration::from_millis(5));
    assert_eq!((clock.boot_time(), clock.wall_millis()), (later, 1_002));
    clock.reboot();
    assert_eq!((clock.boot_time(), clock.wall_millis()), (booted, 1_002));
}
