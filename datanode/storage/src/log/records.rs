//! [`Records`]: the records of one segment, read a piece at a time.

use bytes::Bytes;
use tierkv_types::{
    Record,
    record::{self, DecodeError, RecordHeader},
};

use super::segment::Segment;
use crate::StorageError;

/// The records of one segment, read a piece at a time.
pub(super) struct Records {
    segment: Segment,
    /// The piece's offset in the file.
    base: u64,
    piece: Bytes,
    /// The next record's offset in the piece.
    at: usize,
    piece_bytes: usize,
}

/// Bytes of the word that begins a record.
const LENGTH_WORD_BYTES: usize = 4;

impl Records {
    pub(super) const fn new(segment: Segment, offset: u64, piece_bytes: usize) -> Self {
        Self {
            segment,
            base: offset,
            piece: Bytes::new(),
            at: 0,
            piece_bytes,
        }
    }

    /// Whether there is one more record; makes the piece hold all of it.
    pub(super) fn has_next(&mut self) -> Result<bool, StorageError> {
        // Less than a length word before the file's end is no record.
        if !self.bring(LENGTH_WORD_BYTES)? {
            return Ok(false);
        }
        match self.length() {
            Some(0) | None => Ok(false),
            Some(length) if length > record::MAX_RECORD_BYTES => {
                Err(self.damaged("a record's length is over the largest possible"))
            }
            Some(length) if !self.bring(length)? => {
                Err(self.damaged("a record is longer than its file"))
            }
            Some(_) => Ok(true),
        }
    }

    /// Whether the piece holds one more whole record.
    pub(super) fn holds_next(&self) -> bool {
        let left = self.piece.len() - self.at;
        (self.length()).is_some_and(|length| length > 0 && length <= left)
    }

    /// The next record's length, if its length word is in the piece.
    fn length(&self) -> Option<usize> {
        let word = self.rest().first_chunk::<LENGTH_WORD_BYTES>()?;
        Some(u32::from_le_bytes(*word) as usize)
    }

    /// Whether the next record is the first one of the piece.
    pub(super) const fn begins_piece(&self) -> bool {
        self.at == 0
    }

    /// The rest of the piece, from the next record on.
    pub(super) fn rest(&self) -> &[u8] {
        &self.piece[self.at..]
    }

    /// Makes the piece hold `bytes` from the next record on; `false` if the file has fewer.
    pub(super) fn bring(&mut self, bytes: usize) -> Result<bool, StorageError> {
        if self.piece.len() - self.at >= bytes {
            return Ok(true);
        }
        let mut piece = vec![0; bytes.max(self.piece_bytes)];
        let read = self.segment.file.read_at(self.offset(), &mut piece);
        let path = &self.segment.path;
        piece.truncate(read.map_err(|error| StorageError::io("read", path, error))?);
        (self.base, self.piece, self.at) = (self.offset(), piece.into(), 0);
        Ok(self.piece.len() >= bytes)
    }

    pub(super) fn frame(&self) -> Result<RecordHeader, StorageError> {
        RecordHeader::read(self.rest()).map_err(|error| self.unsound(&error))
    }

    /// The next record, a slice of the piece, and its length.
    pub(super) fn record(&self) -> Result<(Record, usize), StorageError> {
        record::decode(&self.piece, self.at).map_err(|error| self.unsound(&error))
    }

    pub(super) const fn skip(&mut self, length: usize) {
        self.at += length;
    }

    pub(super) const fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    fn unsound(&self, error: &DecodeError) -> StorageError {
        match error {
            DecodeError::Newer(found) => StorageError::Newer {
                file: self.segment.path.clone(),
                found: (*found).into(),
                known: record::FORMAT.into(),
            },
            // An applied record was once whole, so a torn one is damaged.
            DecodeError::End | DecodeError::Torn | DecodeError::Damaged(_) => {
                self.damaged(error.to_string())
            }
        }
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> StorageError {
        StorageError::damaged(&self.segment.path, self.offset(), what)
    }
}
