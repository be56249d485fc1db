//! Time in the simulation: one virtual time, and the clocks of machines, derived from it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
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
    /// How far the wall clock is ahead of virtual time, and how far the right time is.
    wall_ahead: AtomicI64,
    right_ahead: i64,
    /// Since which virtual time the wall clock has been synchronised, or not: every change.
    synchronised: Mutex<Vec<(u64, bool)>>,
}

impl MachineClock {
    /// The clocks of a machine that boots now. Its wall clock is at `wall_millis`, which is the
    /// right time, and synchronised.
    pub(super) fn new(time: VirtualTime, wall_millis: i64) -> Self {
        let now = time.millis();
        let ahead = wall_millis - signed(now);
        Self {
            time,
            boots: Mutex::new(vec![now]),
            wall_ahead: AtomicI64::new(ahead),
            right_ahead: ahead,
            synchronised: Mutex::new(vec![(now, true)]),
        }
    }

    /// Reboots the machine: its boot time begins at zero, and its wall clock is not synchronised.
    pub(super) fn reboot(&self) {
        self.boots.lock().unwrap().push(self.time.millis());
        self.note(false);
    }

    /// Sets the wall clock forward, or back. It is not synchronised then.
    pub(super) fn step_wall(&self, by_millis: i64) {
        self.wall_ahead.fetch_add(by_millis, Ordering::Relaxed);
        self.note(false);
    }

    /// A time daemon sets the wall clock right: it is synchronised.
    pub(super) fn synchronise(&self) {
        self.wall_ahead.store(self.right_ahead, Ordering::Relaxed);
        self.note(true);
    }

    fn note(&self, is_synchronised: bool) {
        let change = (self.time.millis(), is_synchronised);
        self.synchronised.lock().unwrap().push(change);
    }

    /// Whether the wall clock was synchronised at the end of that millisecond of virtual time.
    pub(super) fn was_synchronised(&self, at: u64) -> bool {
        let changes = self.synchronised.lock().unwrap();
        let last = changes.iter().rev().find(|(since, _)| *since <= at);
        last.expect("the machine was not there yet").1
    }

    /// Whether that changed within that millisecond: a reading of it may be from before or after.
    pub(super) fn changed_within(&self, at: u64) -> bool {
        let changes = self.synchronised.lock().unwrap();
        changes.iter().any(|(since, _)| *since == at)
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
        self.was_synchronised(self.time.millis())
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
    assert!(!clock.is_synchronised() && clock.was_synchronised(14));
    assert_eq!((clock.boot_time(), clock.wall_millis()), (later, 1_002));
    let boot = clock.boot().unwrap();
    clock.reboot();
    assert_eq!((clock.boot_time(), clock.wall_millis()), (booted, 1_002));
    assert_ne!(clock.boot(), Some(boot));
    assert_eq!(clock.moment(boot, later), 15);
    clock.synchronise();
    assert_eq!(
        (clock.is_synchronised(), clock.wall_millis()),
        (true, 1_005)
    );
}
