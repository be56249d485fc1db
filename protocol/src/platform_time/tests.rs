//! The arithmetic of platform time.

use proptest::prelude::*;

use super::*;

const WALL: u64 = 1_700_000_000_000;
const MINUTE: u64 = 60_000;

fn own() -> ClusterId {
    ClusterId::new("c5").unwrap()
}

fn at(millis: u64) -> BootTime {
    BootTime::from_boot(Duration::from_millis(millis))
}

fn millis(time: &PlatformTime, boot_millis: u64) -> u64 {
    platform_millis(at(boot_millis), time.offset_micros())
}

fn boot(number: u8) -> Option<Boot> {
    Some(Boot {
        id: [number; 16],
        offset_nanos: 0,
    })
}

/// Draws every 50 ms for so long, towards a wall clock that is ahead by `ahead_millis`.
fn drawn_for(
    mut time: PlatformTime,
    from: u64,
    for_millis: u64,
    ahead_millis: i64,
) -> PlatformTime {
    for now in (from..=from + for_millis).step_by(50) {
        let wall = (WALL + now).saturating_add_signed(ahead_millis);
        time.draw(at(now), wall, &[]);
    }
    time
}

#[test]
fn time_passes_as_the_boot_time_clock_does() {
    let time = PlatformTime::going_on(own(), at(500), WALL);
    assert_eq!(millis(&time, 500), WALL);
    assert_eq!(millis(&time, 2_500), WALL + 2_000);
}

#[test]
fn a_wall_clock_within_a_minute_is_drawn_to_by_a_thousandth() {
    for (ahead, expected) in [(15_000, 1_000), (-60_000, -1_000), (300, 300), (-300, -300)] {
        let start = PlatformTime::going_on(own(), at(0), WALL);
        let time = drawn_for(start, 0, 1_000_000, ahead);
        let now = i64::try_from(millis(&time, 1_000_000) - WALL).unwrap();
        assert_eq!(now - 1_000_000, expected, "{ahead} ms ahead");
    }
}

#[test]
fn a_wall_clock_over_a_minute_away_is_left_alone() {
    for ahead in [60_001, 3_600_000, -60_001, -3_600_000] {
        let start = PlatformTime::going_on(own(), at(0), WALL);
        assert_eq!(
            drawn_for(start.clone(), 0, 1_000_000, ahead).offset,
            start.offset
        );
    }
}

#[test]
fn after_a_pause_there_is_no_step() {
    let mut time = PlatformTime::going_on(own(), at(0), WALL);
    time.draw(at(500_000), WALL + 500_000 + 30_000, &[]);
    assert_eq!(millis(&time, 500_000), WALL + 500_000 + 1);
}

#[test]
fn a_founder_steps_both_ways_until_it_settles() {
    let mut time = PlatformTime::founding(own(), at(0), WALL);
    time.draw(at(50), WALL + 3_600_000, &[]);
    assert_eq!(millis(&time, 50), WALL + 3_600_000);
    time.draw(at(100), WALL - 7_200_000, &[]);
    assert_eq!(millis(&time, 100), WALL - 7_200_000);
    time.settle();
    time.draw(at(150), WALL, &[]);
    assert_eq!(millis(&time, 150), WALL - 7_200_000 + 50);
}

#[test]
fn a_restart_in_the_same_boot_goes_by_the_boot_time_clock() {
    let stored = TimeReading {
        platform_millis: 5_000,
        boot_time: at(1_000),
        boot: boot(1),
        wall_millis: WALL,
        is_synchronised: true,
    };
    let now = StartReading {
        boot_time: at(4_000),
        boot: boot(1),
        synchronised_wall_millis: Some(WALL + 3_600_000),
    };
    assert_eq!(time_after_restart(&stored, &now), 8_000);
    // A reading of another time namespace is none of this clock.
    let offset = Boot {
        offset_nanos: 7,
        ..boot(1).unwrap()
    };
    assert!(!is_same_boot(&stored, Some(offset)));
    assert!(!is_same_boot(&stored, boot(2)));
    let unknown = TimeReading {
        boot: None,
        ..stored
    };
    assert!(!is_same_boot(&unknown, None), "both may be any boot");
}

#[test]
fn another_boot_goes_by_a_synchronised_wall_clock_and_never_back() {
    let stored = TimeReading {
        platform_millis: 5_000,
        boot_time: at(1_000_000),
        boot: boot(1),
        wall_millis: WALL,
        is_synchronised: true,
    };
    let after = |wall| {
        let now = StartReading {
            boot_time: at(10),
            boot: boot(2),
            synchronised_wall_millis: wall,
        };
        time_after_restart(&stored, &now)
    };
    assert_eq!(after(Some(WALL + MINUTE)), 5_000 + MINUTE);
    assert_eq!(after(Some(WALL - MINUTE)), 5_000);
    assert_eq!(after(None), 5_000);
}

