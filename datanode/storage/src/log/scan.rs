//! Reads the log's files at a start: returns the records, or the reason not to start.
//!
//! A crash can tear only the batch that was being written, the last one. So the log ends at
//! the first torn or missing record, unless a later segment or record shows that the missing
//! one was acknowledged (LOG-TORN): there is a later segment, or a later sound record whose
//! commit index is at or above the missing one. Then the log is damaged and refused.
//!
//! Records that the store has are not needed: of segments before these, which are only kept
//! for the retention, a start reads only the headers.

use std::{cmp::Ordering, path::Path, sync::Arc};

use bytes::Bytes;
use tierkv_types::{
    Epoch, Index, LogId, Position, Record, Version,
    record::{self, DecodeError, RecordHeader},
};

use super::segment::{
    ClosedSegment, LogFiles, LogPlace, SEGMENT_HEADER_BYTES, Segment, SegmentHeader,
};
use crate::{StorageError, state::Progress};

/// Bytes that a disk writes atomically.
const SECTOR_BYTES: usize = 512;
#[allow(clippy::cast_possible_truncation)]
const HEADER_BYTES: usize = SEGMENT_HEADER_BYTES as usize;

/// The content of a log's files.
#[derive(Clone, Debug)]
pub(crate) struct LogFound {
    pub(crate) log_id: LogId,
    /// In order, without gaps; at least one.
    pub(crate) segments: Vec<ClosedSegment>,
    /// The next record's offset in the last segment.
    pub(crate) offset: u64,
    /// The position before the first record that was read.
    pub(crate) before: Position,
    /// The last record, the highest version of a record, and the first index of each epoch in
    /// these files.
    pub(crate) progress: Progress,
    /// The highest commit index in a record that was read.
    pub(crate) commit: Index,
    /// The records after the index up to which the caller has them.
    pub(crate) tail: Vec<Arc<Record>>,
}

/// Called with each record after the index up to which the caller has them.
pub(crate) type Keep<'a> = dyn FnMut(Record) -> Result<(), StorageError> + 'a;

/// Reads the log in `place`, cuts off a torn end, and returns the records after `applied`.
/// `None` if there is no segment at all.
pub(crate) fn scan(place: &LogPlace, applied: Index) -> Result<Option<LogFound>, StorageError> {
    place.drop_spare()?;
    let mut tail = Vec::new();
    let found = inspect(place, applied, &mut |record| {
        tail.push(Arc::new(record));
        Ok(())
    })?;
    let Some((mut log, bytes)) = found else {
        return Ok(None);
    };
    log.tail = tail;
    if let (Some(segment), Ok(end)) = (log.segments.last(), usize::try_from(log.offset)) {
        clear(place, &segment.path, &bytes, end)?;
    }
    Ok(Some(log))
}

/// Reads the log in `place` as a start does and changes nothing. Returns its content and the
/// bytes of its last segment; `None` if there is no segment at all.
pub(crate) fn inspect(
    place: &LogPlace,
    applied: Index,
    keep: &mut Keep<'_>,
) -> Result<Option<(LogFound, Bytes)>, StorageError> {
    let numbers = place.numbers()?;
    let mut found: Option<LogFound> = None;
    let mut bytes = Bytes::new();
    let segments = (numbers.iter()).map(|number| open(place, *number).map(Segment::close));
    let segments = segments.collect::<Result<Vec<ClosedSegment>, StorageError>>()?;
    // From the segment with the last applied record, to check it against the store.
    let begins_before = |segment: &ClosedSegment| segment.header.first <= applied;
    let unread = segments.iter().rposition(begins_before).unwrap_or(0);
    let last = segments.len().saturating_sub(1);
    for (nth, segment) in segments.into_iter().enumerate() {
        let log = found.get_or_insert_with(|| LogFound::before(&segment.header));
        log.join(&segment)?;
        if nth >= unread {
            bytes = bytes_of(place, &segment.path)?;
            log.read(&segment, &bytes, applied, nth == last, keep)?;
        }
        log.segments.push(segment);
    }
    Ok(found.map(|log| (log, bytes)))
}

