//! What a replica and a node that joins its cluster need of the log (REP-JOIN).

use std::sync::Arc;

use tierkv_types::Position;

use crate::{Storage, Tail, TailError};

impl Storage {
    /// Follows the log after `after`, an applied record of it, named by its position alone: for a
    /// master that sends its log. The default position is the log's beginning. It returns applied
    /// records only; the sequencer has those that are not.
    ///
    /// If the record itself has left the log and only those after it are there, the version of the
    /// tail's first cursor may be unknown, 0.
    ///
    /// # Errors
    /// `Unknown` if the log has another record of that index, or none that is applied; `Trimmed` if
    /// the records after it left the log; failures of the disk.
    pub async fn tail_after(&self, after: Position) -> Result<Tail, TailError> {
        Tail::open_after(Arc::clone(&self.core.tails), after).await
    }
}
