//! Reads applied records from the log's files, while the log's thread writes.
//!
//! No file stays open between two reads. So the space of a removed segment is free at once,
//! and the next read notices that it is missing. Only applied records are read, so anything
//! that is not a sound record is damage, except the zeros at the end of a segment.

use std::{collections::BTreeMap, io::ErrorKind, sync::Mutex};

use bytes::Bytes;
use tierkv_types::{
    Index, Record,
    record::{self, DecodeError, RecordHeader},
};

use super::{
    LogPlace,
    scan::open,
    segment::{SEGMENT_HEADER_BYTES, Segment},
};
use crate::{
    StorageError, locked,
    tail::{Cursor, TailError},
};

/// Bytes per read in a search.
const SEARCH_BYTES: usize = 1 << 20;
/// Bytes per read in a verification: they fit the processor's cache.
const VERIFY_BYTES: usize = 256 << 10;
/// Bytes between two waypoints of a segment, at least.
const WAYPOINT_BYTES: u64 = 1 << 20;
/// Most waypoints; over it the oldest are removed. They cover 16 GiB of log.
const MAX_WAYPOINTS: usize = 1 << 14;

/// The place in the log's files where the records after `last` begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    segment: u64,
    offset: u64,
    last: Cursor,
}

/// The places of some records, from earlier reads, so that a search does not have to begin at
/// its segment's first record.
#[derive(Debug, Default)]
pub(crate) struct Waypoints(Mutex<BTreeMap<Index, (u64, u64)>>);

impl Waypoints {
    /// Stores a record's place, unless there is one shortly before it.
    fn note(&self, record: Index, segment: u64, offset: u64) {
        let mut known = locked(&self.0);
        if let Some((_, (number, at))) = known.range(..=record).next_back()
            && *number == segment
            && offset.saturating_sub(*at) < WAYPOINT_BYTES
        {
            return;
        }
        known.insert(record, (segment, offset));
        if known.len() > MAX_WAYPOINTS {
            known.pop_first();
        }
    }

    /// The last stored place in a segment at or before a record.
    fn before(&self, record: Index, segment: u64) -> Option<(Index, u64)> {
        let known = locked(&self.0);
        let (index, (number, offset)) = known.range(..=record).next_back()?;
        (*number == segment).then_some((*index, *offset))
    }
}

/// Finds the place of the records after `after`, and checks that `after` is a record of this
/// log. It must be applied. Blocks.
///
/// # Errors
/// `Trimmed` if the records after it may have left the log, `Unknown` if another record has its
/// index.
pub(crate) fn find(
    place: &LogPlace,
    after: Cursor,
    waypoints: &Waypoints,
) -> Result<Spot, TailError> {
    let next = after.position.index.next();
    for number in place.numbers()?.into_iter().rev() {
        // Segments are removed oldest first: if this one is missing, so are all before it.
        let Some(segment) = kept(place, number)? else {
            break;
        };
        if segment.header.first > next {
            continue;
        }
        if segment.header.first == next {
            let before = Cursor {
                position: segment.header.previous(),
                version: segment.header.clock,
            };
            return match before == after {
                true => Ok(Spot {
                    segment: number,
                    offset: SEGMENT_HEADER_BYTES,
                    last: after,
                }),
                false => Err(TailError::Unknown(after.position)),
            };
        }
        return search(segment, after, waypoints);
    }
    Err(TailError::Trimmed(after.position))
}

/// Finds the place of a record, and checks that it is in this log. It must be applied. Blocks.
///
/// # Errors
/// `Trimmed` if it may have left the log, `Unknown` if another record has its index.
pub(crate) fn find_record(
    place: &LogPlace,
    of: Cursor,
    waypoints: &Waypoints,
) -> Result<Spot, TailError> {
    let index = of.position.index;
    for number in place.numbers()?.into_iter().rev() {
        let Some(segment) = kept(place, number)? else {
            break;
        };
        let header = segment.header;
        if header.first > index {
            continue;
        }
        let spot = match header.first == index {
            true => Spot {
                segment: number,
                offset: SEGMENT_HEADER_BYTES,
                last: Cursor {
                    position: header.previous(),
                    version: header.clock,
                },
            },
            false => find_index(segment, Index(index.0 - 1), waypoints)?,
        };
        // Only checks the record; the tail reads it again.
        let (records, _) = spot.read(place, waypoints, index, 1)?;
        return match records
            .first()
            .is_some_and(|record| Cursor::of(record) == of)
        {
            true => Ok(spot),
            false => Err(TailError::Unknown(of.position)),
        };
    }
    Err(TailError::Trimmed(of.position))
}