/// The first boot had a wall clock of the year 2000, the second one has the right one.
#[test]
fn the_correction_of_a_wrong_wall_clock_is_no_time_that_passed() {
    let stored = TimeReading {
        platform_millis: WALL + 5_000,
        boot_time: at(1_000_000),
        boot: boot(1),
        wall_millis: 946_684_800_000,
        is_synchronised: false,
    };
    let now = |number| StartReading {
        boot_time: at(1_002_000),
        boot: boot(number),
        synchronised_wall_millis: Some(WALL + MINUTE),
    };
    assert_eq!(time_after_restart(&stored, &now(2)), WALL + 5_000);
    // In the same boot no wall clock is needed.
    assert_eq!(time_after_restart(&stored, &now(1)), WALL + 7_000);
}

#[test]
fn the_ends_of_all_ranges_are_borne() {
    let mut time = PlatformTime::going_on(own(), at(u64::MAX / 2_000), u64::MAX);
    time.draw(at(0), 0, &[]);
    time.draw(at(u64::MAX / 2_000), u64::MAX, &[]);
    assert!(platform_millis(at(0), i64::MIN) == 0);
    let stored = TimeReading {
        platform_millis: u64::MAX,
        boot_time: at(0),
        boot: boot(1),
        wall_millis: 0,
        is_synchronised: true,
    };
    let now = StartReading {
        boot_time: at(9),
        boot: boot(1),
        synchronised_wall_millis: None,
    };
    assert_eq!(time_after_restart(&stored, &now), u64::MAX);
}

proptest! {
    /// Whatever the wall clock does: between two moments platform time passes within a
    /// thousandth of what the boot-time clock says, and a millisecond for each draw at most.
    #[test]
    fn the_wall_clock_never_moves_it_by_more_than_a_thousandth(
        steps in prop::collection::vec((1_u64..5_000, -7_200_000_i64..7_200_000), 1..200),
    ) {
        let mut time = PlatformTime::going_on(own(), at(0), WALL);
        let (mut now, mut before) = (0, time.offset);
        let mut drawn = 0;
        for (passed, ahead) in steps {
            now += passed;
            time.draw(at(now), (WALL + now).saturating_add_signed(ahead), &[]);
            let moved = (time.offset - before).unsigned_abs();
            // A thousandth of so many milliseconds is as many microseconds.
            prop_assert!(moved <= passed && moved <= 1_000);
            before = time.offset;
            drawn += moved;
        }
        prop_assert!(drawn <= now);
    }
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn member_time(platform_millis: u64, wall_millis: u64) -> MemberTime {
    MemberTime {
        platform_micros: micros(platform_millis),
        wall_millis,
        is_founding: false,
    }
}

#[test]
fn a_replica_follows_its_masters_fastest_heartbeats() {
    let mut time = PlatformTime::going_on(own(), at(1_000), WALL);
    let master = node("n1");
    let mut hear = |now: u64, platform: u64| {
        time.hear_member(at(now), &master, &member_time(platform, WALL));
        time.follow(&master, false);
        platform_millis(at(now), time.offset_micros())
    };
    assert_eq!(hear(1_050, WALL + 20), WALL + 20);
    assert_eq!(hear(1_100, WALL + 71), WALL + 71);
    // A late message shows a time that has passed.
    assert_eq!(hear(1_150, WALL + 80), WALL + 121);
    // The master's time was drawn back.
    for now in (1_200..2_400).step_by(50) {
        hear(now, WALL + now - 1_040);
    }
    assert_eq!(hear(2_400, WALL + 1_360), WALL + 1_360);
}

#[test]
fn after_a_full_stop_the_median_goes_on() {
    let mut time = PlatformTime::going_on(own(), at(0), WALL);
    let (n2, n3) = (node("n2"), node("n3"));
    time.hear_member(at(0), &n2, &member_time(WALL + 300, WALL));
    time.hear_member(at(0), &n3, &member_time(WALL + 9_000, WALL));
    let mut followed = time.clone();
    time.take_over(at(0));
    assert_eq!(platform_millis(at(0), time.offset_micros()), WALL + 300);
    // A time that a master gave goes on.
    followed.follow(&n2, false);
    followed.hear_member(at(0), &n2, &member_time(WALL + 900, WALL));
    followed.take_over(at(0));
    assert_eq!(platform_millis(at(0), followed.offset_micros()), WALL + 300);
}

#[test]
fn the_median_of_the_wall_clocks_draws() {
    let mut time = PlatformTime::going_on(own(), at(0), WALL);
    let in_sync = [node("n1"), node("n2"), node("n3")];
    // This node's wall clock is wrong, two others agree.
    for other in &in_sync[1..] {
        time.hear_member(at(9_000), other, &member_time(WALL, WALL + 9_000));
    }
    time.draw(at(10_000), WALL + 40_000, &in_sync);
    assert_eq!(time.offset_micros(), offset_of(at(0), WALL));
    time.draw(at(10_050), WALL + 40_000, &[]);
    assert!(time.offset_micros() > offset_of(at(0), WALL));
}
