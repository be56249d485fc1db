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

async fn start(clock: &Arc<TestClock>, stored: Option<TimeReading>) -> PlatformClock {
    let clock: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
    PlatformClock::start(clock, stored, SEEN, Rules::default()).await
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
