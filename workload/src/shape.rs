//! Shapes of records: keys and values made from a number, so that a read value can be checked
//! without a copy of the written one.
//!
//! A value is an 8-byte stamp (little endian), chosen by the writer, followed by bytes that only
//! this key with this stamp has. The check finds a value of another key, a torn value and a
//! truncated one, and accepts the value of any write of the key.

use bytes::Bytes;

/// The longest key of any shape, in bytes.
pub const MAX_SHAPE_KEY_BYTES: usize = 36;

/// Bytes of the stamp at the start of a value.
pub(crate) const STAMP_BYTES: usize = 8;

/// The shape of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// 36 byte keys and 224 byte values: the medians of Twitter's published cache clusters
    /// (Yang et al., OSDI 2020).
    Trace,
    /// 23 byte keys and 1,000 byte values, as YCSB has (Cooper et al., SoCC 2010).
    Ycsb,
}

/// A key stored inline, without an allocation.
#[derive(Clone, Copy, Debug)]
pub struct ShapedKey {
    bytes: [u8; MAX_SHAPE_KEY_BYTES],
    length: usize,
}

impl AsRef<[u8]> for ShapedKey {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Shape {
    /// The shape's name, as users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Ycsb => "ycsb",
        }
    }

    /// The length of every key, in bytes.
    #[must_use]
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::Trace => 36,
            Self::Ycsb => 23,
        }
    }

    /// The length of every value, in bytes.
    #[must_use]
    pub const fn value_bytes(self) -> usize {
        match self {
            Self::Trace => 224,
            Self::Ycsb => 1_000,
        }
    }

    /// The key of record `index`.
    ///
    /// Keys of neighbouring records differ from their first byte on (`trace`), or only in their
    /// last bytes (`ycsb`), as in the sources of the shapes.
    #[must_use]
    pub fn key(self, index: u64) -> ShapedKey {
        let mut bytes = [0; MAX_SHAPE_KEY_BYTES];
        match self {
            Self::Trace => {
                write_hex(mix(index), &mut bytes[..16]);
                bytes[16] = b':';
                write_decimal(index, &mut bytes[17..36]);
            }
            Self::Ycsb => {
                bytes[..4].copy_from_slice(b"user");
                write_decimal(index, &mut bytes[4..23]);
            }
        }
        ShapedKey {
            bytes,
            length: self.key_bytes(),
        }
    }

    /// The value of record `index` with the stamp `stamp`.
    #[must_use]
    pub fn value(self, index: u64, stamp: u64) -> Bytes {
        value_of(index, stamp, self.value_bytes())
    }

    /// Whether `value` is a value of record `index`, with any stamp.
    #[must_use]
    pub fn is_value(self, index: u64, value: &[u8]) -> bool {
        value.len() == self.value_bytes() && is_value_of(index, value)
    }
}

/// A value of record `index` with the stamp `stamp`; `bytes` is at least the length of a stamp.
pub(crate) fn value_of(index: u64, stamp: u64, bytes: usize) -> Bytes {
    let mut value = vec![0; bytes];
    value[..STAMP_BYTES].copy_from_slice(&stamp.to_le_bytes());
    let mut words = words_of(index, stamp);
    for chunk in value[STAMP_BYTES..].chunks_mut(8) {
        chunk.copy_from_slice(&words.next_word()[..chunk.len()]);
    }
    value.into()
}

/// Whether `value` is a value of record `index`, with any stamp and of any length.
pub(crate) fn is_value_of(index: u64, value: &[u8]) -> bool {
    let Some((stamp, rest)) = value.split_first_chunk::<STAMP_BYTES>() else {
        return false;
    };
    let mut words = words_of(index, u64::from_le_bytes(*stamp));
    rest.chunks(8)
        .all(|chunk| chunk == &words.next_word()[..chunk.len()])
}

/// The endless bytes that follow a stamp.
struct Words(u64);

const fn words_of(index: u64, stamp: u64) -> Words {
    Words(mix(index) ^ mix(stamp).rotate_left(32))
}

impl Words {
    fn next_word(&mut self) -> [u8; 8] {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0).to_le_bytes()
    }
}

/// The finalizer of splitmix64 (Steele et al., OOPSLA 2014): a bijection that scatters.
const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn write_hex(mut number: u64, into: &mut [u8]) {
    for byte in into.iter_mut().rev() {
        *byte = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

fn write_decimal(mut number: u64, into: &mut [u8]) {
    for byte in into.iter_mut().rev() {
        *byte = b"0123456789"[(number % 10) as usize];
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const SHAPES: [Shape; 2] = [Shape::Trace, Shape::Ycsb];

    #[test]
    fn keys_have_their_length_and_differ() {
        for shape in SHAPES {
            let keys: HashSet<Vec<u8>> = (0..10_000)
                .map(|index| shape.key(index).as_ref().to_vec())
                .collect();
            assert_eq!(keys.len(), 10_000);
            assert!(keys.iter().all(|key| key.len() == shape.key_bytes()));
        }
        assert_eq!(Shape::Ycsb.key(42).as_ref(), b"user0000000000000000042");
        assert_eq!(
            Shape::Trace.key(0).as_ref(),
            b"0000000000000000:0000000000000000000"
        );
    }

    #[test]
    fn only_a_whole_value_of_the_same_key_is_valid() {
        for shape in SHAPES {
            let value = shape.value(7, 99);
            assert_eq!(value.len(), shape.value_bytes());
            assert!(shape.is_value(7, &value));
            assert!(shape.is_value(7, &shape.value(7, 100)));
            assert_ne!(value, shape.value(7, 100));
            assert!(!shape.is_value(8, &value));
            assert!(!shape.is_value(7, &value[..value.len() - 1]));
            assert!(!shape.is_value(7, b""));
            for at in [0, 7, 8, 100, value.len() - 1] {
                let mut torn = value.to_vec();
                torn[at] ^= 1;
                assert!(!shape.is_value(7, &torn), "byte {at}");
            }
        }
    }
}
