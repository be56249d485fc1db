//! The header of a record and its framing: what can be read without the changes.

use crate::{
    replication::{Epoch, Index, Position},
    version::Version,
};

/// The format version that [`encode`](super::encode) writes.
pub const FORMAT: u8 = 4;
/// The oldest format version that [`decode`](super::decode) reads.
pub const OLDEST_FORMAT: u8 = 1;
/// Largest record, in bytes as encoded. A request of maximum size fits easily, and a damaged length
/// can't make a reader allocate more.
pub const MAX_RECORD_BYTES: usize = 32 << 20;

pub(super) const HEADER_BYTES: usize = 42;
pub(super) const TRAILER: [u8; 4] = [0x54, 0x4B, 0x56, 0xA5];
pub(super) const MIN_RECORD_BYTES: usize = HEADER_BYTES + TRAILER.len();

/// Why there is no record at a place of a log (LOG-TORN).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Nothing was written here: the bytes end, or the length word is zero.
    #[error("no record begins here")]
    End,
    /// A record begins here but its trailer is missing: its write was not completed.
    #[error("the record is torn: its trailer is missing")]
    Torn,
    /// The trailer is present, but the record is invalid.
    #[error("the record is damaged: {0}")]
    Damaged(&'static str),
    /// The record is complete and of a newer format than this release supports.
    #[error("the record has format {0}; run the newer release that wrote it")]
    Newer(u8),
}

/// A record's header, with checksum and trailer verified and the body unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The length of the whole record in bytes, from its length word through its trailer.
    pub len: usize,
    /// The format version it was written in.
    pub(super) format: u8,
    /// The number of the payload's kind.
    pub(super) kind: u8,
    /// The record's position.
    pub position: Position,
    /// The commit index it carries.
    pub commit: Index,
    /// The version of all its changes.
    pub version: Version,
}

impl RecordHeader {
    /// The length in bytes of the record at the start of `bytes`, by its length word alone.
    ///
    /// # Errors
    /// As [`RecordHeader::read`], but nothing after the length word is verified.
    pub fn stated_len(bytes: &[u8]) -> Result<usize, DecodeError> {
        let Some(length) = bytes.first_chunk() else {
            // A few zero bytes are the end; other stray bytes are a length word cut short.
            return Err(if bytes.iter().all(|byte| *byte == 0) {
                DecodeError::End
            } else {
                DecodeError::Torn
            });
        };
        let len = u32::from_le_bytes(*length) as usize;
        if len == 0 {
            return Err(DecodeError::End);
        }
        match (MIN_RECORD_BYTES..=MAX_RECORD_BYTES).contains(&len) && len <= bytes.len() {
            true => Ok(len),
            false => Err(DecodeError::Torn),
        }
    }

    /// Reads the header of the record at the start of `bytes`, and verifies the whole record.
    ///
    /// # Errors
    /// `End`, `Torn` or `Damaged`, as LOG-TORN distinguishes them, or `Newer`. An impossible length
    /// leaves no place to look for the trailer, so it is reported as `Torn`: a caller that knows
    /// which records were acknowledged must decide whether that can be.
    pub fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let len = Self::stated_len(bytes)?;
        let (content, trailer) = bytes[..len].split_at(len - TRAILER.len());
        if trailer != TRAILER {
            return Err(DecodeError::Torn);
        }
        if crc32c::crc32c_append(crc32c::crc32c(&content[..4]), &content[8..])
            != u32::from_le_bytes(array(content, 4))
        {
            return Err(DecodeError::Damaged("its checksum does not match"));
        }
        let format = content[8];
        if format > FORMAT {
            return Err(DecodeError::Newer(format));
        }
        if format < OLDEST_FORMAT {
            return Err(DecodeError::Damaged("there is no such format version"));
        }
        debug_assert!(content.len() >= HEADER_BYTES);
        Ok(Self {
            len,
            format,
            kind: content[9],
            position: Position {
                epoch: Epoch(u64::from_le_bytes(array(content, 10))),
                index: Index(u64::from_le_bytes(array(content, 18))),
            },
            commit: Index(u64::from_le_bytes(array(content, 26))),
            version: Version::from_bits(u64::from_le_bytes(array(content, 34))),
        })
    }
}

/// Whether `bytes` begin with a record that was written completely and whose length word has
/// changed since. This is so if some trailer's place gives a length with a matching checksum. A
/// torn record can't look like that, so this is damage.
#[must_use]
pub fn is_whole_but_for_its_length(bytes: &[u8]) -> bool {
    let bytes = &bytes[..bytes.len().min(MAX_RECORD_BYTES)];
    if bytes.len() < MIN_RECORD_BYTES {
        return false;
    }
    let stored = u32::from_le_bytes(array(bytes, 4));
    let trailers = bytes.windows(TRAILER.len()).enumerate();
    trailers
        .skip(MIN_RECORD_BYTES - TRAILER.len())
        .filter(|(_, window)| *window == TRAILER)
        .take(MAX_TRAILERS_TRIED)
        .any(|(at, _)| {
            u32::try_from(at + TRAILER.len()).is_ok_and(|length| {
                let checksum = crc32c::crc32c(&length.to_le_bytes());
                crc32c::crc32c_append(checksum, &bytes[8..at]) == stored
            })
        })
}

/// Maximum trailer words that [`is_whole_but_for_its_length`] tries. A value may contain the word,
/// but hardly this often, and each try reads the record.
const MAX_TRAILERS_TRIED: usize = 256;

/// The `N` bytes from `at`; the caller ensures that they exist.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}