/// Reads the sound records of a log that a start refuses: from the segment that continues a
/// store at `applied` up to the first damaged place. Changes nothing. A segment with a damaged
/// header is taken as one of the log `expected` if its records fit. `None` if no segment
/// continues the store.
pub(crate) fn salvage(
    place: &LogPlace,
    applied: Position,
    expected: LogId,
    keep: &mut Keep<'_>,
) -> Result<Option<LogFound>, StorageError> {
    let mut segments = Vec::new();
    for number in place.numbers()? {
        match open(place, number) {
            Ok(segment) => segments.push(segment.close()),
            // A segment without a usable header: `join` reports the gap.
            Err(StorageError::Damaged { .. }) => {
                segments.extend(headless(place, number, applied, expected)?);
            }
            Err(error) => return Err(error),
        }
    }
    let continues = |segment: &ClosedSegment| segment.header.first <= applied.index.next();
    let Some(begin) = segments.iter().rposition(continues) else {
        return Ok(None);
    };
    let mut found: Option<LogFound> = None;
    for mut segment in segments.into_iter().skip(begin) {
        let log = found.get_or_insert_with(|| LogFound::before(&segment.header));
        if segment.header.previous_epoch == UNKNOWN_EPOCH {
            segment.header.previous_epoch = log.last().epoch;
        }
        let joined = log.join(&segment);
        let read = joined.and_then(|()| {
            let bytes = bytes_of(place, &segment.path)?;
            // The caller judges what follows the end.
            let read = log.read(&segment, &bytes, applied.index, false, keep);
            log.segments.push(segment);
            read
        });
        match read {
            Ok(()) => {}
            Err(StorageError::Damaged { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Whether the part of the length word at `at` that is in its first sector is zero. After a
/// power cut during a batch, that sector may be missing and the next one written: then the
/// record is there without the start of its length.
fn lacks_the_end_of_a_sector(at: usize, rest: &[u8]) -> bool {
    const LENGTH_WORD_BYTES: usize = 4;
    let left = SECTOR_BYTES - at % SECTOR_BYTES;
    left <= LENGTH_WORD_BYTES && rest.iter().take(left).all(|byte| *byte == 0)
}

/// The epoch before a segment whose header can't be read.
const UNKNOWN_EPOCH: Epoch = Epoch(u64::MAX);

/// A segment with a damaged header, with a header made from its first record.
fn headless(
    place: &LogPlace,
    number: u64,
    applied: Position,
    expected: LogId,
) -> Result<Option<ClosedSegment>, StorageError> {
    let path = place.path(number);
    let bytes = bytes_of(place, &path)?;
    let Some(Ok(frame)) = bytes.get(HEADER_BYTES..).map(RecordHeader::read) else {
        return Ok(None);
    };
    let first = frame.position.index;
    let previous_epoch = match first.0.cmp(&applied.index.next().0) {
        // Records that the store has are not checked again.
        Ordering::Less => frame.position.epoch,
        Ordering::Equal => applied.epoch,
        Ordering::Greater => UNKNOWN_EPOCH,
    };
    let header = SegmentHeader {
        log_id: expected,
        number,
        first,
        previous_epoch,
        clock: Version::ZERO,
    };
    Ok(Some(ClosedSegment { path, header }))
}

/// Opens a segment and reads its header.
pub(super) fn open(place: &LogPlace, number: u64) -> Result<Segment, StorageError> {
    let path = place.path(number);
    let fail = |action| {
        let path = path.clone();
        move |error| StorageError::io(action, &path, error)
    };
    let file = place.disk.open(&path).map_err(fail("open"))?;
    let mut bytes = [0; HEADER_BYTES];
    let read = file.read_at(0, &mut bytes).map_err(fail("read"))?;
    let header = SegmentHeader::read(&path, &bytes[..read])?;
    let file = file.into();
    Ok(Segment { path, file, header })
}

/// A file's bytes.
pub(super) fn bytes_of(place: &LogPlace, path: &Path) -> Result<Bytes, StorageError> {
    let file = place.disk.open(path);
    let file = file.map_err(|error| StorageError::io("open", path, error))?;
    let size = file.size();
    let size = size.map_err(|error| StorageError::io("measure", path, error))?;
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
    let read = file.read_at(0, &mut bytes);
    bytes.truncate(read.map_err(|error| StorageError::io("read", path, error))?);
    Ok(bytes.into())
}

/// Overwrites everything after the last sound record with zeros. Otherwise the rest of a torn
/// batch could directly follow a record written later and be read as its successors.
fn clear(place: &LogPlace, path: &Path, bytes: &[u8], end: usize) -> Result<(), StorageError> {
    let rest = &bytes[end..];
    let is_clear = rest.iter().all(|byte| *byte == 0);
    if is_clear && bytes.len() as u64 >= place.segment_bytes {
        return Ok(());
    }
    if !is_clear {
        tracing::warn!(
            file = %path.display(),
            offset = end,
            "the log ended in a torn record, which was never acknowledged; it is cut off"
        );
    }
    let cleared = place.disk.open(path).and_then(|file| {
        file.truncate(end as u64)?;
        file.allocate(place.segment_bytes)?;
        place.flush(&*file)
    });
    cleared.map_err(|error| StorageError::io("clear the end of", path, error))
}

impl LogFound {
    /// Opens the log for writing.
    pub(crate) fn open(mut self, place: &LogPlace) -> Result<LogFiles, StorageError> {
        let Some(active) = self.segments.pop() else {
            unreachable!("a log has at least one segment");
        };
        Ok(LogFiles {
            names: place.open_names()?,
            active: place.open(active)?,
            older: self.segments,
            offset: self.offset,
        })
    }

    fn before(header: &SegmentHeader) -> Self {
        Self {
            log_id: header.log_id,
            segments: Vec::new(),
            offset: 0,
            before: header.previous(),
            progress: Progress {
                position: header.previous(),
                ..Progress::default()
            },
            commit: Index::ZERO,
            tail: Vec::new(),
        }
    }

    /// The last record.
    pub(crate) const fn last(&self) -> Position {
        self.progress.position
    }

    /// Checks that a segment continues what was read so far.
    fn join(&self, segment: &ClosedSegment) -> Result<(), StorageError> {
        let header = &segment.header;
        if header.log_id != self.log_id {
            return Err(StorageError::damaged(
                &segment.path,
                16,
                format!(
                    "the segment is of log {}, the ones before it are of log {}",
                    header.log_id, self.log_id
                ),
            ));
        }
        let follows = self.segments.last().is_none_or(|last| {
            let is_next = last.header.number + 1 == header.number;
            // Of a skipped segment only the header was read.
            let continues = match self.offset {
                0 => last.header.previous() < header.previous(),
                _ => self.last() == header.previous(),
            };
            is_next && continues
        });
        if follows {
            return Ok(());
        }
        // The segment before was complete and durable when this one was created, so the missing
        // records were lost from it.
        let (file, offset) = self
            .segments
            .last()
            .map_or((&segment.path, 0), |last| (&last.path, self.offset));
        Err(StorageError::damaged(
            file,
            offset,
            format!(
                "the log breaks off after record {}, and a later segment begins with record {}",
                self.last(),
                header.first
            ),
        ))
    }

    /// Reads a segment's records; sets `offset` to their end, also after an error.
    fn read(
        &mut self,
        segment: &ClosedSegment,
        bytes: &Bytes,
        applied: Index,
        is_last: bool,
        keep: &mut Keep<'_>,
    ) -> Result<(), StorageError> {
        if self.offset == 0 {
            self.before = segment.header.previous();
            self.progress.position = self.before;
        }
        let mut at = HEADER_BYTES;
        loop {
            self.offset = at as u64;
            let damaged = |what: String| StorageError::damaged(&segment.path, at as u64, what);
            match RecordHeader::read(&bytes[at..]) {
                Ok(frame) => {
                    let mut record = None;
                    if frame.position.index > applied {
                        // Copied, so that one value kept in memory does not keep the buffer of a
                        // whole segment.
                        let own = Bytes::copy_from_slice(&bytes[at..at + frame.len]);
                        let decoded = record::decode(&own, 0);
                        record = Some(decoded.map_err(|error| damaged(error.to_string()))?.0);
                    }
                    self.take(&frame).map_err(damaged)?;
                    if let Some(record) = record {
                        keep(record)?;
                    }
                    at += frame.len;
                }
                Err(error @ DecodeError::Damaged(_)) => return Err(damaged(error.to_string())),
                Err(DecodeError::Newer(found)) => {
                    return Err(StorageError::Newer {
                        file: segment.path.clone(),
                        found: found.into(),
                        known: record::FORMAT.into(),
                    });
                }
                Err(DecodeError::End | DecodeError::Torn) => {
                    // In an earlier segment, `join` judges an early end.
                    if is_last {
                        self.check_end(at, &bytes[at..]).map_err(damaged)?;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Advances by a sound record, if it is the next one.
    fn take(&mut self, frame: &RecordHeader) -> Result<(), String> {
        let advanced = self.progress.advance(frame.position, frame.version);
        advanced.map_err(|broken| broken.to_string())?;
        self.commit = self.commit.max(frame.commit);
        Ok(())
    }

    /// Checks that the log may end at `at`, before `rest`, which does not begin with a record.
    fn check_end(&self, at: usize, rest: &[u8]) -> Result<(), String> {
        let missing = self.last().index.next();
        if self.commit >= missing {
            return Err(format!(
                "record {missing} is missing, but an earlier one shows that it was committed"
            ));
        }
        if !lacks_the_end_of_a_sector(at, rest) && record::is_whole_but_for_its_length(rest) {
            return Err(format!("the length of record {missing} is damaged"));
        }
        let mut at = 0;
        // Zeros are no record. A length word has a nonzero byte among its first four, so a
        // record begins at most three bytes before one.
        while let Some(skip) = rest[at..].iter().position(|byte| *byte != 0) {
            at += skip;
            for start in at.saturating_sub(3)..=at {
                let later = RecordHeader::read(&rest[start..]);
                if let Ok(frame) = later
                    && frame.position.index > missing
                    && frame.commit >= missing
                {
                    return Err(format!(
                        "record {missing} can't be read, but record {} shows that it was committed",
                        frame.position
                    ));
                }
            }
            at += 1;
        }
        Ok(())
    }
}
