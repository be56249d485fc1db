//! Times of other clusters: what counts, and how a cluster is drawn by them.

use super::*;
use crate::platform_time::{FAR, PlatformTime, platform_millis};

const WALL: u64 = 1_700_000_000_000;
const HOUR: u64 = 3_600_000;
const TICK: u64 = 50;

fn at(millis: u64) -> BootTime {
    BootTime::from_boot(Duration::from_millis(millis))
}

fn cluster(name: &str) -> ClusterId {
    ClusterId::new(name).unwrap()
}

fn time(name: &str, platform_millis: u64) -> ClusterTime {
    ClusterTime {
        cluster: cluster(name),
        platform_millis,
        error: Duration::from_millis(3),
        is_founding: false,
    }
}

fn question(at_millis: u64, others: &[ClusterTime]) -> TimeQuestion {
    TimeQuestion {
        at: at(at_millis),
        others: others.to_vec(),
    }
}

/// A time of `name` that is written to, and shows `WALL` plus the boot-time clock.
fn settled(name: &str) -> PlatformTime {
    PlatformTime::going_on(cluster(name), at(0), WALL)
}

/// How far a time is ahead of `WALL` plus the boot-time clock, in milliseconds.
fn ahead(of: &PlatformTime, now: u64) -> i64 {
    let millis = platform_millis(at(now), of.offset_micros());
    i64::try_from(millis).unwrap() - i64::try_from(WALL + now).unwrap()
}

/// Draws for so long, hearing once a second that other clusters are ahead by so much; the wall
/// clock is ahead by `wall_ahead`.
fn drawn(
    mut own: PlatformTime,
    for_millis: u64,
    others: &[(&str, i64)],
    wall_ahead: i64,
) -> PlatformTime {
    for now in (0..=for_millis).step_by(50) {
        if now % 1_000 == 0 {
            let others: Vec<_> = (others.iter())
                .map(|(name, ahead)| time(name, (WALL + now).saturating_add_signed(*ahead)))
                .collect();
            own.hear(at(now), &question(now, &others));
        }
        own.draw(at(now), (WALL + now).saturating_add_signed(wall_ahead), &[]);
    }
    own
}

#[test]
fn a_cluster_far_from_the_median_is_drawn_by_a_hundredth() {
    // Of two, to the lower id's; of three, to the median.
    let hour = i64::try_from(HOUR).unwrap();
    for (own, others, expected) in [
        ("c2", &[("c1", hour)][..], 10_000),
        ("c2", &[("c1", -hour)], -10_000),
        ("c1", &[("c2", hour)], 0),
        ("c1", &[("c2", hour), ("c3", hour)], 10_000),
        ("c1", &[("c2", 1), ("c3", hour)], 0),
        ("c3", &[("c1", -hour), ("c2", 1)], 0),
        ("c3", &[("c1", -hour), ("c2", -hour)], -10_000),
    ] {
        let time = drawn(settled(own), 1_000_000, others, 0);
        assert_eq!(ahead(&time, 1_000_000), expected, "{own} beside {others:?}");
    }
}

#[test]
fn within_five_seconds_the_wall_clock_counts_and_beyond_them_the_platform() {
    // The wall clock pulls the other way, by a tenth of that.
    let time = drawn(settled("c2"), 1_000_000, &[("c1", 8_000)], -30_000);
    let now = ahead(&time, 1_000_000);
    assert!((2_990..=3_000).contains(&now), "{now}");
    let time = drawn(settled("c2"), 1_000_000, &[("c1", 4_000)], -30_000);
    assert!((-1_000..-950).contains(&ahead(&time, 1_000_000)));
    // One that is set far away does not matter.
    let far = -i64::try_from(FAR.as_millis()).unwrap() - 1;
    let time = drawn(settled("c2"), 1_000_000, &[("c1", 8_000)], far);
    assert_eq!(ahead(&time, 1_000_000), 3_000);
}

#[test]
fn no_draw_is_a_step() {
    let mut own = settled("c2");
    own.hear(at(9_000), &question(9_000, &[time("c1", WALL + HOUR)]));
    own.draw(at(9_000), WALL, &[]);
    assert_eq!(ahead(&own, 9_000), 1);
    own.hear(at(9_000), &question(9_000, &[time("c1", WALL - HOUR)]));
    own.draw(at(9_000 + TICK), WALL, &[]);
    own.draw(at(9_000 + 2 * TICK), WALL, &[]);
    assert_eq!(ahead(&own, 9_000 + 2 * TICK), 0);
}

