//! The embedded backend: the conformance suite, and its own limits and readiness.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use tierkv_cache::{
    Cache, CacheKey, EmbeddedCache, Fill, Found, LEASE_LIFE, State, cache_conformance,
    conformance::Backend, embedded::MAX_LEASES,
};
use tierkv_protocol::cache::{Entry, ValueEntry};
use tierkv_types::{Boot, BootTime, Clock, ClusterId, Version};

const CAPACITY: u64 = 64 << 20;

/// A clock that moves only when the test moves it.
#[derive(Default)]
struct Hand(AtomicU64);

impl Hand {
    fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).expect("tests take no ages");
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for Hand {
    fn boot_time(&self) -> BootTime {
        BootTime::from_boot(Duration::from_millis(self.0.load(Ordering::SeqCst)))
    }

    fn boot(&self) -> Option<Boot> {
        None
    }

    fn wall_millis(&self) -> u64 {
        0
    }

    fn is_synchronised(&self) -> bool {
        false
    }
}

#[derive(Default)]
struct Embedded(Arc<Hand>);

impl Backend for Embedded {
    type Cache = EmbeddedCache;

    async fn cache(&self) -> EmbeddedCache {
        EmbeddedCache::new(CAPACITY, self.0.clone())
    }

    async fn advance(&self, by: Duration) {
        self.0.advance(by);
    }
}

cache_conformance!(Embedded::default());

fn cluster() -> ClusterId {
    ClusterId::new("c1").expect("c1 is a name")
}

fn key(item: &[u8]) -> CacheKey<'_> {
    CacheKey {
        item,
        slot_revision: 1,
    }
}

fn value(bytes: impl Into<Bytes>) -> Entry {
    Entry::Value(ValueEntry {
        version: Version::from_bits(1),
        expires: None,
        filled: Version::ZERO,
        value: bytes.into(),
    })
}

/// Looks one key up; the call must be ready on its first poll.
fn state(cache: &EmbeddedCache, item: &[u8]) -> State {
    let mut results: Vec<Found> = Vec::new();
    cache
        .lookup(&cluster(), &[key(item)], &mut results)
        .now_or_never()
        .expect("the embedded cache is ready on the first poll");
    results.pop().expect("one result for one key").state
}

fn fill(cache: &EmbeddedCache, item: &[u8], entry: Entry) -> Fill {
    let State::Leased(lease) = state(cache, item) else {
        panic!("expected to win the lease");
    };
    cache
        .fill(key(item), lease, entry)
        .now_or_never()
        .expect("the embedded cache is ready on the first poll")
}

#[test]
fn the_capacity_is_a_bound_and_is_used() {
    for capacity in [1 << 20, 16 << 20] {
        let cache = EmbeddedCache::new(capacity, Arc::new(Hand::default()));
        for n in 0..40_000_u32 {
            fill(&cache, &n.to_be_bytes(), value(vec![0; 1_000]));
            let held = cache.nodes().now_or_never().unwrap().remove(0);
            assert!(held.bytes <= capacity, "{} of {capacity}", held.bytes);
        }
        let held = cache.nodes().now_or_never().unwrap().remove(0);
        assert!(held.bytes > capacity / 10 * 8, "only {} used", held.bytes);
    }
}

#[test]
fn a_cache_without_room_stores_nothing_and_answers() {
    let cache = EmbeddedCache::new(0, Arc::new(Hand::default()));
    fill(&cache, b"k", value("v"));
    assert!(matches!(state(&cache, b"k"), State::Leased(_)));
}

#[test]
fn leases_are_bounded_and_abandoned_ones_reclaimed() {
    let clock = Arc::new(Hand::default());
    let cache = EmbeddedCache::new(CAPACITY, clock.clone());
    let ask = |from: usize| {
        let leased = |n: &usize| matches!(state(&cache, &n.to_be_bytes()), State::Leased(_));
        (from..from + 2 * MAX_LEASES).filter(leased).count()
    };
    let first = ask(0);
    assert!(
        first > MAX_LEASES / 10 * 9 && first <= MAX_LEASES,
        "{first}"
    );
    clock.advance(LEASE_LIFE - Duration::from_millis(1));
    assert!(ask(4 * MAX_LEASES) <= MAX_LEASES - first);
    clock.advance(Duration::from_millis(1));
    assert!(ask(8 * MAX_LEASES) > MAX_LEASES / 10 * 9);
}

#[test]
fn a_stored_value_pins_no_larger_frame() {
    let cache = EmbeddedCache::new(CAPACITY, Arc::new(Hand::default()));
    let frame = Bytes::from(vec![7; 1 << 20]);
    fill(&cache, b"k", value(frame.slice(..8)));
    assert!(frame.is_unique(), "the cache shares the frame's memory");
    assert!(matches!(state(&cache, b"k"), State::Entry(_)));
}
