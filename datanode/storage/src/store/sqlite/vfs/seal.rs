//! The seal: a mark after the last synced transaction of the write-ahead file.
//!
//! When SQLite recovers the file it stops at the first frame whose checksum fails. After a power
//! cut that is the end of the written data. But a flipped bit in an acknowledged transaction
//! looks the same, and all later frames would silently be lost. So after a transaction is
//! synced, a seal is written where the next frame will begin:
//!
//! ```text
//! at  bytes
//!  0      8  the letters TIERKVSL
//!  8      8  the two salts of the frames before it
//! 16      8  number of frames before it (little-endian)
//! 24      4  CRC-32C of the bytes before
//! ```
//!
//! The seal itself is not synced, so it may be missing after a power cut. If it is there, the
//! frames before it were synced. SQLite reads it as half a frame with a wrong salt and ignores
//! it.

use super::frames::{FRAME_HEADER_BYTES, frame_offset};

const MAGIC: [u8; 8] = *b"TIERKVSL";

/// Bytes of a seal.
pub(crate) const SEAL_BYTES: usize = 28;
/// The salts' place in a frame's header.
const FRAME_SALTS: std::ops::Range<usize> = 8..16;

/// A seal, written or to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) salts: [u8; 8],
    /// The number of frames before it.
    pub(crate) frames: usize,
}

impl Seal {
    /// The seal to write once the frame with this header is synced, if it ends a transaction.
    pub(super) fn of(frame: usize, header: &[u8]) -> Option<Self> {
        let header: &[u8; FRAME_HEADER_BYTES] = header.try_into().ok()?;
        let mut salts = [0; 8];
        salts.copy_from_slice(&header[FRAME_SALTS]);
        // The size of the database after it; 0 in the middle of a transaction.
        (header[4..8] != [0; 4]).then_some(Self {
            salts,
            frames: frame + 1,
        })
    }

    /// Its offset: after its frames.
    pub(crate) fn offset(&self) -> usize {
        frame_offset(self.frames)
    }

    pub(crate) fn to_bytes(self) -> [u8; SEAL_BYTES] {
        let mut bytes = [0; SEAL_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.salts);
        bytes[16..24].copy_from_slice(&(self.frames as u64).to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..24]);
        bytes[24..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_a_transaction_is_sealed() {
        let mut header = [0; FRAME_HEADER_BYTES];
        header[8..16].copy_from_slice(b"saltsalt");
        assert_eq!(Seal::of(3, &header), None);
        header[7] = 9;
        let seal = Seal::of(3, &header).unwrap();
        assert_eq!((seal.frames, &seal.salts), (4, b"saltsalt"));
        assert_eq!(seal.offset(), 32 + 4 * 4120);
        assert_eq!(&seal.to_bytes()[..16], b"TIERKVSLsaltsalt");
    }
}
