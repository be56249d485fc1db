//! [`WrittenLog`]: the log that an installation writes.

use std::sync::Arc;

use tierkv_types::{EpochTable, LogId, Position, Record, Version, record};

use super::unsound;
use crate::{
    Cursor, StorageError,
    log::{LogFiles, LogPlace, SEGMENT_HEADER_BYTES, SegmentHeader, in_allocated_space},
    meters::MAX_RECORD,
    node_state::NodeState,
    recovery,
    state::Progress,
    store::StoreMeta,
};

/// Encoded bytes that are written together.
const WRITE_BYTES: usize = 1 << 20;

/// The epochs of a written log.
pub(super) struct LogEpochs {
    /// The record before the first one.
    pub(super) from: Position,
    /// The epochs that begin in it.
    pub(super) begun: EpochTable,
}

/// A log that is being written from its beginning. A segment is synced when it is full.
pub(super) struct WrittenLog {
    place: LogPlace,
    files: LogFiles,
    /// The record before the first one.
    from: Position,
    progress: Progress,
    encoded: Vec<u8>,
}

impl WrittenLog {
    /// Creates a log with a new id, which begins after `from`. Blocks.
    pub(super) fn begin(
        mut place: LogPlace,
        node_state: &NodeState,
        from: Position,
    ) -> Result<Self, StorageError> {
        let before = StoreMeta {
            applied: from,
            ..StoreMeta::default()
        };
        let log = recovery::begin(&mut place, node_state, &before)?;
        Ok(Self {
            progress: log.progress.clone(),
            files: log.open(&place)?,
            place,
            from,
            encoded: Vec::new(),
        })
    }

    pub(super) const fn log_id(&self) -> LogId {
        self.place.log_id
    }

    /// Writes the next records, none after `last`. Blocks.
    pub(super) fn add(
        &mut self,
        records: &[Arc<Record>],
        last: Position,
    ) -> Result<(), StorageError> {
        for record in records {
            let (position, clock) = (self.progress.position, self.progress.clock);
            let advanced = self.progress.advance(record.position, record.version);
            advanced.map_err(|broken| unsound(format!("in its log, {broken}")))?;
            if record.position.index > last.index {
                let beyond = record.position;
                return Err(unsound(format!(
                    "it ends with record {last}, but its log has record {beyond}"
                )));
            }
            let bytes = record::encoded_len(record) as u64;
            let limit = self.place.segment_bytes - SEGMENT_HEADER_BYTES;
            if bytes > limit {
                return Err(StorageError::Exhausted {
                    limit: MAX_RECORD,
                    bytes: limit,
                });
            }
            let end = self.files.offset + self.encoded.len() as u64;
            if end + bytes > self.place.segment_bytes {
                self.write()?;
                self.rotate(position, clock)?;
            }
            record::encode(record, &mut self.encoded);
            if self.encoded.len() >= WRITE_BYTES {
                self.write()?;
            }
        }
        self.write()
    }

    fn write(&mut self) -> Result<(), StorageError> {
        let active = &self.files.active;
        let written = active.file.write_at(self.files.offset, &self.encoded);
        written.map_err(|error| in_allocated_space("write", &active.path, error))?;
        self.files.offset += self.encoded.len() as u64;
        self.encoded.clear();
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        let active = &self.files.active;
        let synced = self.place.flush(&*active.file);
        synced.map_err(|error| in_allocated_space("sync", &active.path, error))
    }

    /// Continues in a new segment, after the record at `position`, whose version is `clock`.
    fn rotate(&mut self, position: Position, clock: Version) -> Result<(), StorageError> {
        self.sync()?;
        let header = SegmentHeader {
            log_id: self.place.log_id,
            number: self.files.active.header.number + 1,
            first: position.index.next(),
            previous_epoch: position.epoch,
            clock,
        };
        let spare = self.place.set_aside(&mut None)?;
        self.files.active = self.place.begin(spare, header, &*self.files.names)?;
        self.files.offset = SEGMENT_HEADER_BYTES;
        Ok(())
    }

    /// Syncs the log, and checks that it ends with the record `cut`. Blocks.
    pub(super) fn finish(self, cut: Cursor) -> Result<LogEpochs, StorageError> {
        self.sync()?;
        let Progress {
            position,
            clock,
            epochs,
        } = self.progress;
        // A log without records has no version to compare.
        let is_whole = position == cut.position && (position == self.from || clock == cut.version);
        if !is_whole {
            return Err(unsound(format!(
                "it ends with record {} of version {}, but its log with record {position} of \
                 version {}",
                cut.position,
                cut.version.to_bits(),
                clock.to_bits()
            )));
        }
        Ok(LogEpochs {
            from: self.from,
            begun: epochs,
        })
    }
}
