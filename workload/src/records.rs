//! Records with a key prefix, so that a load does not overwrite other keys.

use bytes::Bytes;

use crate::shape::{STAMP_BYTES, Shape, is_value_of, value_of};

/// The shortest value that can be checked, in bytes.
pub const MIN_VALUE_BYTES: usize = STAMP_BYTES;

/// The records of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    /// The prefix of all keys.
    pub prefix: String,
    /// The shape of the keys after the prefix.
    pub shape: Shape,
    /// The length of every value, at least [`MIN_VALUE_BYTES`].
    pub value_bytes: usize,
    /// The number of records.
    pub count: u64,
}

impl Records {
    /// The key of record `index`.
    #[must_use]
    pub fn key(&self, index: u64) -> Vec<u8> {
        [self.prefix.as_bytes(), self.shape.key(index).as_ref()].concat()
    }

    /// The value of record `index` with the stamp `stamp`.
    ///
    /// # Panics
    /// If the records' values are too short.
    #[must_use]
    pub fn value(&self, index: u64, stamp: u64) -> Bytes {
        value_of(index, stamp, self.value_bytes)
    }

    /// Whether `value` is a value of record `index`, with any stamp.
    #[must_use]
    pub fn is_value(&self, index: u64, value: &[u8]) -> bool {
        value.len() == self.value_bytes && is_value_of(index, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_any_length_are_checked_and_keys_have_their_prefix() {
        for value_bytes in [MIN_VALUE_BYTES, 9, 100, 70_000] {
            let records = Records {
                prefix: "mine/".to_owned(),
                shape: Shape::Ycsb,
                value_bytes,
                count: 10,
            };
            let value = records.value(7, 3);
            assert_eq!(value.len(), value_bytes);
            assert!(records.is_value(7, &value));
            assert!(!records.is_value(7, &value[1..]));
            // A value of a stamp alone could belong to any key.
            assert_eq!(records.is_value(8, &value), value_bytes == MIN_VALUE_BYTES);
            assert_eq!(records.key(42), b"mine/user0000000000000000042");
        }
    }
}
