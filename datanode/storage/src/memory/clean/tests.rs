//! Compares clean entries with a naive model, and their counters with a recount.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*};
use tierkv_types::Version;

use super::*;
use crate::memory::slab::Queue;

const KINDS: [EvictionPolicy; 4] = [
    EvictionPolicy::Lru,
    EvictionPolicy::Lfu,
    EvictionPolicy::Fifo,
    EvictionPolicy::S3Fifo,
];

fn key(nth: u8) -> [u8; 3] {
    [b'n', 0, nth]
}

fn item(version: u64, length: usize) -> Item {
    Item {
        version: Version::from_bits(version),
        expires: version
            .is_multiple_of(2)
            .then_some(Version::from_bits(version)),
        value: vec![7; length].into(),
    }
}

fn bytes(item: &Item) -> u64 {
    size(PackedItem::bytes_of(&key(0), item)).bytes
}

impl Clean {
    fn put(&mut self, nth: u8, item: &Item) -> usize {
        self.insert(PackedItem::new(&key(nth), item))
    }

    fn keys(&self) -> BTreeSet<u8> {
        self.slab.slots().map(|slot| slot.item.key()[2]).collect()
    }

    /// The one queue that `lru` and `fifo` keep, the next victim first.
    fn order(&mut self) -> Vec<u8> {
        let mut order = Vec::new();
        for _ in 0..self.slab.len() {
            let at = self.slab.back(Queue::FIRST).unwrap();
            order.push(self.slab.slot(at).item.key()[2]);
            self.slab.move_to_front(at, Queue::FIRST);
        }
        order
    }

    /// Counts everything again: links, sizes, and that the index finds each entry.
    fn check(&self) {
        self.slab.check();
        assert!(!self.size().exceeds(self.bound), "{:?}", self.size());
        assert_eq!(self.index.len(), self.slab.len());
        let mut total = Size::default();
        for slot in self.slab.slots() {
            let at = self.find(self.hash(slot.item.key()), slot.item.key());
            assert_eq!(self.slab.slot(at.unwrap()).item.key(), slot.item.key());
            total = total.plus(Size {
                records: 1,
                bytes: bytes(&slot.item.item()),
            });
        }
        assert_eq!(total, self.size());
    }
}

/// What `lru` or `fifo` keeps, the next victim first.
#[derive(Debug, Default)]
struct Naive {
    order: Vec<(u8, u64)>,
    bound: Size,
    moves: bool,
}

impl Naive {
    fn use_of(&mut self, nth: u8) {
        if self.moves
            && let Some(at) = self.order.iter().position(|(key, _)| *key == nth)
        {
            let used = self.order.remove(at);
            self.order.push(used);
        }
    }

    fn put(&mut self, nth: u8, bytes: u64) {
        if bytes > self.bound.bytes || self.bound.records == 0 {
            self.remove(nth);
            return;
        }
        match self.order.iter_mut().find(|(key, _)| *key == nth) {
            Some(kept) => {
                kept.1 = bytes;
                self.use_of(nth);
            }
            None => self.order.push((nth, bytes)),
        }
        self.shrink();
    }

    fn remove(&mut self, nth: u8) {
        self.order.retain(|(key, _)| *key != nth);
    }

