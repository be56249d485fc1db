//! Reference versions of S3-FIFO and W-TinyLFU for tests: written from the papers with plain
//! collections, exact counts and one limit in entries. The tier's hit ratios are compared with
//! theirs.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// A simulated cache: a request for a key returns whether it was a hit, and admits the key.
pub(super) trait Simulation {
    fn request(&mut self, key: usize) -> bool;
}

/// Algorithm 1 of Yang et al. 2023.
#[derive(Debug)]
pub(super) struct S3Fifo {
    capacity: usize,
    small: VecDeque<usize>,
    main: VecDeque<usize>,
    ghost: VecDeque<usize>,
    in_ghost: HashSet<usize>,
    frequency: HashMap<usize, u8>,
}

impl S3Fifo {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghost: VecDeque::new(),
            in_ghost: HashSet::new(),
            frequency: HashMap::new(),
        }
    }

    fn evict(&mut self) {
        if self.small.len() * 10 >= self.capacity {
            self.evict_small();
        } else {
            self.evict_main();
        }
    }

    fn evict_small(&mut self) {
        while let Some(tail) = self.small.pop_front() {
            if self.frequency[&tail] > 1 {
                self.frequency.insert(tail, 0);
                self.main.push_back(tail);
                if self.main.len() * 10 > self.capacity * 9 {
                    self.evict_main();
                    return;
                }
            } else {
                self.frequency.remove(&tail);
                self.ghost.push_back(tail);
                self.in_ghost.insert(tail);
                while self.in_ghost.len() * 10 > self.capacity * 9 {
                    let oldest = self.ghost.pop_front().unwrap();
                    self.in_ghost.remove(&oldest);
                }
                return;
            }
        }
    }

    fn evict_main(&mut self) {
        while let Some(tail) = self.main.pop_front() {
            let frequency = self.frequency.get_mut(&tail).unwrap();
            if *frequency == 0 {
                self.frequency.remove(&tail);
                return;
            }
            *frequency -= 1;
            self.main.push_back(tail);
        }
    }
}

impl Simulation for S3Fifo {
    fn request(&mut self, key: usize) -> bool {
        if let Some(frequency) = self.frequency.get_mut(&key) {
            *frequency = (*frequency + 1).min(3);
            return true;
        }
        while self.small.len() + self.main.len() >= self.capacity {
            self.evict();
        }
        if self.in_ghost.remove(&key) {
            self.ghost.retain(|other| *other != key);
            self.main.push_back(key);
        } else {
            self.small.push_back(key);
        }
        self.frequency.insert(key, 0);
        false
    }
}

/// Keys by the time of their last use.
#[derive(Debug, Default)]
struct Recency {
    keys: BTreeMap<u64, usize>,
    times: HashMap<usize, u64>,
    now: u64,
}

impl Recency {
    fn touch(&mut self, key: usize) {
        self.remove(key);
        self.now += 1;
        self.keys.insert(self.now, key);
        self.times.insert(key, self.now);
    }

    fn remove(&mut self, key: usize) -> bool {
        let time = self.times.remove(&key);
        time.is_some_and(|time| self.keys.remove(&time).is_some())
    }

    fn oldest(&self) -> Option<usize> {
        self.keys.values().next().copied()
    }

    fn len(&self) -> usize {
        self.keys.len()
    }
}

/// Figures 5 and 6 of Einziger, Friedman and Manes 2017, with exact counts for the sketch.
#[derive(Debug)]
pub(super) struct WTinyLfu {
    capacity: usize,
    window: Recency,
    probation: Recency,
    protected: Recency,
    counts: HashMap<usize, u32>,
    accesses: usize,
}

impl WTinyLfu {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            window: Recency::default(),
            probation: Recency::default(),
            protected: Recency::default(),
            counts: HashMap::new(),
            accesses: 0,
        }
    }

    fn count(&mut self, key: usize) {
        let count = self.counts.entry(key).or_default();
        *count = (*count + 1).min(15);
        self.accesses += 1;
        if self.accesses == 10 * self.capacity {
            self.counts.retain(|_, count| {
                *count /= 2;
                *count > 0
            });
            self.accesses /= 2;
        }
    }
}

impl Simulation for WTinyLfu {
    fn request(&mut self, key: usize) -> bool {
        let window_capacity = self.capacity / 100;
        let main_capacity = self.capacity - window_capacity;
        self.count(key);
        if self.window.times.contains_key(&key) {
            self.window.touch(key);
            return true;
        }
        if self.probation.remove(key) || self.protected.times.contains_key(&key) {
            self.protected.touch(key);
            if self.protected.len() > main_capacity * 8 / 10 {
                let demoted = self.protected.oldest().unwrap();
                self.protected.remove(demoted);
                self.probation.touch(demoted);
            }
            return true;
        }
        self.window.touch(key);
        if self.window.len() > window_capacity {
            let candidate = self.window.oldest().unwrap();
            self.window.remove(candidate);
            if self.probation.len() + self.protected.len() < main_capacity {
                self.probation.touch(candidate);
                return false;
            }
            let victim = self.probation.oldest().or(self.protected.oldest()).unwrap();
            let count = |key| self.counts.get(&key).copied().unwrap_or(0);
            if count(candidate) > count(victim) {
                if !self.probation.remove(victim) {
                    self.protected.remove(victim);
                }
                self.probation.touch(candidate);
            }
        }
        false
    }
}
