//! Which segments leave, without files.

use std::sync::{Arc, atomic::AtomicU64, atomic::Ordering};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    with_local_recorder,
};

use super::*;

const LIMIT: u64 = 3;

/// Counts broken holds.
#[derive(Default)]
struct Broken(Arc<AtomicU64>);

impl Recorder for Broken {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        assert_eq!(key.name(), "tierkv_log_holds_broken_total");
        Counter::from_arc(Arc::clone(&self.0))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// A segment of ten records.
fn segment(number: u64) -> SegmentHeader {
    SegmentHeader {
        log_id: LogId(9),
        number,
        first: Index(number * 10 - 9),
        previous_epoch: Epoch(u64::from(number > 1)),
        clock: Version::from_millis(number * 1_000 - 1_000),
    }
}

fn retention() -> Arc<Retention> {
    let rules = Rules {
        segment_bytes: SEGMENT,
        retention: Duration::from_secs(3_600),
        limit_bytes: LIMIT * SEGMENT,
    };
    Arc::new(Retention::new([segment(1)], rules))
}

#[test]
fn each_broken_hold_is_counted_once() {
    let broken = Broken::default();
    let counted = || broken.0.load(Ordering::Relaxed);
    with_local_recorder(&broken, || {
        let retention = retention();
        let queue = Arc::new(Queue::new(
            Progress::default(),
            &place(&TestDisk::default()),
            SEGMENT_HEADER_BYTES,
        ));
        let hold = |from| LogHold::after(Index(from), &retention, &queue);
        let (old, also_old, young) = (hold(0), hold(9), hold(25));
        for number in 2..=2 * LIMIT {
            retention.grow(segment(number));
        }
        let trim = || retention.trim(Index(1_000), Version::from_millis(1));
        assert_eq!((trim(), counted()), (None, 0));
        retention.grow(segment(2 * LIMIT + 1));
        assert_eq!(trim(), Some(segment(1)));
        assert_eq!(counted(), 2);
        assert!(old.is_broken() && also_old.is_broken() && !young.is_broken());
        // Over the single limit, up to what the young one needs.
        assert_eq!(trim(), Some(segment(2)));
        assert_eq!((trim(), counted()), (None, 2));
        assert_eq!(retention.begin().index, Index(20));
        // One that comes too late is broken, and that is no alarm.
        assert!(hold(19).is_broken());
        assert_eq!(counted(), 2);
        drop(young);
        assert_eq!(trim(), Some(segment(3)));
        assert_eq!(trim(), Some(segment(4)));
        assert_eq!((trim(), counted()), (None, 2));
        retention.end();
        assert!(hold(1_000).is_broken());
        assert_eq!(counted(), 2);
    });
}

#[test]
fn a_segment_that_is_written_to_again_is_not_finished() {
    let retention = retention();
    for number in 2..=5 {
        retention.grow(segment(number));
    }
    assert!(retention.is_finished(4) && !retention.is_finished(5));
    let (before, of) = retention.segment_of(Index(25)).unwrap();
    assert_eq!((before, of), (2, segment(3)));
    let cuts = retention.cuts();
    let removed = retention.cut(before + 1);
    assert_eq!(removed, [segment(5), segment(4)]);
    assert!(retention.cuts() > cuts);
    assert!(retention.is_finished(2) && !retention.is_finished(3) && !retention.is_finished(4));
    // At a border, the segment that begins there.
    assert_eq!(retention.segment_of(Index(11)), Some((1, segment(2))));
    assert_eq!(retention.segment_of(Index(0)), None);
}
