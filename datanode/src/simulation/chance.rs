//! Random draws, all from the world's seed.

use std::sync::Mutex;

use rand::{Rng, SeedableRng, rngs::StdRng};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The draws of one part of a world.
#[derive(Debug)]
pub(super) struct Chance(Mutex<StdRng>);

impl Chance {
    /// The draws of `part` in the world of `seed`. Each part has its own generator, so that an
    /// additional draw in one part does not change the draws of another.
    pub(super) fn of(seed: u64, part: &str) -> Self {
        let own = xxh3_64_with_seed(part.as_bytes(), seed);
        Self(Mutex::new(StdRng::seed_from_u64(own)))
    }

    /// True in `chance` of 100 draws.
    pub(super) fn percent(&self, chance: u32) -> bool {
        self.below(100) < u64::from(chance)
    }

    /// A number under `bound`, which is not 0.
    pub(super) fn below(&self, bound: u64) -> u64 {
        self.0.lock().unwrap().random_range(0..bound)
    }

    /// An index below `count`, which is not 0.
    pub(super) fn index(&self, count: usize) -> usize {
        self.0.lock().unwrap().random_range(0..count)
    }
}

#[test]
fn parts_of_one_world_draw_apart_and_each_the_same_again() {
    let draws = |seed, part| {
        let chance = Chance::of(seed, part);
        (0..8).map(|_| chance.below(1_000)).collect::<Vec<_>>()
    };
    assert_eq!(draws(7, "cache"), draws(7, "cache"));
    assert_ne!(draws(7, "cache"), draws(7, "store"));
    assert_ne!(draws(7, "cache"), draws(8, "cache"));
}
