//! What a start finds in the log's files: the records, or why it must not start.
//!
//! A crash may tear what was being written, and only that: the last batch. So the log
//! ends where a record is torn or was never begun, unless something shows that more had
//! been acknowledged there (LOG-TORN): a later segment, or a later sound record that
//! carries a commit index at or above the place. Then it is damage and refused.
//!
//! What the store holds needs no reading: of segments that lie before that, and are only
//! kept for a while, a start looks at the headers alone.

use std::{cmp::Ordering, path::Path, sync::Arc};

use bytes::Bytes;
use tierkv_types::{
    Epoch, Index, LogId, Position, Record, Version,
    record::{self, DecodeError, RecordHeader},
};

use super::segment::{
    ClosedSegment, LogFiles, LogPlace, SEGMENT_HEADER_BYTES, Segment, SegmentHeader,
    in_allocated_space,
};
use crate::{StorageError, state::Progress};

/// The least that a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;
#[allow(clippy::cast_possible_truncation)]
const HEADER_BYTES: usize = SEGMENT_HEADER_BYTES as usize;

/// What a log's files hold.
#[derive(Clone, Debug)]
pub(crate) struct LogFound {
    pub(crate) log_id: LogId,
    /// In order, none missing; at least one.
    pub(crate) segments: Vec<ClosedSegment>,
    /// Where the next record goes in the last segment.
    pub(crate) offset: u64,
    /// Where the records that were read begin: the position before the first one.
    pub(crate) before: Position,
    /// The last record, the highest version that one carries, and each epoch's first index
    /// as far as it is in these files.
    pub(crate) progress: Progress,
    /// The highest commit index that a record read carries.
    pub(crate) commit: Index,
    /// The records after the index that the caller holds already.
    pub(crate) tail: Vec<Arc<Record>>,
}

/// What is done with each record after the index that a reader holds already.
pub(crate) type Keep<'a> = dyn FnMut(Record) -> Result<(), StorageError> + 'a;

/// Reads the log in `place`, cuts a torn end off, and keeps the records after `applied`.
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

/// Reads the log in `place` as a start does and changes nothing. Answers what it holds and
/// the bytes of its last segment; `None` if there is no segment at all.
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
    // The one that holds the last record applied, to see that the store agrees with it.
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

/// Reads the sound records of a log that a start refuses, from the segment that continues
/// what a store up to `applied` holds, up to the first place that is not sound; changes
/// nothing. A segment whose header is damaged counts as one of the log `expected` if its
/// records fit. `None` if no segment continues the store.
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
            // Where none can be made of it, `join` misses it.
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
            // What stands behind the end is for the caller to judge.
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

/// Whether the length word at `at` was never written, as far as it is in the sector in
/// which it begins. Of a batch that the power cut, that sector may be missing and the next
/// one there; then the whole record but its length is.
fn lacks_the_end_of_a_sector(at: usize, rest: &[u8]) -> bool {
    const LENGTH_WORD_BYTES: usize = 4;
    let left = SECTOR_BYTES - at % SECTOR_BYTES;
    left <= LENGTH_WORD_BYTES && rest.iter().take(left).all(|byte| *byte == 0)
}

/// Stands for the epoch before a segment whose header can't be read.
const UNKNOWN_EPOCH: Epoch = Epoch(u64::MAX);

/// A segment whose header is damaged, with the one that its first record lets it have.
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
        // What the store holds already is not looked at again.
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
    Ok(Segment { path, file, header })
}

/// What a file holds, whatever that is.
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

/// Turns everything behind the last sound record back into zeros. Left-overs of a torn
/// batch could otherwise line up behind a record written later and be taken for its
/// successors.
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
    /// Opens the log to be written to.
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

    /// Makes durable what an earlier process of this boot may have left to the system.
    pub(crate) fn sync(&self, place: &LogPlace) -> Result<(), StorageError> {
        for ClosedSegment { path, .. } in &self.segments {
            let file = place.disk.open(path);
            let file = file.map_err(|error| StorageError::io("open", path, error))?;
            place
                .flush(&*file)
                .map_err(|error| in_allocated_space("sync", path, error))?;
        }
        place.flush_names()
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
            // Nothing was read of one that was skipped but its header.
            let continues = match self.offset {
                0 => last.header.previous() < header.previous(),
                _ => self.last() == header.previous(),
            };
            is_next && continues
        });
        if follows {
            return Ok(());
        }
        // The one before was whole and durable when this one was begun, so what is
        // missing was lost from there.
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

    /// Reads a segment's records; `offset` is where they end, also after an error.
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
                        // A buffer of its own, so that one value kept in memory does not
                        // keep a whole segment there.
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
                    // What a later segment says about an early end is judged by `join`.
                    if is_last {
                        self.check_end(at, &bytes[at..]).map_err(damaged)?;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Takes a sound record in, if it is the next one.
    fn take(&mut self, frame: &RecordHeader) -> Result<(), String> {
        let advanced = self.progress.advance(frame.position, frame.version);
        advanced.map_err(|broken| broken.to_string())?;
        self.commit = self.commit.max(frame.commit);
        Ok(())
    }

    /// Whether the log may end at `at`, before `rest`, which does not begin with a record.
    fn check_end(&self, at: usize, rest: &[u8]) -> Result<(), String> {
        let missing = self.last().index.next();
        if self.commit >= missing {
            return Err(format!(
                "record {missing} is missing, but an earlier one says it was committed"
            ));
        }
        if !lacks_the_end_of_a_sector(at, rest) && record::is_whole_but_for_its_length(rest) {
            return Err(format!("the length of record {missing} is damaged"));
        }
        let mut at = 0;
        // Zeros hold no record; a length word begins with a byte that is none, or at most
        // three bytes later.
        while let Some(skip) = rest[at..].iter().position(|byte| *byte != 0) {
            at += skip;
            for start in at.saturating_sub(3)..=at {
                let later = RecordHeader::read(&rest[start..]);
                if let Ok(frame) = later
                    && frame.position.index > missing
                    && frame.commit >= missing
                {
                    return Err(format!(
                        "record {missing} can't be read, but record {} says it was committed",
                        frame.position
                    ));
                }
            }
            at += 1;
        }
        Ok(())
    }
}
