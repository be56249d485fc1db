//! [`Stretch`]: records returned by one read.

use std::sync::Arc;

use tierkv_types::{Index, Record};

use super::cursor::Cursor;

/// Some consecutive records.
#[derive(Debug)]
pub struct Stretch {
    chunks: Vec<Arc<[Arc<Record>]>>,
    /// Records at the start of the first chunk to skip.
    skip: usize,
    pub(super) end: Cursor,
}

impl Stretch {
    /// The records after `index` in `chunks`, whose first one holds the next record; `None` if
    /// there are none.
    pub(super) fn after(index: Index, chunks: Vec<Arc<[Arc<Record>]>>) -> Option<Self> {
        let skip = index.next().0 - chunks.first()?.first()?.position.index.0;
        Some(Self {
            skip: usize::try_from(skip).ok()?,
            end: Cursor::of(chunks.last()?.last()?),
            chunks,
        })
    }

    pub(super) fn whole(records: Vec<Record>) -> Option<Self> {
        let end = Cursor::of(records.last()?);
        Some(Self {
            chunks: vec![records.into_iter().map(Arc::new).collect()],
            skip: 0,
            end,
        })
    }

    /// The records, in order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.shared().map(|record| &**record)
    }

    /// The records, in order, to share.
    pub fn shared(&self) -> impl Iterator<Item = &Arc<Record>> {
        let records = self.chunks.iter().flat_map(|chunk| chunk.iter());
        records.skip(self.skip)
    }
}
