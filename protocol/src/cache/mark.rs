//! [`Mark`]: a master's note in a cache node. It has the index up to which the node confirmed the
//! master's deletes.
//!
//! Format: byte `0x01`, then epoch, round and index as little-endian `u64`s.

use thiserror::Error;
use tierkv_types::{Epoch, Index, Round};

const FORMAT: u8 = 1;

/// Length of an encoded mark.
pub const MARK_BYTES: usize = 1 + 3 * size_of::<u64>();

/// A mark asserts that, in `epoch`, `round` was vouched, and that this node confirmed every delete
/// up to `index`, the commit index sampled when the round was started (CACHE-MARK).
///
/// What it asserts stays true, so writing it late or twice does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The epoch of the master that wrote the mark.
    pub epoch: Epoch,
    /// The vouched round.
    pub round: Round,
    /// The entries of all keys changed by records up to this index have been deleted from the node.
    pub index: Index,
}

/// Bytes that are no mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeMarkError {
    /// The first byte is no format that this release can read.
    #[error("the mark has an unknown format; treat it as none")]
    UnknownFormat,
    /// The length is not that of the format.
    #[error("the mark has a wrong length; treat it as none")]
    WrongLength,
}

impl Mark {
    /// Whether a node must keep this mark and not replace it by `other`.
    #[must_use]
    pub fn outranks(&self, other: &Self) -> bool {
        (self.epoch, self.round) > (other.epoch, other.round)
    }

    /// The mark's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MARK_BYTES);
        bytes.push(FORMAT);
        for number in [self.epoch.0, self.round.0, self.index.0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`Mark::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes have another format or length.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeMarkError> {
        let (format, numbers) = bytes.split_first().ok_or(DecodeMarkError::WrongLength)?;
        if *format != FORMAT {
            return Err(DecodeMarkError::UnknownFormat);
        }
        let (numbers, rest) = numbers.as_chunks::<{ size_of::<u64>() }>();
        match (numbers, rest) {
            ([epoch, round, index], []) => Ok(Self {
                epoch: Epoch(u64::from_le_bytes(*epoch)),
                round: Round(u64::from_le_bytes(*round)),
                index: Index(u64::from_le_bytes(*index)),
            }),
            _ => Err(DecodeMarkError::WrongLength),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn marks_come_back(epoch: u64, round: u64, index: u64) {
            let mark = Mark { epoch: Epoch(epoch), round: Round(round), index: Index(index) };
            prop_assert_eq!(Mark::decode(&mark.encode()), Ok(mark));
        }

        #[test]
        fn decoding_anything_never_panics(bytes in proptest::collection::vec(0_u8..3, 0..30)) {
            if let Ok(mark) = Mark::decode(&bytes) {
                prop_assert_eq!(mark.encode(), bytes);
            }
        }
    }

    #[test]
    fn epoch_goes_before_round() {
        let mark = |epoch, round| Mark {
            epoch: Epoch(epoch),
            round: Round(round),
            index: Index(0),
        };
        assert!(mark(2, 1).outranks(&mark(1, 9)));
        assert!(mark(1, 9).outranks(&mark(1, 8)));
        assert!(!mark(1, 9).outranks(&mark(1, 9)));
        assert!(!mark(1, 9).outranks(&mark(2, 1)));
    }
}
