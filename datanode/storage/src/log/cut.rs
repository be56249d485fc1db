//! Cutting off the end of a log, in an order in which a power cut at any moment leaves a sound
//! log that ends at the cut or after it (REP-JOIN).
//!
//! ```text
//!                     cut
//!   ┌─── older ────────│─────────┬── later ──┬── active ──┐
//!   └──────────────────│─────────┴───────────┴────────────┘
//!                                      2           1         whole segments go, newest first
//!    ·················3                                      what stays is synced
//!                       4                                    the first record that goes is torn
//!                       5·······                             the rest is cleared
//! ```
//!
//! Each step is durable before the next. After 1 and 2 the log ends with a whole segment. Step 4
//! clears the trailer word of the first record that goes. The word has no zero byte, so whatever
//! part of it reaches the disk, the record is torn, and a start ends the log before it (LOG-TORN).
//! Then the order in which the bytes after it are lost does not matter.
//!
//! A segment that begins exactly at the cut stays, without records. So every place after a record
//! that stays, which a tail may have noted, stays what it was.

use tierkv_types::Position;

use super::{
    reader::{SEARCH_BYTES, Spot, Waypoints, find_index},
    records::Records,
    segment::{LogPlace, SEGMENT_HEADER_BYTES, Segment, in_allocated_space},
};
use crate::{StorageError, tail::Cursor};

/// Bytes that are cleared by one write.
const CLEAR_BYTES: usize = 1 << 20;
/// Bytes of the word that ends a record.
const TRAILER_BYTES: u64 = 4;

/// Why a log is not cut. Nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TruncateError {
    /// The log has no such record: it has another one of that index, or ends before it.
    #[error("the log can't be cut after record {0}, which is not in it; compare the logs again")]
    Unknown(Position),
    /// The log is closed or has failed, is being cut already, or its files can't be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A place in a segment at which the log is cut.
#[derive(Debug)]
pub(super) struct Cut {
    /// The segment, which is written to again afterwards.
    pub(super) segment: Segment,
    /// The last record that stays. Its version is 0 if the segment begins at the cut, and an
    /// earlier release wrote it.
    pub(super) last: Cursor,
    /// The offset of the first record that goes.
    pub(super) offset: u64,
    /// The offset after that record.
    torn_end: u64,
    /// The length of the file.
    size: u64,
}

impl Cut {
    /// Finds the place after a record in the segment that has the next one. Changes nothing.
    ///
    /// # Errors
    /// `Unknown` if another record has the index; damage, and failures of the disk.
    pub(super) fn find(segment: Segment, after: Position) -> Result<Self, TruncateError> {
        let spot = match segment.header.first == after.index.next() {
            true => Spot::first_of(&segment.header),
            // Places of records that may be cut off must not be noted for tails.
            false => find_index(segment.clone(), after.index, &Waypoints::default())?,
        };
        if spot.last().position != after {
            return Err(TruncateError::Unknown(after));
        }
        let mut records = Records::new(segment.clone(), spot.offset(), SEARCH_BYTES);
        if !records.has_next()? {
            return Err(records
                .damaged("a record that was written is missing")
                .into());
        }
        let first = records.frame()?;
        let size = segment.file.size();
        let size = size.map_err(|error| StorageError::io("measure", &segment.path, error))?;
        Ok(Self {
            segment,
            last: spot.last(),
            offset: spot.offset(),
            torn_end: spot.offset() + first.len as u64,
            size,
        })
    }

    /// Clears everything after the cut, up to where there are only zeros; `None`: to the end of the
    /// file. Later segments must be gone, durably.
    ///
    /// # Errors
    /// A failure of the disk; it is not known then what the file has.
    pub(super) fn clear(&self, place: &LogPlace, up_to: Option<u64>) -> Result<(), StorageError> {
        // What stays may not be synced yet.
        self.sync(place)?;
        self.overwrite(place, self.torn_end - TRAILER_BYTES, self.torn_end)?;
        self.overwrite(place, self.offset, up_to.unwrap_or(self.size))
    }

    /// Makes the segment as long as a new one, which it is unless the setting was lower when it
    /// was created.
    ///
    /// # Errors
    /// A shortage, after which it may be retried, or the disk's failure.
    pub(super) fn fill(&self, place: &LogPlace) -> Result<(), StorageError> {
        if self.size >= place.segment_bytes {
            return Ok(());
        }
        let Segment { file, path, .. } = &self.segment;
        file.allocate(place.segment_bytes)
            .and_then(|()| place.flush(&**file))
            .map_err(|error| StorageError::io("allocate", path, error))
    }

    /// Overwrites bytes with zeros, durably.
    fn overwrite(&self, place: &LogPlace, from: u64, to: u64) -> Result<(), StorageError> {
        debug_assert!(SEGMENT_HEADER_BYTES <= from && from < to && to <= self.size);
        let Segment { file, path, .. } = &self.segment;
        let left = usize::try_from(to - from).unwrap_or(CLEAR_BYTES);
        let zeros = vec![0; left.min(CLEAR_BYTES)];
        let mut at = from;
        while at < to {
            let left = usize::try_from(to - at).unwrap_or(zeros.len());
            let some = &zeros[..left.min(zeros.len())];
            file.write_at(at, some)
                .map_err(|error| in_allocated_space("clear the end of", path, error))?;
            at += some.len() as u64;
        }
        self.sync(place)
    }

    fn sync(&self, place: &LogPlace) -> Result<(), StorageError> {
        let Segment { file, path, .. } = &self.segment;
        place
            .flush(&**file)
            .map_err(|error| in_allocated_space("sync", path, error))
    }
}
