//! Distributions of the keys that a load accesses.

use rand::{Rng, SeedableRng, rngs::StdRng};

/// How often each key is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// All keys equally often.
    Uniform,
    /// A few keys very often: YCSB's scrambled zipfian distribution with the constant 0.99.
    Zipfian,
}

impl Distribution {
    /// The distribution's name, as users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipfian => "zipfian",
        }
    }

    /// A sampler over the keys `0..keys`, the same for the same `seed`.
    ///
    /// # Panics
    /// If `keys` is 0.
    #[must_use]
    pub fn sampler(self, keys: u64, seed: u64) -> Sampler {
        assert!(keys > 0, "a workload needs at least one key");
        Sampler {
            distribution: self,
            keys,
            random: StdRng::seed_from_u64(seed),
        }
    }
}

/// Draws keys.
#[derive(Clone, Debug)]
pub struct Sampler {
    distribution: Distribution,
    keys: u64,
    random: StdRng,
}

impl Sampler {
    /// The next key's number.
    pub fn sample(&mut self) -> u64 {
        match self.distribution {
            Distribution::Uniform => self.random.random_range(0..self.keys),
            Distribution::Zipfian => fnv(zipfian_rank(self.random.random())) % self.keys,
        }
    }

    /// The next `count` keys, drawn in advance so that drawing costs nothing during the
    /// measurement.
    pub fn draw(&mut self, count: usize) -> Box<[u64]> {
        (0..count).map(|_| self.sample()).collect()
    }
}

/// The constant of the zipfian distribution.
const THETA: f64 = 0.99;
/// YCSB draws from ten thousand million ranks and maps them to the keys by a hash.
const RANKS: f64 = 1e10;
/// The generalized harmonic number of [`RANKS`] and [`THETA`], as YCSB gives it.
const ZETA_RANKS: f64 = 26.469_028_201_783_02;

/// The zipfian rank of a uniform number `u` in `0..1` (Gray et al., "Quickly generating
/// billion-record synthetic databases", SIGMOD 1994).
fn zipfian_rank(u: f64) -> u64 {
    let zeta_two = 1.0 + 0.5_f64.powf(THETA);
    let eta = (1.0 - (2.0 / RANKS).powf(1.0 - THETA)) / (1.0 - zeta_two / ZETA_RANKS);
    let scaled = u * ZETA_RANKS;
    if scaled < 1.0 {
        0
    } else if scaled < zeta_two {
        1
    } else {
        let rank = RANKS * (eta * u - eta + 1.0).powf(1.0 / (1.0 - THETA));
        // The rank is below RANKS, so the truncation gives a valid integer.
        #[allow(clippy::cast_possible_truncation)]
        {
            rank as u64
        }
    }
}

/// FNV-1a over the eight bytes of a number, low byte first.
fn fnv(number: u64) -> u64 {
    number
        .to_le_bytes()
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const KEYS: u64 = 1_000;
    const DRAWN: usize = 200_000;

    fn counts(distribution: Distribution) -> Vec<usize> {
        let mut counts: HashMap<u64, usize> = HashMap::new();
        for key in distribution.sampler(KEYS, 1).draw(DRAWN) {
            assert!(key < KEYS);
            *counts.entry(key).or_default() += 1;
        }
        let mut counts: Vec<usize> = counts.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts
    }

    #[test]
    fn uniform_draws_all_keys_equally_often() {
        let counts = counts(Distribution::Uniform);
        assert_eq!(counts.len(), 1_000);
        assert!(counts[0] < 300 && counts[999] > 100, "{counts:?}");
    }

    #[test]
    fn zipfian_draws_its_hottest_keys_as_often_as_the_formula_predicts() {
        let counts = counts(Distribution::Zipfian);
        for (rank, count) in counts.iter().take(2).enumerate() {
            let place = f64::from(u32::try_from(rank).unwrap() + 1);
            let expected = 200_000.0 / place.powf(THETA) / ZETA_RANKS;
            let count = f64::from(u32::try_from(*count).unwrap());
            // Each key also gets a thousandth of the long tail. From the third rank on the
            // formula is only an approximation.
            assert!(
                count > expected * 0.9 && count < expected * 1.1 + 200.0,
                "{rank}: {count} {expected}"
            );
        }
    }

    #[test]
    fn a_seed_gives_the_same_keys_again() {
        for distribution in [Distribution::Uniform, Distribution::Zipfian] {
            let draw = |seed| distribution.sampler(KEYS, seed).draw(100);
            assert_eq!(draw(5), draw(5));
            assert_ne!(draw(5), draw(6));
        }
    }
}
