//! A clean entry's key, version, expiry and value, packed into one allocation.
//!
//! ```text
//! tag: u16 LE │ version: u64 LE │ expiry: u64 LE, if the tag has it │ key │ value
//! tag = key length (15 bits) │ whether there is an expiry (top bit)
//! ```
//!
//! Everything is copied, whatever its size, so that an entry never keeps the network frame or
//! log buffer it came from in memory. A reader gets slices of the block, which costs a
//! reference count and no allocation. [`Bytes`] made from a vector would allocate its count on
//! the first slice: 32 bytes more for every entry that was ever read. Here the count is in
//! front of the bytes.

use bytes::Bytes;
use tierkv_types::{
    Version,
    limits::{MAX_KEY_BYTES, MAX_NAMESPACE_BYTES},
};

use crate::Item;

const TAG_BYTES: usize = 2;
const VERSION_BYTES: usize = 8;
const HAS_EXPIRY: u16 = 1 << 15;
/// Bytes for the reference count that [`Bytes`] keeps in a block, and for its alignment:
/// mimalloc allocates 7 bytes more for it than for a block of alignment 1, which can take the
/// next block size.
const HEAD_BYTES: usize = 16;
/// Smallest block.
const MIN_BLOCK_BYTES: usize = 64;
/// Bytes outside of a block too large for inline bytes: count and vector.
const OUTER_BLOCK_BYTES: usize = 32;

const _: () = assert!(MAX_NAMESPACE_BYTES + 1 + MAX_KEY_BYTES < HAS_EXPIRY as usize);

/// A clean entry.
#[derive(Debug)]
pub(super) struct PackedItem(Bytes);

impl PackedItem {
    /// Copies `key` and `item`. The key is an item key's bytes.
    pub(super) fn new(key: &[u8], item: &Item) -> Self {
        // An item key is checked when it is created, and is shorter than the tag allows.
        #[allow(clippy::cast_possible_truncation)]
        let length = key.len() as u16;
        let version = item.version.to_bits().to_le_bytes();
        let expires = item.expires.map(|at| at.to_bits().to_le_bytes());
        let tag = length | if expires.is_some() { HAS_EXPIRY } else { 0 };
        let expires = expires.as_ref().map_or(&[][..], |bytes| bytes);
        Self(pack(&[
            &tag.to_le_bytes(),
            &version,
            expires,
            key,
            &item.value,
        ]))
    }

    /// The bytes of memory that this takes, with any allocator.
    pub(super) fn bytes(&self) -> u64 {
        packed_bytes(self.0.len())
    }

    /// [`PackedItem::bytes`] for this key and item.
    pub(super) fn bytes_of(key: &[u8], item: &Item) -> u64 {
        let expires = item.expires.map_or(0, |_| VERSION_BYTES);
        packed_bytes(TAG_BYTES + VERSION_BYTES + expires + key.len() + item.value.len())
    }

    pub(super) fn key(&self) -> &[u8] {
        let (start, end) = self.key_range();
        &self.0[start..end]
    }

    /// The key's item. The value is a slice of this entry's block.
    pub(super) fn item(&self) -> Item {
        let (start, end) = self.key_range();
        let version = self.version_at(TAG_BYTES);
        let expires = TAG_BYTES + VERSION_BYTES;
        Item {
            version,
            expires: (start > expires).then(|| self.version_at(expires)),
            value: self.0.slice(end..),
        }
    }

    fn version_at(&self, at: usize) -> Version {
        let mut bits = [0; VERSION_BYTES];
        bits.copy_from_slice(&self.0[at..at + VERSION_BYTES]);
        Version::from_bits(u64::from_le_bytes(bits))
    }

    fn key_range(&self) -> (usize, usize) {
        let tag = u16::from_le_bytes([self.0[0], self.0[1]]);
        let expires = if tag & HAS_EXPIRY == 0 {
            0
        } else {
            VERSION_BYTES
        };
        let start = TAG_BYTES + VERSION_BYTES + expires;
        (start, start + usize::from(tag & !HAS_EXPIRY))
    }
}