/// Finds the record of `after` in its segment.
fn search(segment: Segment, after: Cursor, waypoints: &Waypoints) -> Result<Spot, TailError> {
    let spot = find_index(segment, after.position.index, waypoints)?;
    match spot.last == after {
        true => Ok(spot),
        false => Err(TailError::Unknown(after.position)),
    }
}

/// Finds the place after the record `sought`, which is in this segment.
fn find_index(segment: Segment, sought: Index, waypoints: &Waypoints) -> Result<Spot, TailError> {
    let header = segment.header;
    let (mut index, begin) = waypoints
        .before(sought, header.number)
        .unwrap_or((header.first, SEGMENT_HEADER_BYTES));
    let mut records = Records::new(segment, begin, SEARCH_BYTES);
    while records.has_next()? {
        let frame = records.frame()?;
        if frame.position.index != index {
            return Err(records.damaged("another record has its index").into());
        }
        if records.at == 0 {
            waypoints.note(index, header.number, records.offset());
        }
        records.skip(frame.len);
        if index == sought {
            return Ok(Spot {
                segment: header.number,
                offset: records.offset(),
                last: Cursor {
                    position: frame.position,
                    version: frame.version,
                },
            });
        }
        index = index.next();
    }
    Err(records.damaged("an applied record is missing").into())
}

/// Verifies a finished segment. Returns the numbers of its records and bytes, or `None` if it
/// left the log. Blocks.
///
/// # Errors
/// `Damaged` if its content is not what was written, or the disk's failure.
pub(crate) fn verify(place: &LogPlace, number: u64) -> Result<Option<(u64, u64)>, StorageError> {
    let Some(segment) = kept(place, number)? else {
        return Ok(None);
    };
    let first = segment.header.first;
    let mut expected = first;
    let mut records = Records::new(segment, SEGMENT_HEADER_BYTES, VERIFY_BYTES);
    while records.has_next()? {
        let frame = records.frame()?;
        if frame.position.index != expected {
            let stands = frame.position;
            return Err(records.damaged(format!(
                "record {stands} is in the place of record {expected}"
            )));
        }
        records.skip(frame.len);
        expected = expected.next();
    }
    // Only zeros may follow the last record.
    while records.bring(1)? {
        let rest = &records.piece[records.at..];
        if let Some(place) = rest.iter().position(|byte| *byte != 0) {
            records.skip(place);
            return Err(records.damaged("there are bytes after the last record"));
        }
        let length = rest.len();
        records.skip(length);
    }
    Ok(Some((expected.0 - first.0, records.offset())))
}

impl Spot {
    /// The record before those that are read next.
    pub(crate) const fn last(&self) -> Cursor {
        self.last
    }

    /// Reads the next records: at least one, about `bytes` of them, none after `up_to`, which
    /// must be applied and not before the next record. Returns the place after them too. Blocks.
    ///
    /// # Errors
    /// `Trimmed` if the next record left the log, `Damaged` if it is not sound.
    pub(crate) fn read(
        mut self,
        place: &LogPlace,
        waypoints: &Waypoints,
        up_to: Index,
        bytes: usize,
    ) -> Result<(Vec<Record>, Self), TailError> {
        let mut source = self.open(place, bytes)?;
        while !source.has_next()? {
            self.segment += 1;
            self.offset = SEGMENT_HEADER_BYTES;
            source = self.open_next(place, bytes, &source)?;
        }
        waypoints.note(self.last.position.index.next(), self.segment, self.offset);
        let mut records = vec![self.take(&mut source)?];
        while self.last.position.index < up_to && source.holds_next() {
            // The records before a damaged one are sound; the next read reports the damage.
            let Ok(record) = self.take(&mut source) else {
                break;
            };
            records.push(record);
        }
        Ok((records, self))
    }

