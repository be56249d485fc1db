//! A file's bytes: in the page cache, and on the medium.

use std::collections::BTreeSet;

use rand::{Rng, rngs::StdRng};

use super::Tear;

/// Bytes that the hardware writes atomically.
const SECTOR_BYTES: usize = 512;

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that may differ between the two.
    dirty: BTreeSet<usize>,
    /// Lengths that the file had since it was synced. A length is metadata: the journal may have
    /// stored any of them, independent of the bytes.
    lengths: Vec<usize>,
}

impl Inode {
    /// A durable file.
    pub(super) fn settled(content: Vec<u8>) -> Self {
        Self {
            durable: content.clone(),
            content,
            ..Self::default()
        }
    }

    pub(super) fn content(&self) -> &[u8] {
        &self.content
    }

    fn touch(&mut self, start: usize, end: usize) {
        self.dirty
            .extend(start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES));
    }

    pub(super) fn write(&mut self, start: usize, bytes: &[u8]) {
        let end = start + bytes.len();
        if self.content.len() < end {
            self.set_length(end);
        }
        self.content[start..end].copy_from_slice(bytes);
        self.touch(start, end);
    }

    /// Cuts the file, or extends it with zeros.
    pub(super) fn set_length(&mut self, length: usize) {
        let before = self.content.len();
        if length != before {
            self.content.resize(length, 0);
            self.touch(length.min(before), length.max(before));
            self.lengths.push(length);
        }
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.content.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            copy_sector(sector, &self.content, &mut self.durable);
        }
        self.lengths.clear();
    }

    /// Changes bytes on the medium itself.
    pub(super) fn damage(&mut self, offset: usize, bytes: &[u8]) {
        let range = offset..offset + bytes.len();
        self.content[range.clone()].copy_from_slice(bytes);
        if let Some(durable) = self.durable.get_mut(range) {
            durable.copy_from_slice(bytes);
        }
    }

    /// Loses any part of what was not synced.
    pub(super) fn lose(&mut self, random: &mut StdRng, tear: Tear) {
        if self.dirty.is_empty() && self.lengths.is_empty() {
            return;
        }
        let kept = random.random_range(0..=self.lengths.len());
        let length = kept.checked_sub(1).map(|last| self.lengths[last]);
        let length = length.unwrap_or(self.durable.len());
        // Where the file was cut and grew again there are zeros, unless the cut was lost.
        let shortest = self.lengths[..kept].iter().copied().min();
        let mut survivor = std::mem::take(&mut self.durable);
        survivor.truncate(shortest.unwrap_or(usize::MAX));
        survivor.resize(length, 0);
        let dirty: Vec<usize> = std::mem::take(&mut self.dirty).into_iter().collect();
        let edge = random.random_range(0..=dirty.len());
        for (nth, sector) in dirty.into_iter().enumerate() {
            let is_kept = match tear {
                Tear::InOrder => nth < edge,
                Tear::AnyOrder => random.random_bool(0.5),
            };
            if is_kept {
                copy_sector(sector, &self.content, &mut survivor);
            }
        }
        *self = Self::settled(survivor);
    }
}

/// Copies a sector, as far as both have it.
fn copy_sector(sector: usize, from: &[u8], to: &mut [u8]) {
    let start = sector * SECTOR_BYTES;
    let end = (start + SECTOR_BYTES).min(from.len()).min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn outcomes(inode: &Inode, tear: Tear) -> BTreeSet<Vec<u8>> {
        let survivors = (0..200).map(|seed| {
            let mut inode = inode.clone();
            inode.lose(&mut StdRng::seed_from_u64(seed), tear);
            inode.content
        });
        survivors.collect()
    }

    fn sectors(letters: &[u8]) -> Vec<u8> {
        let sectors = letters.iter().map(|letter| [*letter; SECTOR_BYTES]);
        sectors.collect::<Vec<_>>().concat()
    }

    #[test]
    fn what_was_synced_stays_and_sectors_are_lost_one_by_one() {
        let mut inode = Inode::default();
        inode.write(0, &sectors(b"abc"));
        inode.sync();
        assert_eq!(outcomes(&inode, Tear::AnyOrder).len(), 1);
        inode.write(512, &sectors(b"BC"));
        let any = [b"abc", b"aBc", b"abC", b"aBC"].map(|letters| sectors(letters));
        assert_eq!(outcomes(&inode, Tear::AnyOrder), BTreeSet::from(any));
        let ordered = [b"abc", b"aBc", b"aBC"].map(|letters| sectors(letters));
        assert_eq!(outcomes(&inode, Tear::InOrder), BTreeSet::from(ordered));
    }

    #[test]
    fn lengths_and_bytes_are_lost_apart_from_each_other() {
        let mut inode = Inode::settled(sectors(b"ab"));
        inode.set_length(512);
        let cut = [b"ab".as_slice(), b"a"].map(sectors);
        assert_eq!(outcomes(&inode, Tear::AnyOrder), BTreeSet::from(cut));
        inode.write(512, &sectors(b"B"));
        // Lost whole, cut, grown again with zeros or with the bytes; or only the bytes.
        let regrown = [b"ab".as_slice(), b"a", b"a\0", b"aB"].map(sectors);
        assert_eq!(outcomes(&inode, Tear::AnyOrder), BTreeSet::from(regrown));
        inode.sync();
        assert_eq!(
            outcomes(&inode, Tear::AnyOrder),
            BTreeSet::from([sectors(b"aB")])
        );
    }
}
