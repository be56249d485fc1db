//! Time in the simulation: one virtual time, and the clocks of machines, derived from it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tierkv_types::{Boot, BootTime, Clock};

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

/// The clocks of one machine. They do not read tokio's clock, which is the real one outside of
/// the scheduler.
#[derive(Debug)]
pub(super) struct MachineClock {
    time: VirtualTime,
    /// The virtual time of each boot.
    boots: Mutex<Vec<u64>>,
    /// How far the wall clock is ahead of virtual time.
    wall_ahead: AtomicI64,
    is_synchronised: AtomicBool,
}

impl MachineClock {
    /// The clocks of a machine that boots now with the wall clock at `wall_millis`.
    pub(super) fn new(time: VirtualTime, wall_millis: i64) -> Self {
        let now = time.millis();
        Self {
            time,
            boots: Mutex::new(vec![now]),
            wall_ahead: AtomicI64::new(wall_millis - signed(now)),
            is_synchronised: AtomicBool::new(true),
        }
    }

    /// Reboots the machine: its boot time begins at zero.
    pub(super) fn reboot(&self) {
        self.boots.lock().unwrap().push(self.time.millis());
    }

    /// Sets the wall clock forward, or back.
    pub(super) fn step_wall(&self, by_millis: i64) {
        self.wall_ahead.fetch_add(by_millis, Ordering::Relaxed);
    }

    /// Sets whether the kernel reports the wall clock synchronised.
    pub(super) fn synchronise(&self, is_synchronised: bool) {
        let flag = &self.is_synchronised;
        flag.store(is_synchronised, Ordering::Relaxed);
    }

    /// How far the wall clock is ahead of virtual time, in milliseconds.
    pub(super) fn wall_ahead(&self) -> i64 {
        self.wall_ahead.load(Ordering::Relaxed)
    }

    /// The virtual time of a boot-time reading.
    pub(super) fn moment(&self, boot: Boot, boot_time: BootTime) -> u64 {
        let number = usize::from(boot.id[0]) | usize::from(boot.id[1]) << 8;
        let since_boot = u64::try_from(boot_time.since_boot().as_millis()).unwrap();
        self.boots.lock().unwrap()[number - 1] + since_boot
    }
}

impl Clock for MachineClock {
    fn boot_time(&self) -> BootTime {
        let booted = *self.boots.lock().unwrap().last().unwrap();
        BootTime::from_boot(Duration::from_millis(self.time.millis() - booted))
    }

    fn boot(&self) -> Option<Boot> {
        let number = self.boots.lock().unwrap().len() as u128;
        Some(Boot {
            id: number.to_le_bytes(),
            offset_nanos: 0,
        })
    }

    fn wall_millis(&self) -> u64 {
        let wall = signed(self.time.millis()) + self.wall_ahead();
        u64::try_from(wall).unwrap_or(0)
    }

    fn is_synchronised(&self) -> bool {
        self.is_synchronised.load(Ordering::Relaxed)
    }
}

pub(super) fn signed(millis: u64) -> i64 {
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
    let boot = clock.boot().unwrap();
    clock.reboot();
    assert_eq!((clock.boot_time(), clock.wall_millis()), (booted, 1_002));
    assert_ne!(clock.boot(), Some(boot));
    assert_eq!(clock.moment(boot, later), 15);
}
