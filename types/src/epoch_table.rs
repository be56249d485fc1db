//! [`EpochTable`]: where each epoch begins in a log.

use crate::replication::{Epoch, Index, Position};

/// Each epoch of a log with the index of its first record, in their order. Records are numbered
/// without gaps, so the table and the log's end give the epoch of every record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochTable(Vec<(Epoch, Index)>);

/// An epoch does not follow the last one: epochs and first indexes both have to rise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("epoch {epoch} from record {first} on does not follow the epochs before it")]
pub struct EpochOutOfOrder {
    /// The epoch.
    pub epoch: Epoch,
    /// Its first record.
    pub first: Index,
}

impl EpochTable {
    /// A table of these epochs.
    ///
    /// # Errors
    /// [`EpochOutOfOrder`] for the first that does not follow the one before.
    pub fn from_epochs(
        epochs: impl IntoIterator<Item = (Epoch, Index)>,
    ) -> Result<Self, EpochOutOfOrder> {
        let mut table = Self::default();
        for (epoch, first) in epochs {
            table.begin(epoch, first)?;
        }
        Ok(table)
    }

    /// Adds an epoch that begins with the record `first`.
    ///
    /// # Errors
    /// [`EpochOutOfOrder`] if it does not follow the last one; nothing is changed then.
    pub fn begin(&mut self, epoch: Epoch, first: Index) -> Result<(), EpochOutOfOrder> {
        let follows = |last: (Epoch, Index)| epoch > last.0 && first > last.1;
        if !self.last().is_none_or(follows) {
            return Err(EpochOutOfOrder { epoch, first });
        }
        self.0.push((epoch, first));
        Ok(())
    }

    /// Each epoch with its first index.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Epoch, Index)> {
        self.0.iter().copied()
    }

    /// The epoch of the record `index`, which must not be after the log's end; `None` before the
    /// first epoch.
    #[must_use]
    pub fn of(&self, index: Index) -> Option<Epoch> {
        let begun = self.0.partition_point(|(_, first)| *first <= index);
        Some(self.0[begun.checked_sub(1)?].0)
    }

    /// The position of the record `index`, which must not be after the log's end. The default
    /// position is the beginning of every log.
    #[must_use]
    pub fn position(&self, index: Index) -> Position {
        self.of(index)
            .map(|epoch| Position { epoch, index })
            .unwrap_or_default()
    }

    /// The last epoch with its first index, if there is any.
    #[must_use]
    pub fn last(&self) -> Option<(Epoch, Index)> {
        self.0.last().copied()
    }

    /// Removes the epochs that begin after `last`, which becomes the log's last record.
    pub fn truncate(&mut self, last: Index) {
        self.0.retain(|(_, first)| *first <= last);
    }

    /// The last `count` epochs that begin at `index` or before, in their order.
    #[must_use]
    pub fn before(&self, index: Index, count: usize) -> Vec<(Epoch, Index)> {
        let end = self.0.partition_point(|(_, first)| *first <= index);
        self.0[end.saturating_sub(count)..end].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(epochs: &[(u64, u64)]) -> EpochTable {
        let epochs = epochs.iter();
        let epochs = epochs.map(|(epoch, first)| (Epoch(*epoch), Index(*first)));
        EpochTable::from_epochs(epochs).unwrap()
    }

    #[test]
    fn each_record_has_the_epoch_that_began_last() {
        let table = table(&[(1, 1), (4, 7), (9, 8)]);
        let epochs = [0, 1, 6, 7, 8, 20].map(|index| table.of(Index(index)).map(|epoch| epoch.0));
        assert_eq!(epochs, [None, Some(1), Some(1), Some(4), Some(9), Some(9)]);
        assert_eq!(table.position(Index(0)), Position::default());
        assert_eq!(table.position(Index(7)).epoch, Epoch(4));
        assert_eq!(table.last(), Some((Epoch(9), Index(8))));
    }

    #[test]
    fn a_cut_removes_the_epochs_after_it() {
        let mut cut = table(&[(1, 1), (4, 7), (9, 8)]);
        cut.truncate(Index(7));
        assert_eq!(cut, table(&[(1, 1), (4, 7)]));
        cut.truncate(Index(6));
        assert_eq!(cut, table(&[(1, 1)]));
    }

    #[test]
    fn the_last_epochs_before_a_record() {
        let table = table(&[(1, 1), (4, 7), (9, 8)]);
        let pairs = |index, count| table.before(Index(index), count);
        assert_eq!(pairs(7, 1), [(Epoch(4), Index(7))]);
        assert_eq!(pairs(100, 9).len(), 3);
        assert_eq!(pairs(0, 9), []);
    }

    #[test]
    fn epochs_and_first_records_rise() {
        let mut table = table(&[(2, 3)]);
        for (epoch, first) in [(2, 4), (1, 4), (3, 3), (3, 2)] {
            assert!(table.begin(Epoch(epoch), Index(first)).is_err());
        }
        assert_eq!(table.last(), Some((Epoch(2), Index(3))));
    }
}
