//! The last applied records in memory, shared by all tails.

use std::{
    collections::VecDeque,
    mem::{size_of, size_of_val},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tierkv_types::{Index, Record, record};

use super::{cursor::Cursor, stretch::Stretch};
use crate::{Effects, locked};

/// Most bytes of records kept. Over it the oldest are dropped, and tails that have not read them
/// read the log's files.
pub(crate) const HISTORY_BYTES: usize = 16 << 20;
/// Bytes of records returned by one read, unless a single record has more. A slow reader keeps
/// at most this much in memory.
pub(crate) const STRETCH_BYTES: usize = 64 << 10;

/// The kept records. Nothing is kept while there are no readers, so a node without watchers has
/// no cost.
#[derive(Debug, Default)]
pub(crate) struct History {
    readers: AtomicUsize,
    kept: Mutex<Kept>,
}

/// Records without gaps, in chunks that never change and are read without a lock.
#[derive(Debug, Default)]
struct Kept {
    chunks: VecDeque<Chunk>,
    bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Chunk {
    /// At least one.
    records: Arc<[Arc<Record>]>,
    bytes: usize,
}

impl Chunk {
    fn first(&self) -> Index {
        self.records[0].position.index
    }

    fn last(&self) -> Index {
        self.records[self.records.len() - 1].position.index
    }
}

/// An estimate of a record's bytes in memory.
fn weight(record: &Record) -> usize {
    size_of::<Record>() + size_of_val(Effects::of(record).changes) + record::encoded_len(record)
}

/// Splits records into chunks of about [`STRETCH_BYTES`]. Keys and values are shared with the
/// memory tier, not copied.
fn chunks(records: &[Arc<Record>]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut rest = records;
    while !rest.is_empty() {
        let mut bytes = 0;
        let length = (rest.iter())
            .take_while(|record| {
                let is_taken = bytes < STRETCH_BYTES;
                bytes += if is_taken { weight(record) } else { 0 };
                is_taken
            })
            .count();
        let (taken, left) = rest.split_at(length);
        let records = taken.into();
        chunks.push(Chunk { records, bytes });
        rest = left;
    }
    chunks
}

impl History {
    /// Adds a reader: records applied from now on are kept.
    pub(crate) fn join(&self) {
        self.readers.fetch_add(1, Ordering::SeqCst);
    }

    /// Removes a reader.
    pub(crate) fn leave(&self) {
        if self.readers.fetch_sub(1, Ordering::SeqCst) == 1 {
            *locked(&self.kept) = Kept::default();
        }
    }

    /// Prepares records that are about to be applied; none without readers.
    pub(crate) fn prepare<R: Clone + Into<Arc<Record>>>(&self, records: &[R]) -> Vec<Chunk> {
        if self.readers.load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        let records: Vec<Arc<Record>> = records.iter().cloned().map(Into::into).collect();
        chunks(&records)
    }

    /// Adds records that were just applied, in order.
    pub(crate) fn push(&self, chunks: Vec<Chunk>) {
        if self.readers.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut kept = locked(&self.kept);
        for chunk in chunks {
            // There is a gap if records were applied without readers.
            let follows =
                (kept.chunks.back()).is_some_and(|last| last.last().next() == chunk.first());
            if !follows {
                *kept = Kept::default();
            }
            kept.bytes += chunk.bytes;
            kept.chunks.push_back(chunk);
        }
        while kept.bytes > HISTORY_BYTES
            && let Some(oldest) = kept.chunks.pop_front()
        {
            kept.bytes -= oldest.bytes;
        }
    }

    /// Some of the records after `index`; `None` if the next one is not kept.
    pub(crate) fn after(&self, index: Index) -> Option<Stretch> {
        let kept = locked(&self.kept);
        if kept.chunks.front()?.first() > index.next() {
            return None;
        }
        let at = kept.chunks.partition_point(|chunk| chunk.last() <= index);
        let mut bytes = 0;
        let chunks: Vec<Arc<[Arc<Record>]>> = (kept.chunks.range(at..))
            .take_while(|chunk| {
                let fits = bytes == 0 || bytes + chunk.bytes <= STRETCH_BYTES;
                bytes += chunk.bytes;
                fits
            })
            .map(|chunk| Arc::clone(&chunk.records))
            .collect();
        Stretch::after(index, chunks)
    }

    /// The cursor of the record of an index, if it is kept.
    pub(crate) fn find(&self, index: Index) -> Option<Cursor> {
        let kept = locked(&self.kept);
        let at = kept.chunks.partition_point(|chunk| chunk.last() < index);
        let chunk = kept.chunks.get(at)?;
        let within = index.0.checked_sub(chunk.first().0)?;
        let record = chunk.records.get(usize::try_from(within).ok()?)?;
        Some(Cursor::of(record))
    }

    /// Bytes of the kept records.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        locked(&self.kept).bytes
    }
}
