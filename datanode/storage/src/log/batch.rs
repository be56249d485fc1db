//! [`Batch`]: records that are written together.

use std::sync::Arc;

use tierkv_types::{Index, Record, record};

/// Records to be written together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) records: Vec<Arc<Record>>,
    /// Their encoded bytes.
    pub(super) bytes: u64,
}

impl Batch {
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.bytes = 0;
    }

    /// Moves the records up to `last` into another batch, which is empty; returns whether there
    /// are any.
    pub(super) fn split_up_to(&mut self, last: Index, into: &mut Self) -> bool {
        let count = (self.records).partition_point(|record| record.position.index <= last);
        into.records.extend(self.records.drain(..count));
        let bytes = into
            .records
            .iter()
            .map(|record| record::encoded_len(record));
        into.bytes = bytes.sum::<usize>() as u64;
        self.bytes -= into.bytes;
        count > 0
    }
}