/// Bytes and their reference count in one block, of a size class of allocators.
struct Inline<const N: usize>([u8; N]);

impl<const N: usize> AsRef<[u8]> for Inline<N> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn inline<const N: usize>(parts: &[&[u8]]) -> Bytes {
    let mut block = [0; N];
    let mut end = 0;
    for part in parts {
        block[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    let mut bytes = Bytes::from_owner(Inline(block));
    bytes.truncate(end);
    bytes
}

fn pack(parts: &[&[u8]]) -> Bytes {
    let length = parts.iter().map(|part| part.len()).sum();
    match block_bytes(length) {
        64 => inline::<{ 64 - HEAD_BYTES }>(parts),
        80 => inline::<{ 80 - HEAD_BYTES }>(parts),
        96 => inline::<{ 96 - HEAD_BYTES }>(parts),
        112 => inline::<{ 112 - HEAD_BYTES }>(parts),
        128 => inline::<{ 128 - HEAD_BYTES }>(parts),
        160 => inline::<{ 160 - HEAD_BYTES }>(parts),
        192 => inline::<{ 192 - HEAD_BYTES }>(parts),
        224 => inline::<{ 224 - HEAD_BYTES }>(parts),
        256 => inline::<{ 256 - HEAD_BYTES }>(parts),
        320 => inline::<{ 320 - HEAD_BYTES }>(parts),
        384 => inline::<{ 384 - HEAD_BYTES }>(parts),
        448 => inline::<{ 448 - HEAD_BYTES }>(parts),
        512 => inline::<{ 512 - HEAD_BYTES }>(parts),
        640 => inline::<{ 640 - HEAD_BYTES }>(parts),
        768 => inline::<{ 768 - HEAD_BYTES }>(parts),
        896 => inline::<{ 896 - HEAD_BYTES }>(parts),
        MAX_INLINE_BLOCK_BYTES => inline::<{ MAX_INLINE_BLOCK_BYTES - HEAD_BYTES }>(parts),
        _ => Bytes::from_owner(parts.concat()),
    }
}

/// Largest block with count and bytes; for larger ones a second block costs little.
const MAX_INLINE_BLOCK_BYTES: usize = 1024;

fn packed_bytes(length: usize) -> u64 {
    let block = block_bytes(length);
    let outer = if block > MAX_INLINE_BLOCK_BYTES {
        OUTER_BLOCK_BYTES
    } else {
        0
    };
    (block + outer) as u64
}

/// Size of the block for `length` bytes: four size classes to a doubling, as in mimalloc,
/// jemalloc and tcmalloc, so that the bytes they waste are counted.
fn block_bytes(length: usize) -> usize {
    let block = (length + HEAD_BYTES).max(MIN_BLOCK_BYTES);
    let step = (1 << block.ilog2()) / 4;
    block.next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_comes_back_at_every_block_size() {
        let key = [b'k'; 1088];
        for length in (0..1_200).chain([4_096, 1 << 20]) {
            for expires in [
                None,
                Some(Version::ZERO),
                Some(Version::from_bits(u64::MAX)),
            ] {
                let key = &key[..1 + length % key.len()];
                let item = Item {
                    version: Version::from_bits(length as u64),
                    expires,
                    value: vec![7; length].into(),
                };
                let packed = PackedItem::new(key, &item);
                assert_eq!((packed.key(), packed.item()), (key, item.clone()));
                assert_eq!(packed.bytes(), PackedItem::bytes_of(key, &item));
            }
        }
    }

    #[test]
    fn a_value_outlives_its_entry_and_pins_only_the_entrys_own_block() {
        let frame = Bytes::from(vec![7; 1 << 20]);
        let item = Item {
            version: Version::from_bits(1),
            expires: None,
            value: frame.slice(100..200),
        };
        let packed = PackedItem::new(&frame[..10], &item);
        drop(item);
        assert!(frame.is_unique(), "the entry keeps the frame");
        let value = packed.item().value;
        drop(packed);
        assert_eq!(&value[..], &frame[100..200]);
    }
}
