//! Reads applied records from the log's files, while the log's thread writes.
//!
//! No file stays open between two reads. So the space of a removed segment is free at once,
//! and the next read notices that it is missing. Only applied records are read, so anything
//! that is not a sound record is damage, except the zeros at the end of a segment.

use std::{collections::BTreeMap, io::ErrorKind, sync::Mutex};

use tierkv_types::{Index, Position, Record};

use super::{
    LogPlace,
    records::Records,
    scan::open,
    segment::{SEGMENT_HEADER_BYTES, Segment, SegmentHeader},
};
use crate::{
    StorageError, locked,
    tail::{Cursor, TailError},
};

/// Bytes per read in a search.
pub(super) const SEARCH_BYTES: usize = 1 << 20;
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

/// Finds the place of the records after `after`, and checks that this is a record of the log. It
/// must be applied. Blocks.
///
/// # Errors
/// `Trimmed` if the records after it may have left the log, `Unknown` if another record has its
/// index.
pub(crate) fn find(
    place: &LogPlace,
    after: Position,
    waypoints: &Waypoints,
) -> Result<Spot, TailError> {
    let next = after.index.next();
    for number in place.numbers()?.into_iter().rev() {
        // It left the log: trimmed, and so are all before it, or cut off its end.
        let Some(segment) = kept(place, number)? else {
            continue;
        };
        let header = segment.header;
        if header.first > next {
            continue;
        }
        let spot = match header.first == next {
            true => Spot::first_of(&header),
            false => find_index(segment, after.index, waypoints)?,
        };
        return match spot.last.position == after {
            true => Ok(spot),
            false => Err(TailError::Unknown(after)),
        };
    }
    Err(TailError::Trimmed(after))
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
            continue;
        };
        let header = segment.header;
        if header.first > index {
            continue;
        }
        let spot = match header.first == index {
            true => Spot::first_of(&header),
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

/// Finds the place after the record `sought`, which is in this segment.
///
/// # Errors
/// `Damaged` if the records up to it are not sound, or the disk's failure.
pub(super) fn find_index(
    segment: Segment,
    sought: Index,
    waypoints: &Waypoints,
) -> Result<Spot, StorageError> {
    let header = segment.header;
    let (mut index, begin) = waypoints
        .before(sought, header.number)
        .unwrap_or((header.first, SEGMENT_HEADER_BYTES));
    let mut records = Records::new(segment, begin, SEARCH_BYTES);
    while records.has_next()? {
        let frame = records.frame()?;
        if frame.position.index != index {
            return Err(records.damaged("another record has its index"));
        }
        if records.begins_piece() {
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
    Err(records.damaged("a record that was written is missing"))
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
        let rest = records.rest();
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
    /// The place of a segment's first record.
    pub(super) const fn first_of(header: &SegmentHeader) -> Self {
        Self {
            segment: header.number,
            offset: SEGMENT_HEADER_BYTES,
            last: Cursor {
                position: header.previous(),
                version: header.clock,
            },
        }
    }

    /// The offset of the records after `last` in their segment.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

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
