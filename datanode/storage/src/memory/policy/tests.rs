//! Compares the tier's hit ratios with the papers' algorithms. Also a driver for the tests of
//! single policies.

use rand::{Rng, SeedableRng, rngs::StdRng};
use tierkv_types::{ItemKey, Version};

use super::{
    Policy,
    reference::{S3Fifo, Simulation, WTinyLfu},
};
use crate::{
    EvictionPolicy, Item, MemoryLimits, Residence,
    memory::{
        Memory, SHARDS,
        packed::PackedItem,
        slab::{Queue, Size, Slab, Slot},
    },
};

const KEYS: usize = 100_000;
const REQUESTS: usize = 1_000_000;
const CAPACITY: usize = 10_000;
const SKEW: f64 = 0.99;
/// The allowed difference of a hit ratio from its reference's.
const TOLERANCE: f64 = 0.005;

/// A policy over entries known by their hashes, bounded in records.
pub(super) struct Driver<P> {
    policy: P,
    slab: Slab,
    bound: Size,
    victims: Vec<u32>,
}

impl<P: Policy> Driver<P> {
    pub(super) fn new(policy: P, records: u64) -> Self {
        let bound = Size {
            records,
            bytes: u64::MAX,
        };
        Self {
            policy,
            slab: Slab::new(),
            bound,
            victims: Vec::new(),
        }
    }

    pub(super) fn admit(&mut self, nth: u32) {
        while self.slab.size().reaches(self.bound) {
            let at = self.policy.victim(&mut self.slab, self.bound).unwrap();
            self.victims.push(self.slab.remove(at).0.hash);
        }
        let slot = Slot::new(PackedItem::new(b"n\0k", &item()), Self::hash(nth));
        self.policy.admit(&mut self.slab, self.bound, slot);
        self.slab.check();
    }

    pub(super) fn hit(&mut self, nth: u32) {
        let at = self.place(nth);
        self.policy.hit(&mut self.slab, self.bound, at);
        self.slab.check();
    }

    pub(super) fn queue_of(&self, nth: u32) -> Queue {
        self.slab.slot(self.place(nth)).queue()
    }

    pub(super) fn last_victim(&self) -> Option<u32> {
        let last = self.victims.last();
        last.map(|last| (0..1_000).find(|nth| Self::hash(*nth) == *last).unwrap())
    }

    fn place(&self, nth: u32) -> u32 {
        let mut hashes = self.slab.slots().map(|slot| slot.hash);
        let at = hashes.position(|hash| hash == Self::hash(nth));
        u32::try_from(at.unwrap()).unwrap()
    }

    /// Spread as a hash is, and the same in each run.
    fn hash(nth: u32) -> u32 {
        nth.wrapping_mul(0x9E37_79B1) ^ 0x5BD1_E995
    }
}

/// Requests for keys whose popularity falls with their number.
fn zipf() -> Vec<usize> {
    let mut total = 0.0;
    let sums = (1..=KEYS).map(|rank| {
        total += (rank as f64).powf(-SKEW);
        total
    });
    let sums: Vec<f64> = sums.collect();
    let mut random = StdRng::seed_from_u64(7);
    let request = |_| {
        let at = random.random_range(0.0..total);
        sums.partition_point(|sum| *sum <= at)
    };
    (0..REQUESTS).map(request).collect()
}

fn keys() -> Vec<ItemKey> {
    let key = |nth: usize| ItemKey::new("n", format!("key{nth}").as_bytes()).unwrap();
    (0..KEYS).map(key).collect()
}

fn item() -> Item {
    Item {
        version: Version::from_bits(1),
        expires: None,
        value: vec![7; 20].into(),
    }
}

/// The hit ratio of `requests`, if each miss is admitted.
fn ratio(limits: MemoryLimits, shards: usize, keys: &[ItemKey], requests: &[usize]) -> f64 {
    let memory = Memory::new(limits, shards);
    let mut hits = 0;
    for nth in requests {
        let key = &keys[*nth];
        if memory.get(key.as_bytes()) == Residence::Unknown {
            memory.admit(key, Some(item()), 0);
        } else {
            hits += 1;
        }
    }
    assert!(memory.clean_entries() as u64 <= limits.max_records);
    assert!(memory.clean_bytes() <= limits.max_bytes);
    f64::from(hits) / requests.len() as f64
}

fn simulated(mut simulation: impl Simulation, requests: &[usize]) -> f64 {
    let hits = requests.iter().filter(|nth| simulation.request(**nth));
    hits.count() as f64 / requests.len() as f64
}

fn by_records(policy: EvictionPolicy) -> MemoryLimits {
    MemoryLimits {
        policy,
        max_records: CAPACITY as u64,
        max_bytes: MemoryLimits::UNBOUNDED,
    }
}

#[test]
fn hit_ratios_are_those_of_the_papers_and_beat_lru_and_fifo() {
    let (keys, requests) = (keys(), zipf());
    let lfu = simulated(WTinyLfu::new(CAPACITY), &requests);
    let s3fifo = simulated(S3Fifo::new(CAPACITY), &requests);
    println!("reference: lfu {lfu:.4}, s3fifo {s3fifo:.4}");
    for shards in [1, SHARDS] {
        let of = |policy| {
            let ratio = ratio(by_records(policy), shards, &keys, &requests);
            println!("{shards} shards: {policy} {ratio:.4}");
            ratio
        };
        let (own_lfu, own_s3fifo) = (of(EvictionPolicy::Lfu), of(EvictionPolicy::S3Fifo));
        let plain = of(EvictionPolicy::Lru).max(of(EvictionPolicy::Fifo));
        assert!((own_lfu - lfu).abs() < TOLERANCE, "{own_lfu} for {lfu}");
        assert!(
            (own_s3fifo - s3fifo).abs() < TOLERANCE,
            "{own_s3fifo} for {s3fifo}"
        );
        assert!(own_lfu > plain && own_s3fifo > plain, "{plain} is better");
    }
}

/// Where all entries are of one size, a bound in bytes is one in records.
#[test]
fn a_bound_in_bytes_gives_the_same_hit_ratio() {
    let (keys, requests) = (keys(), zipf());
    for policy in [EvictionPolicy::Lfu, EvictionPolicy::S3Fifo] {
        let one = Memory::new(by_records(policy), 1);
        one.admit(&keys[0], Some(item()), 0);
        let limits = MemoryLimits {
            policy,
            max_records: MemoryLimits::UNBOUNDED,
            max_bytes: one.clean_bytes() * CAPACITY as u64,
        };
        let in_bytes = ratio(limits, 1, &keys, &requests);
        let in_records = ratio(by_records(policy), 1, &keys, &requests);
        println!("{policy}: by bytes {in_bytes:.4}, by records {in_records:.4}");
        assert!((in_bytes - in_records).abs() < 0.005);
    }
}