    /// Takes the next record of the piece, and checks that it continues the last one.
    fn take(&mut self, source: &mut Records) -> Result<Record, StorageError> {
        let (record, length) = source.record()?;
        let (last, next) = (self.last, record.position);
        let follows = next.index == last.position.index.next()
            && next.epoch >= last.position.epoch
            && record.version > last.version;
        if !follows {
            let what = format!("record {next} does not continue {}", last.position);
            return Err(source.damaged(what));
        }
        source.skip(length);
        self.last = Cursor::of(&record);
        self.offset = source.offset();
        Ok(record)
    }

    fn open(&self, place: &LogPlace, bytes: usize) -> Result<Records, TailError> {
        let segment = kept(place, self.segment)?;
        let segment = segment.ok_or(TailError::Trimmed(self.last.position))?;
        Ok(Records::new(segment, self.offset, bytes))
    }

    /// Opens the next segment, after the last record of the one before.
    fn open_next(
        &self,
        place: &LogPlace,
        bytes: usize,
        before: &Records,
    ) -> Result<Records, TailError> {
        let Some(segment) = kept(place, self.segment)? else {
            let is_trimmed = (place.numbers()?.last()).is_some_and(|last| *last > self.segment);
            return Err(match is_trimmed {
                true => TailError::Trimmed(self.last.position),
                false => before.damaged("an applied record is missing").into(),
            });
        };
        let header = segment.header;
        if header.log_id != place.log_id || header.previous() != self.last.position {
            return Err(before
                .damaged(format!(
                    "after record {} the log continues in a segment that begins after record {}",
                    self.last.position,
                    header.previous()
                ))
                .into());
        }
        Ok(Records::new(segment, self.offset, bytes))
    }
}

/// Opens a segment; `None` if it left the log.
fn kept(place: &LogPlace, number: u64) -> Result<Option<Segment>, StorageError> {
    match open(place, number) {
        Ok(segment) => Ok(Some(segment)),
        Err(StorageError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The records of one segment, read a piece at a time.
struct Records {
    segment: Segment,
    /// The piece's offset in the file.
    base: u64,
    piece: Bytes,
    /// The next record's offset in the piece.
    at: usize,
    piece_bytes: usize,
}

const LENGTH_WORD_BYTES: usize = 4;

impl Records {
    const fn new(segment: Segment, offset: u64, piece_bytes: usize) -> Self {
        Self {
            segment,
            base: offset,
            piece: Bytes::new(),
            at: 0,
            piece_bytes,
        }
    }

    /// Whether there is one more record; makes the piece hold all of it.
    fn has_next(&mut self) -> Result<bool, StorageError> {
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
    fn holds_next(&self) -> bool {
        let left = self.piece.len() - self.at;
        (self.length()).is_some_and(|length| length > 0 && length <= left)
    }

    /// The next record's length, if its length word is in the piece.
    fn length(&self) -> Option<usize> {
        let word = self.piece[self.at..].first_chunk::<LENGTH_WORD_BYTES>()?;
        Some(u32::from_le_bytes(*word) as usize)
    }

    /// Makes the piece hold `bytes` from the next record on; `false` if the file has fewer.
    fn bring(&mut self, bytes: usize) -> Result<bool, StorageError> {
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

    fn frame(&self) -> Result<RecordHeader, StorageError> {
        RecordHeader::read(&self.piece[self.at..]).map_err(|error| self.unsound(&error))
    }

    /// The next record, a slice of the piece, and its length.
    fn record(&self) -> Result<(Record, usize), StorageError> {
        record::decode(&self.piece, self.at).map_err(|error| self.unsound(&error))
    }

    const fn skip(&mut self, length: usize) {
        self.at += length;
    }

    const fn offset(&self) -> u64 {
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

    fn damaged(&self, what: impl Into<String>) -> StorageError {
        StorageError::damaged(&self.segment.path, self.offset(), what)
    }
}
