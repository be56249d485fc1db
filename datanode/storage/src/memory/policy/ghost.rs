//! The ghost queue of S3-FIFO: fingerprints of entries that recently left the small queue.
//!
//! A fingerprint's bits choose its bucket, which forgets its oldest fingerprint for it. Over all
//! buckets, fingerprints are forgotten at about the same age as in a single queue, but it takes
//! only 4 bytes for each and no index.

/// Fingerprints of a bucket: half a cache line.
const BUCKET_FINGERPRINTS: usize = 8;
/// The number of buckets grows by, and may exceed the need by, one part in this many.
const GROWTH_DIVISOR: usize = 8;
/// Marks a free place; no fingerprint has this value.
const EMPTY: u32 = 0;

/// The newest fingerprint first.
type Bucket = [u32; BUCKET_FINGERPRINTS];

#[derive(Debug)]
pub(super) struct Ghost {
    buckets: Vec<Bucket>,
}

impl Ghost {
    pub(super) const fn new() -> Self {
        Self {
            buckets: Vec::new(),
        }
    }

    /// Remembers `hash`; keeps about `capacity` hashes, or a few more.
    pub(super) fn remember(&mut self, hash: u32, capacity: usize) {
        let wanted = capacity.div_ceil(BUCKET_FINGERPRINTS).max(1);
        if wanted > self.buckets.len() || wanted < self.buckets.len() / 2 {
            self.resize(wanted + wanted / GROWTH_DIVISOR);
        }
        self.push(fingerprint(hash));
    }

    /// Returns whether `hash` is remembered, and forgets it.
    pub(super) fn take(&mut self, hash: u32) -> bool {
        if self.buckets.is_empty() {
            return false;
        }
        let fingerprint = fingerprint(hash);
        let bucket = self.bucket(fingerprint);
        let Some(at) = bucket.iter().position(|other| *other == fingerprint) else {
            return false;
        };
        bucket[at..].rotate_left(1);
        bucket[BUCKET_FINGERPRINTS - 1] = EMPTY;
        true
    }

    fn push(&mut self, fingerprint: u32) {
        let bucket = self.bucket(fingerprint);
        bucket.rotate_right(1);
        bucket[0] = fingerprint;
    }

    fn bucket(&mut self, fingerprint: u32) -> &mut Bucket {
        // Maps the range of fingerprints onto that of buckets; the result is below their
        // number. (D. Lemire, "Fast random integer generation in an interval", 2019.)
        let at = (u64::from(fingerprint) * self.buckets.len() as u64) >> u32::BITS;
        #[allow(clippy::cast_possible_truncation)]
        &mut self.buckets[at as usize]
    }

    fn resize(&mut self, buckets: usize) {
        let old = std::mem::replace(
            &mut self.buckets,
            vec![[EMPTY; BUCKET_FINGERPRINTS]; buckets],
        );
        for fingerprint in old.iter().flat_map(|bucket| bucket.iter().rev()) {
            if *fingerprint != EMPTY {
                self.push(*fingerprint);
            }
        }
    }
}

const fn fingerprint(hash: u32) -> u32 {
    if hash == EMPTY { 1 } else { hash }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As hashes are: spread over all 32 bits.
    fn hash(nth: u32) -> u32 {
        nth.wrapping_mul(0x9E37_79B1)
    }

    #[test]
    fn about_as_many_are_remembered_as_asked_for_and_the_newest_ones() {
        let mut ghost = Ghost::new();
        (0..10_000).for_each(|nth| ghost.remember(hash(nth), 1_000));
        let kept = (0..10_000).filter(|nth| ghost.take(hash(*nth)));
        let kept: Vec<u32> = kept.collect();
        assert!((1_000..1_200).contains(&kept.len()), "{}", kept.len());
        let newest = kept.iter().filter(|nth| **nth >= 9_000).count();
        assert!(newest > 850, "{newest} of the newest 1,000");
        assert!((0..10_000).all(|nth| !ghost.take(hash(nth))), "taken twice");
    }

    #[test]
    fn what_is_remembered_survives_growth_and_shrinks_with_the_capacity() {
        let mut ghost = Ghost::new();
        (0..100).for_each(|nth| ghost.remember(hash(nth), 400));
        ghost.remember(hash(100), 10_000);
        assert!((0..=100).all(|nth| ghost.take(hash(nth))));
        (0..10_000).for_each(|nth| ghost.remember(hash(nth), 10_000));
        ghost.remember(hash(10_000), 80);
        let kept = (0..=10_000).filter(|nth| ghost.take(hash(*nth))).count();
        assert!(kept <= 96, "{kept}");
    }
}
