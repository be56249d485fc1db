//! The memory tier during checkpoints, and its limits.

use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use tierkv_types::{Change, ChangeKind, Version};

use super::*;
use crate::EvictionPolicy;

fn memory(max_bytes: u64) -> Memory {
    let limits = MemoryLimits {
        max_bytes,
        ..MemoryLimits::default()
    };
    Memory::new(limits, SHARDS)
}

fn key(name: &str) -> ItemKey {
    ItemKey::new("n", name.as_bytes()).unwrap()
}

fn item(version: u64) -> Item {
    Item {
        version: Version::from_bits(version),
        expires: None,
        value: Bytes::from(version.to_string()),
    }
}

fn put(memory: &Memory, name: &str, version: u64) {
    let change = Change {
        key: key(name),
        kind: ChangeKind::Put {
            value: item(version).value,
            expires: None,
        },
    };
    memory.apply(
        &change.key,
        Entry::of(&change.kind, Version::from_bits(version)),
    );
}

fn delete(memory: &Memory, name: &str, version: u64) {
    let change = Change {
        key: key(name),
        kind: ChangeKind::Delete { existed: true },
    };
    memory.apply(
        &change.key,
        Entry::of(&change.kind, Version::from_bits(version)),
    );
}

fn get(memory: &Memory, name: &str) -> Residence {
    memory.get(key(name).as_bytes())
}

#[test]
fn an_entry_is_there_at_every_step_of_a_checkpoint() {
    let memory = memory(1 << 20);
    put(&memory, "a", 1);
    put(&memory, "b", 2);
    delete(&memory, "c", 3);
    assert_eq!(memory.freeze().iter().map(|g| g.len()).sum::<usize>(), 3);
    put(&memory, "b", 4);
    for settled in [false, true] {
        if settled {
            memory.settle();
        }
        assert_eq!(get(&memory, "a"), Residence::Found(item(1)));
        assert_eq!(get(&memory, "b"), Residence::Found(item(4)));
    }
    // The store has the tombstone now, that is, it has no such row.
    assert_eq!(get(&memory, "c"), Residence::Unknown);
    assert_eq!(memory.clean_entries(), 1);
    memory.freeze();
    memory.settle();
    assert_eq!(get(&memory, "b"), Residence::Found(item(4)));
    assert_eq!(memory.pinned_bytes(), 0);
}

#[test]
fn a_store_read_that_a_checkpoint_outran_is_not_let_in() {
    let memory = memory(1 << 20);
    let began = memory.generation();
    delete(&memory, "k", 2);
    let outdated = Some(item(1));
    let admitted = memory.admit(&key("k"), outdated.clone(), began);
    assert_eq!(admitted, Admission::Settled(None));
    memory.freeze();
    memory.settle();
    let admitted = memory.admit(&key("k"), outdated, began);
    assert_eq!(admitted, Admission::Outrun);
    let again = memory.admit(&key("k"), None, memory.generation());
    assert_eq!(again, Admission::Settled(None));
}

/// The steps of a checkpoint against a reader of the store, as fast as they can go,
/// with a key of the shard that is settled first and no room for clean entries.
#[test]
fn no_interleaving_lets_an_outdated_store_read_in() {
    const ROUNDS: u64 = 100_000;
    let mut names = (0..).map(|nth| format!("k{nth}"));
    let name = names
        .find(|name| key(name).slot().index().is_multiple_of(SHARDS))
        .unwrap();
    let memory = memory(1);
    let store: Mutex<Option<Item>> = Mutex::new(None);
    let applied = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for version in 1..=ROUNDS {
                put(&memory, &name, version);
                applied.store(version, Ordering::Release);
                memory.freeze();
                *locked(&store) = Some(item(version));
                memory.settle();
            }
        });
        let key = key(&name);
        while applied.load(Ordering::Acquire) < ROUNDS {
            let before = applied.load(Ordering::Acquire);
            let generation = memory.generation();
            let row = locked(&store).clone();
            if let Admission::Settled(found) = memory.admit(&key, row, generation) {
                let version = found.map_or(0, |item| item.version.to_bits());
                assert!(version >= before, "{version} after {before} was applied");
            }
        }
    });
}

#[test]
fn pinned_bytes_are_exact_and_clean_ones_bounded() {
    let memory = memory(100 << 10);
    for version in 1..2_000 {
        put(&memory, &format!("k{}", version % 1_000), version);
    }
    let expected = (1_000..2_000)
        .map(|version: u64| weight(&key(&format!("k{}", version % 1_000)), Some(&item(version))));
    assert_eq!(memory.pinned_bytes(), expected.sum::<u64>());
    memory.freeze();
    memory.settle();
    assert_eq!(memory.pinned_bytes(), 0);
    assert!(memory.clean_bytes() <= 100 << 10);
    assert!(memory.clean_entries() > 100);
}

#[test]
fn a_change_hides_the_clean_value_under_it() {
    let memory = memory(1 << 20);
    put(&memory, "k", 1);
    memory.freeze();
    memory.settle();
    delete(&memory, "k", 2);
    assert_eq!(get(&memory, "k"), Residence::Absent);
    memory.freeze();
    memory.settle();
    assert_eq!(get(&memory, "k"), Residence::Unknown);
}

