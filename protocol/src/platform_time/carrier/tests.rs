//! What a coordinator measures and carries.

use super::*;

const SECOND: u64 = 1_000;

fn at(millis: u64) -> BootTime {
    BootTime::from_boot(Duration::from_millis(millis))
}

fn cluster(name: &str) -> ClusterId {
    ClusterId::new(name).unwrap()
}

fn answer(boot_millis: u64, platform_millis: u64) -> TimeAnswer {
    TimeAnswer {
        boot_time: at(boot_millis),
        platform_millis,
        is_founding: false,
    }
}

const ONE: Incarnation = Incarnation(1);

/// c1 answered from 1,000 to 1,020 ms, c2 from 2,000 to 2,100 ms.
fn carrier() -> Carrier {
    let mut carrier = Carrier::default();
    let (first, second) = (cluster("c1"), cluster("c2"));
    carrier.answered(&first, ONE, at(1_000), at(1_020), answer(70_000, 500_000));
    carrier.answered(&second, ONE, at(2_000), at(2_100), answer(90_000, 800_000));
    carrier
}

#[test]
fn times_are_carried_to_the_moment_of_the_echoed_reading() {
    let carrier = carrier();
    let asked = carrier.question(&cluster("c1"), ONE, at(2_200)).unwrap();
    assert_eq!(asked.at, at(70_000));
    let [other] = &asked.others[..] else {
        panic!("{asked:?}")
    };
    // From 2,050 back to 1,010.
    assert_eq!(other.platform_millis, 800_000 - 1_040);
    assert_eq!(other.error, Duration::from_millis(10 + 50 + 2 * (1 + 5)));
    let asked = carrier.question(&cluster("c2"), ONE, at(2_200)).unwrap();
    assert_eq!(asked.at, at(90_000));
    assert_eq!(asked.others[0].platform_millis, 500_000 + 1_040);
}

#[test]
fn old_answers_and_those_of_another_process_are_not_echoed() {
    let carrier = carrier();
    let (first, second) = (cluster("c1"), cluster("c2"));
    assert_eq!(carrier.question(&cluster("c3"), ONE, at(2_200)), None);
    assert_eq!(carrier.question(&first, Incarnation(2), at(2_200)), None);
    let late = at(1_000 + 5 * SECOND + 1);
    assert_eq!(carrier.question(&first, ONE, late), None);
    let alone = carrier.question(&second, ONE, late).unwrap();
    assert!(alone.others.is_empty());
}

#[test]
fn a_late_answer_replaces_no_later_one() {
    let mut carrier = carrier();
    let first = cluster("c1");
    carrier.answered(&first, ONE, at(900), at(3_000), answer(71_000, 1));
    let asked = carrier.question(&first, ONE, at(3_000)).unwrap();
    assert_eq!(asked.at, at(70_000));
    carrier.retain(|cluster| *cluster != first);
    assert_eq!(carrier.question(&first, ONE, at(3_000)), None);
}

#[test]
fn the_distance_is_that_from_the_median_of_those_written_to() {
    let mut carrier = carrier();
    let ahead = |carrier: &Carrier| {
        let ahead = carrier.ahead_millis(at(2_200)).into_iter();
        ahead
            .map(|(cluster, ahead)| (cluster.to_string(), ahead))
            .collect::<Vec<_>>()
    };
    let both = |one: i64, other: i64| vec![("c1".to_owned(), one), ("c2".to_owned(), other)];
    assert_eq!(ahead(&carrier), both(0, 298_960));
    let founding = TimeAnswer {
        is_founding: true,
        ..answer(70_000, 500_000)
    };
    carrier.answered(&cluster("c1"), ONE, at(1_000), at(1_020), founding);
    assert_eq!(ahead(&carrier), both(-298_960, 0));
    let founding = TimeAnswer {
        is_founding: true,
        ..answer(90_000, 800_000)
    };
    carrier.answered(&cluster("c2"), ONE, at(2_000), at(2_100), founding);
    assert_eq!(ahead(&carrier), both(0, 298_960));
    assert!(carrier.ahead_millis(at(9_000)).is_empty());
}
