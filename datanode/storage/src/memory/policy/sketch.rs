//! A count-min sketch of 4-bit counters with aging: an estimate of how often a key was recently
//! used, whether its entry is kept or not.
//!
//! G. Cormode, S. Muthukrishnan, "An improved data stream summary: the count-min sketch
//! and its applications", Journal of Algorithms 55(1), 2005; small counters and aging as
//! in Einziger, Friedman and Manes 2017, sections 3.3 and 3.4.

/// Independent counters of a key; the estimate is the least of them.
const ROWS: u32 = 4;
/// The largest value of a 4-bit counter.
const MAX_COUNT: u64 = 15;
/// Bits of a counter.
const COUNTER_BITS: u32 = 4;
/// Counters of one row in a word: 16 counters in all, 4 to a row.
const ROW_COUNTERS: u32 = 4;
/// Smallest sketch, in words.
const MIN_WORDS: usize = 16;
/// All counters are halved after so many uses per kept entry.
const SAMPLE_FACTOR: usize = 10;
/// The lower three bits of every counter, which remain after halving.
const HALVED: u64 = 0x7777_7777_7777_7777;

#[derive(Debug)]
pub(super) struct Sketch {
    /// As many words as entries, rounded up to a power of two.
    words: Vec<u64>,
    /// Uses counted since the last halving, and half of those before.
    uses: usize,
}

impl Sketch {
    pub(super) const fn new() -> Self {
        Self {
            words: Vec::new(),
            uses: 0,
        }
    }

    /// Counts a use of the key with this hash; `entries` are kept.
    pub(super) fn add(&mut self, hash: u32, entries: usize) {
        self.fit(entries);
        let least = self.estimate(hash);
        if least < MAX_COUNT {
            // Only the smallest counters; larger ones were raised by other keys.
            for row in 0..ROWS {
                let (word, shift) = self.place(hash, row);
                if (self.words[word] >> shift) & MAX_COUNT == least {
                    self.words[word] += 1 << shift;
                }
            }
        }
        self.uses += 1;
        if self.uses >= SAMPLE_FACTOR * entries.max(MIN_WORDS) {
            for word in &mut self.words {
                *word = (*word >> 1) & HALVED;
            }
            self.uses /= 2;
        }
    }

    /// An estimate of the key's recent uses: not below the true number, at most [`MAX_COUNT`].
    pub(super) fn estimate(&self, hash: u32) -> u64 {
        if self.words.is_empty() {
            return 0;
        }
        let counts = (0..ROWS).map(|row| {
            let (word, shift) = self.place(hash, row);
            (self.words[word] >> shift) & MAX_COUNT
        });
        counts.min().unwrap_or(0)
    }

    /// Grows or shrinks with the number of entries. Doubling copies the words into both halves,
    /// so no estimate changes. Halving takes the greater counters, so no estimate falls.
    fn fit(&mut self, entries: usize) {
        let wanted = entries.next_power_of_two().max(MIN_WORDS);
        if self.words.is_empty() {
            self.words.resize(wanted, 0);
        }
        while self.words.len() < wanted {
            self.words.reserve_exact(self.words.len());
            self.words.extend_from_within(..);
        }
        while self.words.len() > wanted * 2 {
            let upper = self.words.split_off(self.words.len() / 2);
            for (word, other) in self.words.iter_mut().zip(upper) {
                *word = greater(*word, other);
            }
            self.words.shrink_to_fit();
        }
    }

    /// Word and shift of a key's counter in `row`.
    fn place(&self, hash: u32, row: u32) -> (usize, u32) {
        const MULTIPLIERS: [u64; ROWS as usize] = [
            0x9E37_79B9_7F4A_7C15,
            0xC2B2_AE3D_27D4_EB4F,
            0xD6E8_FEB8_6659_FD93,
            0xA076_1D64_78BD_642F,
        ];
        let mixed = u64::from(hash).wrapping_mul(MULTIPLIERS[row as usize]);
        let mixed = mixed ^ (mixed >> 32);
        // The number of words is a power of two, so a masked hash is a valid index.
        #[allow(clippy::cast_possible_truncation)]
        let word = mixed as usize & (self.words.len() - 1);
        #[allow(clippy::cast_possible_truncation)]
        let counter = (mixed >> 62) as u32;
        (word, (row * ROW_COUNTERS + counter) * COUNTER_BITS)
    }
}

/// Counter by counter the greater one of two words.
fn greater(one: u64, other: u64) -> u64 {
    let counters = (0..u64::BITS).step_by(COUNTER_BITS as usize);
    counters.fold(0, |word, shift| {
        let count = |word: u64| (word >> shift) & MAX_COUNT;
        word | count(one).max(count(other)) << shift
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRIES: usize = 1_000;

    fn hash(nth: u32) -> u32 {
        nth.wrapping_mul(0x9E37_79B1) ^ 0x5bd1_e995
    }

    #[test]
    fn estimates_are_never_below_and_seldom_above_the_count() {
        let mut sketch = Sketch::new();
        for nth in 0..2_000 {
            (0..nth % 5).for_each(|_| sketch.add(hash(nth), ENTRIES));
        }
        let over = (0..2_000).filter(|nth| {
            let estimate = sketch.estimate(hash(*nth));
            assert!(estimate >= u64::from(nth % 5), "{nth} has {estimate}");
            estimate > u64::from(nth % 5)
        });
        assert!(over.count() < 40);
    }

    #[test]
    fn counts_saturate_and_age() {
        let mut sketch = Sketch::new();
        (0..100).for_each(|_| sketch.add(1, ENTRIES));
        assert_eq!(sketch.estimate(1), MAX_COUNT);
        // Half the sample is left from before each time, so this halves twice.
        (100..15_000).for_each(|_| sketch.add(2, ENTRIES));
        assert_eq!(sketch.estimate(1), MAX_COUNT / 4);
    }

    #[test]
    fn growth_changes_no_estimate() {
        let mut sketch = Sketch::new();
        for nth in 0..100 {
            (0..=nth % 7).for_each(|_| sketch.add(hash(nth), 100));
        }
        let before: Vec<u64> = (0..100).map(|nth| sketch.estimate(hash(nth))).collect();
        sketch.add(hash(1_000), 100_000);
        let changed = (0..100).filter(|nth| sketch.estimate(hash(*nth)) != before[*nth as usize]);
        // The one key that was added may share a counter.
        assert!(changed.count() <= ROWS as usize);
        assert_eq!(sketch.words.len(), 1 << 17);
        sketch.add(hash(1_000), 100);
        assert_eq!(sketch.words.len(), 256);
        assert!((0..100).all(|nth| sketch.estimate(hash(nth)) >= before[nth as usize]));
    }
}
