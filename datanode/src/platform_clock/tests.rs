//! Platform time over restarts, with clocks that the test sets.

use super::*;

const MINUTE: u64 = 60_000;
/// The wall clock's right time at the start of a test.
const WALL: u64 = 1_700_000_000_000;
/// A version of a first write, so that the node is no founder.
const SEEN: Version = FIRST_OF_A_TIME;

/// The clocks of a machine.
#[derive(Debug)]
struct Hands {
    boot_millis: u64,
    boot: Option<Boot>,
    wall_millis: u64,
    is_synchronised: bool,
}

#[derive(Debug)]
struct TestClock(Mutex<Hands>);

impl TestClock {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Hands {
            boot_millis: MINUTE,
            boot: boot(1),
            wall_millis: WALL,
            is_synchronised: true,
        })))
    }

    fn hands(&self) -> MutexGuard<'_, Hands> {
        self.0.lock().unwrap()
    }

    fn pass(&self, millis: u64) {
        let mut hands = self.hands();
        hands.boot_millis += millis;
        hands.wall_millis += millis;
    }

    /// The machine is off for a while.
    fn reboot(&self, number: u8, off_millis: u64) {
        self.pass(off_millis);
        let mut hands = self.hands();
        (hands.boot, hands.boot_millis) = (boot(number), 0);
        hands.is_synchronised = false;
    }
}

impl Clock for TestClock {
    fn boot_time(&self) -> BootTime {
        BootTime::from_boot(Duration::from_millis(self.hands().boot_millis))
    }

    fn boot(&self) -> Option<Boot> {
        self.hands().boot
    }

    fn wall_millis(&self) -> u64 {
        self.hands().wall_millis
    }

    fn is_synchronised(&self) -> bool {
        self.hands().is_synchronised
    }
}

fn boot(number: u8) -> Option<Boot> {
    Some(Boot {
        id: [number; 16],
        offset_nanos: 0,
    })
}

fn cluster() -> ClusterId {
    ClusterId::new("c1").unwrap()
}

async fn start(clock: &Arc<TestClock>, stored: Option<TimeReading>) -> PlatformClock {
    let clock: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
    PlatformClock::start(cluster(), clock, stored, SEEN, Rules::default()).await
}

#[tokio::test]
async fn the_boot_is_read_once() {
    let clock = TestClock::new();
    let time = start(&clock, None).await;
    // Without descriptors it can't be read.
    clock.hands().boot = None;
    clock.pass(MINUTE);
    let stored = time.reading();
    assert_eq!(stored.boot, boot(1));

    // The next process continues by the boot-time clock, whatever the wall clock says.
    clock.hands().boot = boot(1);
    clock.pass(MINUTE);
    clock.hands().wall_millis = 0;
    let time = start(&clock, Some(stored)).await;
    assert_eq!(time.millis(), WALL + 2 * MINUTE);
}

/// Boots with a wall clock of the year 2000, and then with the right one: the correction is no
/// time that passed, and keys must not expire by it.
#[tokio::test(start_paused = true)]
async fn a_corrected_wall_clock_is_no_time_that_passed() {
    let clock = TestClock::new();
    let stored = start(&clock, None).await.reading();
    assert!(stored.is_synchronised);
    clock.reboot(2, MINUTE);
    let right = clock.wall_millis();
    clock.hands().wall_millis = 946_684_800_000;
    let time = start(&clock, Some(stored)).await;
    assert_eq!(time.millis(), WALL, "the minute is not counted");
    let stored = time.reading();
    assert!(!stored.is_synchronised);

    clock.reboot(3, MINUTE);
    clock.hands().wall_millis = right + MINUTE;
    clock.hands().is_synchronised = true;
    let time = start(&clock, Some(stored)).await;
    assert_eq!(time.millis(), WALL);
    // From here on the wall clock is right at both ends.
    let stored = time.reading();
    clock.reboot(4, MINUTE);
    clock.hands().is_synchronised = true;
    let time = start(&clock, Some(stored)).await;
    assert_eq!(time.millis(), WALL + MINUTE);
}

/// The power fails between the correction of the wall clock and the next stored time.
#[tokio::test(start_paused = true)]
async fn a_time_stored_before_a_correction_is_not_counted_from() {
    let clock = TestClock::new();
    clock.hands().is_synchronised = false;
    clock.hands().wall_millis = 946_684_800_000;
    let time = start(&clock, None).await;
    let (stored, before) = (time.reading(), time.millis());
    clock.hands().wall_millis = WALL;
    clock.hands().is_synchronised = true;
    clock.reboot(2, 0);
    clock.hands().is_synchronised = true;
    assert_eq!(start(&clock, Some(stored)).await.millis(), before);
}

#[tokio::test(start_paused = true)]
async fn a_start_waits_for_the_wall_clock_only_if_it_can_count_by_it() {
    let clock = TestClock::new();
    let stored = start(&clock, None).await.reading();
    clock.reboot(2, MINUTE);
    let began = Instant::now();
    assert_eq!(start(&clock, Some(stored)).await.millis(), WALL);
    assert!(began.elapsed() >= SYNCHRONISATION_WAIT);

    let unsynchronised = TimeReading {
        is_synchronised: false,
        ..stored
    };
    let began = Instant::now();
    assert_eq!(start(&clock, Some(unsynchronised)).await.millis(), WALL);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

/// A clock that is set between two readings of its status.
#[derive(Debug)]
struct SetClock(Arc<TestClock>);

impl Clock for SetClock {
    fn boot_time(&self) -> BootTime {
        self.0.boot_time()
    }

    fn boot(&self) -> Option<Boot> {
        self.0.boot()
    }

    fn wall_millis(&self) -> u64 {
        let mut hands = self.0.hands();
        hands.is_synchronised = !hands.is_synchronised;
        hands.wall_millis
    }

    fn is_synchronised(&self) -> bool {
        self.0.is_synchronised()
    }
}

#[test]
fn a_wall_clock_that_is_being_set_is_not_synchronised() {
    let clock = SetClock(TestClock::new());
    assert_eq!(wall(&clock), (WALL, false), "set by hand");
    assert_eq!(wall(&clock), (WALL, false), "set by the time daemon");
}