    fn shrink(&mut self) {
        let bytes = |order: &[(u8, u64)]| order.iter().map(|(_, bytes)| bytes).sum::<u64>();
        while self.order.len() as u64 > self.bound.records || bytes(&self.order) > self.bound.bytes
        {
            self.order.remove(0);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Get(u8),
    Put(u8, usize),
    Remove(u8),
    Limit(usize, Size),
}

fn bound() -> impl Strategy<Value = Size> {
    // Mostly room for a dozen entries, by records, by bytes, or by what comes first.
    (0..24_u64, 0..6_000_u64).prop_map(|(records, bytes)| Size { records, bytes })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let nth = 0..32_u8;
    let length = prop_oneof![4 => 0..300_usize, 1 => 300..3_000_usize];
    let step = prop_oneof![
        8 => nth.clone().prop_map(Step::Get),
        8 => (nth.clone(), length).prop_map(|(nth, length)| Step::Put(nth, length)),
        1 => nth.prop_map(Step::Remove),
        1 => (0..KINDS.len(), bound()).prop_map(|(kind, bound)| Step::Limit(kind, bound)),
    ];
    vec(step, 1..300)
}

proptest! {
    #[test]
    fn lru_and_fifo_evict_exactly_as_a_naive_model(start in bound(), steps in steps()) {
        for kind in [EvictionPolicy::Lru, EvictionPolicy::Fifo] {
            let moves = kind == EvictionPolicy::Lru;
            let mut clean = Clean::new(kind, start);
            let mut naive = Naive { bound: start, moves, ..Naive::default() };
            for (version, step) in steps.iter().enumerate() {
                match step {
                    Step::Get(nth) => {
                        let found = clean.get(&key(*nth)).is_some();
                        prop_assert_eq!(found, naive.order.iter().any(|(key, _)| key == nth));
                        naive.use_of(*nth);
                    }
                    Step::Put(nth, length) => {
                        let item = item(version as u64, *length);
                        clean.put(*nth, &item);
                        naive.put(*nth, bytes(&item));
                    }
                    Step::Remove(nth) => {
                        clean.remove(&key(*nth));
                        naive.remove(*nth);
                    }
                    Step::Limit(_, bound) => {
                        clean.limit(kind, *bound);
                        naive.bound = *bound;
                        naive.shrink();
                    }
                }
                let order: Vec<u8> = naive.order.iter().map(|(key, _)| *key).collect();
                prop_assert_eq!(clean.order(), order, "{} after {:?}", kind, step);
            }
        }
    }

    #[test]
    fn books_are_exact_bounds_hold_and_nothing_outdated_is_found(
        first in 0..KINDS.len(),
        start in bound(),
        steps in steps(),
    ) {
        let mut clean = Clean::new(KINDS[first], start);
        let mut last: BTreeMap<u8, Item> = BTreeMap::new();
        for (version, step) in steps.iter().enumerate() {
            let before = clean.keys();
            match step {
                Step::Get(nth) => {
                    let found = clean.get(&key(*nth));
                    prop_assert_eq!(found.is_some(), before.contains(nth));
                    prop_assert!(found.is_none() || found.as_ref() == last.get(nth));
                }
                Step::Put(nth, length) => {
                    let item = item(version as u64, *length);
                    let evicted = clean.put(*nth, &item);
                    let fits = clean.bound.records > 0 && bytes(&item) <= clean.bound.bytes;
                    if !before.contains(nth) {
                        prop_assert_eq!(clean.keys().contains(nth), fits);
                    }
                    let expected = if fits { before.len() - evicted } else { before.len() };
                    let added = usize::from(fits && !before.contains(nth));
                    let dropped = usize::from(!fits && before.contains(nth));
                    prop_assert_eq!(clean.slab.len(), expected + added - dropped);
                    last.insert(*nth, item);
                }
                Step::Remove(nth) => {
                    clean.remove(&key(*nth));
                    prop_assert!(!clean.keys().contains(nth));
                    last.remove(nth);
                }
                Step::Limit(kind, bound) => {
                    let fits = !clean.size().exceeds(*bound);
                    let evicted = clean.limit(KINDS[*kind], *bound);
                    prop_assert_eq!(evicted == 0, fits);
                    prop_assert_eq!(clean.slab.len() + evicted, before.len());
                }
            }
            let put = if let Step::Put(nth, _) = step { Some(*nth) } else { None };
            let appeared: Vec<u8> = clean.keys().difference(&before).copied().collect();
            prop_assert!(appeared.iter().all(|nth| Some(*nth) == put), "{:?}", appeared);
            clean.check();
        }
    }
}

/// Entries of one size, in numbers that make every table grow and give memory back.
#[test]
fn many_entries_come_and_go() {
    let names = |nth: u32| [&b"n\0"[..], &nth.to_le_bytes()].concat();
    for kind in KINDS {
        let bound = Size {
            records: 20_000,
            bytes: u64::MAX,
        };
        let mut clean = Clean::new(kind, bound);
        for nth in 0..30_000 {
            clean.insert(PackedItem::new(&names(nth), &item(1, 10)));
            clean.get(&names(nth / 2));
        }
        clean.check();
        assert_eq!(clean.slab.len(), 20_000, "{kind}");
        let evicted = clean.limit(
            kind,
            Size {
                records: 100,
                ..bound
            },
        );
        assert_eq!((evicted, clean.slab.len()), (19_900, 100), "{kind}");
        assert!(clean.index.capacity() <= 400, "{}", clean.index.capacity());
        clean.check();
        for nth in 0..30_000 {
            clean.remove(&names(nth));
        }
        assert_eq!(clean.size(), Size::default());
        clean.check();
    }
}

#[test]
fn a_change_of_policy_keeps_the_order_and_forgets_frequencies() {
    let bound = Size {
        records: 10,
        bytes: u64::MAX,
    };
    let mut clean = Clean::new(EvictionPolicy::Lru, bound);
    (0..10).for_each(|nth| {
        clean.put(nth, &item(1, 1));
    });
    clean.get(&key(0));
    for kind in [
        EvictionPolicy::S3Fifo,
        EvictionPolicy::Lfu,
        EvictionPolicy::Fifo,
    ] {
        assert_eq!(clean.limit(kind, bound), 0);
        clean.check();
    }
    assert_eq!(clean.order(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]);
    // Evictions by the old policy first (first in, first out), then the new policy applies.
    let evicted = clean.limit(
        EvictionPolicy::Lru,
        Size {
            records: 3,
            ..bound
        },
    );
    assert_eq!(evicted, 7);
    assert_eq!(clean.keys(), BTreeSet::from([8, 9, 0]));
}

#[test]
fn the_shards_parts_are_the_whole() {
    for whole in [0, 1, 63, 64, 65, 10_000, 512 << 20] {
        for shards in [1, 7, 64] {
            let limits = MemoryLimits {
                max_records: whole,
                max_bytes: whole,
                ..MemoryLimits::default()
            };
            let parts: Vec<Size> = (0..shards).map(|nth| share(limits, nth, shards)).collect();
            assert_eq!(parts.iter().map(|part| part.bytes).sum::<u64>(), whole);
            assert_eq!(parts.iter().map(|part| part.records).sum::<u64>(), whole);
            let bytes = |part: &Size| part.bytes;
            let (least, most) = (parts.iter().map(bytes).min(), parts.iter().map(bytes).max());
            assert!(most.unwrap() - least.unwrap() <= 1);
        }
    }
    let unbounded = MemoryLimits {
        max_records: MemoryLimits::UNBOUNDED,
        max_bytes: MemoryLimits::UNBOUNDED,
        ..MemoryLimits::default()
    };
    assert_eq!(share(unbounded, 0, 64).records, MAX_ENTRIES);
}