#[test]
fn what_is_old_inexact_of_the_future_or_the_own_cluster_is_ignored() {
    let far = |name| [time(name, WALL + HOUR)];
    let heard = |now: u64, asked: &TimeQuestion| {
        let mut own = settled("c2");
        own.hear(at(now), asked);
        own.ahead_micros(at(now)).is_some()
    };
    assert!(heard(10_000, &question(0, &far("c1"))));
    assert!(!heard(10_001, &question(0, &far("c1"))));
    assert!(!heard(0, &question(1, &far("c1"))));
    assert!(!heard(0, &question(0, &far("c2"))));
    let [mut inexact] = far("c1");
    inexact.error = MAX_ERROR + Duration::from_millis(1);
    assert!(!heard(0, &question(0, &[inexact])));
}

#[test]
fn a_late_or_doubled_question_means_what_it_meant() {
    let mut own = settled("c2");
    let early = question(1_000, &[time("c1", WALL + 1_000 + HOUR)]);
    let later = question(2_000, &[time("c1", WALL + 2_000 - HOUR)]);
    let micros = i64::try_from(HOUR * 1_000).unwrap();
    own.hear(at(5_000), &early);
    assert_eq!(own.ahead_micros(at(5_000)), Some(-micros));
    for asked in [&later, &early, &later] {
        own.hear(at(9_000), asked);
        assert_eq!(own.ahead_micros(at(9_000)), Some(micros));
    }
    // Nothing was heard lately.
    assert_eq!(own.ahead_micros(at(12_001)), None);
}

#[test]
fn a_founder_steps_to_the_platforms_time_until_its_first_write() {
    let founder = || PlatformTime::founding(cluster("c2"), at(0), WALL);
    let stepped = |others: &[ClusterTime]| {
        let mut own = founder();
        own.hear(at(100), &question(100, others));
        own.draw(at(100), WALL + 100, &[]);
        ahead(&own, 100)
    };
    let founding = |name, millis| ClusterTime {
        is_founding: true,
        ..time(name, millis)
    };
    let hour = i64::try_from(HOUR).unwrap();
    assert_eq!(stepped(&[time("c9", WALL + 100 - HOUR)]), -hour);
    // Those that are written to count, and else the lowest id, which may be its own.
    assert_eq!(stepped(&[founding("c1", WALL + 100 + HOUR)]), hour);
    assert_eq!(stepped(&[founding("c3", WALL + 100 + HOUR)]), 0);
    let mixed = [founding("c1", WALL), time("c7", WALL + 100 + HOUR)];
    assert_eq!(stepped(&mixed), hour);

    // It keeps that time, and not its wall clock's, while it hears nothing.
    let mut own = founder();
    own.hear(at(100), &question(100, &[time("c1", WALL + 100 + HOUR)]));
    own.draw(at(100), WALL + 100, &[]);
    own.draw(at(60_000), WALL + 60_000, &[]);
    assert_eq!(own.ahead_micros(at(60_000)), None);
    assert_eq!(ahead(&own, 60_000), hour);

    let mut own = founder();
    own.settle();
    own.hear(at(100), &question(100, &[time("c1", WALL + HOUR)]));
    own.draw(at(100), WALL + 100, &[]);
    assert_eq!(ahead(&own, 100), 1);
    // A founder's time is none that others are drawn to.
    let mut own = settled("c2");
    own.hear(at(0), &question(0, &[founding("c1", WALL + HOUR)]));
    assert_eq!(own.ahead_micros(at(0)), None);
}

#[test]
fn no_more_clusters_are_remembered_than_there_can_be() {
    let mut own = settled("c0");
    let many: Vec<_> = (1..=MAX_CLUSTERS + 5)
        .map(|number| time(&format!("c{number}"), WALL))
        .collect();
    own.hear(at(0), &question(0, &many));
    assert_eq!(own.others.known.len(), MAX_CLUSTERS);
    own.hear(at(20_000), &question(20_000, &[]));
    assert!(own.others.known.is_empty());
}