fn limits(policy: EvictionPolicy, max_records: u64) -> MemoryLimits {
    MemoryLimits {
        policy,
        max_records,
        max_bytes: MemoryLimits::UNBOUNDED,
    }
}

fn store(memory: &Memory) {
    memory.freeze();
    memory.settle();
}

#[test]
fn limits_change_while_running_and_hold_at_once() {
    let memory = Memory::new(limits(EvictionPolicy::Lru, 10_000), SHARDS);
    for version in 1..=5_000 {
        put(&memory, &format!("k{version}"), version);
    }
    store(&memory);
    put(&memory, "pinned", 5_001);
    let kept = |memory: &Memory| {
        let found = |version: &u64| match get(memory, &format!("k{version}")) {
            Residence::Found(found) => {
                assert_eq!(found, item(*version));
                true
            }
            Residence::Absent => panic!("a stored key became absent"),
            Residence::Unknown => false,
        };
        (1..=5_000).filter(found).count()
    };
    for policy in [
        EvictionPolicy::Lfu,
        EvictionPolicy::Fifo,
        EvictionPolicy::S3Fifo,
        EvictionPolicy::Lru,
    ] {
        memory.set_limits(limits(policy, 10_000));
        assert_eq!((kept(&memory), memory.clean_entries()), (5_000, 5_000));
    }
    memory.set_limits(limits(EvictionPolicy::S3Fifo, 1_000));
    assert_eq!((kept(&memory), memory.clean_entries()), (1_000, 1_000));
    let bytes = memory.clean_bytes() / 2;
    memory.set_limits(MemoryLimits {
        max_bytes: bytes,
        ..limits(EvictionPolicy::Lfu, 1_000)
    });
    assert!(memory.clean_bytes() <= bytes && kept(&memory) > 400);
    memory.set_limits(limits(EvictionPolicy::Lfu, 0));
    assert_eq!((kept(&memory), memory.clean_bytes()), (0, 0));
    assert_eq!(get(&memory, "pinned"), Residence::Found(item(5_001)));
    // Room again: new entries are kept.
    memory.set_limits(limits(EvictionPolicy::Fifo, 64));
    store(&memory);
    assert_eq!(get(&memory, "pinned"), Residence::Found(item(5_001)));
    assert_eq!(memory.clean_entries(), 1);
}

/// A writer with checkpoints, a reader, and changing limits at the same time.
#[test]
fn no_change_of_limits_brings_an_outdated_value_back() {
    const NAMES: u64 = 200;
    const ROUNDS: u64 = 300;
    let memory = Memory::new(limits(EvictionPolicy::Lru, 100), 4);
    let stored = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                (0..NAMES).for_each(|nth| put(&memory, &format!("k{nth}"), round));
                stored.store(round, Ordering::Release);
                store(&memory);
            }
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                for nth in 0..NAMES {
                    let least = stored.load(Ordering::Acquire);
                    if let Residence::Found(found) = get(&memory, &format!("k{nth}")) {
                        let version = found.version.to_bits();
                        assert!(version >= least, "{version} after {least}");
                    }
                }
            }
        });
        let policies = [
            EvictionPolicy::Lfu,
            EvictionPolicy::S3Fifo,
            EvictionPolicy::Fifo,
            EvictionPolicy::Lru,
        ];
        for (nth, policy) in policies.into_iter().cycle().enumerate() {
            if done.load(Ordering::Acquire) {
                break;
            }
            let bound = [150, 20, 0, 90, 1][nth % 5];
            memory.set_limits(limits(policy, bound));
            assert!(memory.clean_entries() as u64 <= bound, "{policy}, {bound}");
        }
    });
    memory.set_limits(limits(EvictionPolicy::S3Fifo, NAMES * 4));
    (0..NAMES).for_each(|nth| put(&memory, &format!("k{nth}"), ROUNDS + 1));
    store(&memory);
    assert_eq!(memory.clean_entries() as u64, NAMES);
}

/// The sum of the counts under one name.
#[derive(Debug, Default)]
struct Evictions(Arc<AtomicU64>);

impl Recorder for Evictions {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        assert_eq!(key.name(), "tierkv_memory_evictions_total");
        Counter::from_arc(Arc::clone(&self.0))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn evictions_are_counted_and_changed_keys_are_not() {
    let evictions = Evictions::default();
    metrics::with_local_recorder(&evictions, || {
        let memory = Memory::new(limits(EvictionPolicy::S3Fifo, 30), 1);
        for version in 1..=40 {
            put(&memory, &format!("k{version}"), version);
        }
        store(&memory);
        assert_eq!(evictions.0.load(Ordering::Relaxed), 10);
        memory.admit(&key("new"), Some(item(41)), memory.generation());
        assert_eq!(evictions.0.load(Ordering::Relaxed), 11);
        delete(&memory, "new", 42);
        store(&memory);
        assert_eq!(memory.clean_entries(), 29);
        memory.set_limits(limits(EvictionPolicy::Lfu, 4));
        assert_eq!(evictions.0.load(Ordering::Relaxed), 11 + 25);
    });
}
