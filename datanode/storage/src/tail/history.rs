//! The records applied last, in memory, shared by all who follow the log.

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

/// Bytes of records that are kept; over it the oldest go, and whoever has not read them
/// reads the log's files.
pub(crate) const HISTORY_BYTES: usize = 16 << 20;
/// Bytes of records that are handed out together, unless a single record has more: this
/// much of them a reader holds on to while it does not go on.
pub(crate) const STRETCH_BYTES: usize = 64 << 10;

/// What is kept. It is kept only while there is somebody to read it: a node without
/// watchers pays for nothing.
#[derive(Debug, Default)]
pub(crate) struct History {
    readers: AtomicUsize,
    kept: Mutex<Kept>,
}

/// Records without a gap, in chunks that never change and are read without a lock.
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

/// About what a record takes in memory.
fn weight(record: &Record) -> usize {
    size_of::<Record>() + size_of_val(Effects::of(record).changes) + record::encoded_len(record)
}

/// Parts records into chunks of about [`STRETCH_BYTES`]. Their keys and values are shared
/// with the memory tier, not copied.
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
    /// Takes note of one more reader: what is applied from now on is kept.
    pub(crate) fn join(&self) {
        self.readers.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes note of one reader less.
    pub(crate) fn leave(&self) {
        if self.readers.fetch_sub(1, Ordering::SeqCst) == 1 {
            *locked(&self.kept) = Kept::default();
        }
    }

    /// Prepares records that are about to be applied; none while nobody reads.
    pub(crate) fn prepare<R: Clone + Into<Arc<Record>>>(&self, records: &[R]) -> Vec<Chunk> {
        if self.readers.load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        let records: Vec<Arc<Record>> = records.iter().cloned().map(Into::into).collect();
        chunks(&records)
    }

    /// Takes in records that were just applied, in order.
    pub(crate) fn push(&self, chunks: Vec<Chunk>) {
        if self.readers.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut kept = locked(&self.kept);
        for chunk in chunks {
            // Nothing was kept while nobody read, or while the last reader left.
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

    /// Where the record of an index stands, if it is kept.
    pub(crate) fn find(&self, index: Index) -> Option<Cursor> {
        let kept = locked(&self.kept);
        let at = kept.chunks.partition_point(|chunk| chunk.last() < index);
        let chunk = kept.chunks.get(at)?;
        let within = index.0.checked_sub(chunk.first().0)?;
        let record = chunk.records.get(usize::try_from(within).ok()?)?;
        Some(Cursor::of(record))
    }

    /// Bytes that are kept.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        locked(&self.kept).bytes
    }
}
