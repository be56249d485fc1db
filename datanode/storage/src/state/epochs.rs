//! Each epoch's first index: what tells two logs of one cluster apart.

use bytes::Bytes;
use tierkv_types::{Epoch, Index};

use super::table::{Row, Table};

/// The first index of each epoch that wrote a record, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochTable(Vec<(Epoch, Index)>);

impl EpochTable {
    /// The table in `rows`, whatever other tables are in it.
    ///
    /// # Errors
    /// In words, if a row is none of this table's or out of order.
    pub(crate) fn from_rows(rows: &[Row]) -> Result<Self, &'static str> {
        let mut table = Self::default();
        let rows = rows.iter().filter(|row| row.table == Table::EPOCHS);
        for row in rows {
            let number =
                |bytes: Option<&Bytes>| Some(u64::from_be_bytes(bytes?[..].try_into().ok()?));
            let epoch = number(Some(&row.key)).map(Epoch);
            let first = number(row.value.as_ref()).map(Index);
            let (Some(epoch), Some(first)) = (epoch, first) else {
                return Err("a row of the table of epochs is of another length");
            };
            if table
                .last()
                .is_some_and(|(last, begun)| last >= epoch || begun >= first)
            {
                return Err("the rows of the table of epochs are out of order");
            }
            table.0.push((epoch, first));
        }
        Ok(table)
    }

    /// Takes in that `epoch`, above all before it, begins with the record `first`; answers
    /// the row to be stored.
    pub(crate) fn begin(&mut self, epoch: Epoch, first: Index) -> Row {
        self.0.push((epoch, first));
        Row {
            table: Table::EPOCHS,
            key: Bytes::copy_from_slice(&epoch.0.to_be_bytes()),
            value: Some(Bytes::copy_from_slice(&first.0.to_be_bytes())),
        }
    }

    /// The epoch that began last, and its first index.
    pub(crate) fn last(&self) -> Option<(Epoch, Index)> {
        self.0.last().copied()
    }

    /// Every epoch with its first index, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Epoch, Index)> {
        self.0.iter().copied()
    }

    /// The epoch that wrote the record `index`, if it began in this table.
    pub(crate) fn of(&self, index: Index) -> Option<Epoch> {
        let begun = self.iter().rev().find(|(_, first)| *first <= index);
        begun.map(|(epoch, _)| epoch)
    }
}

impl FromIterator<(Epoch, Index)> for EpochTable {
    fn from_iter<I: IntoIterator<Item = (Epoch, Index)>>(epochs: I) -> Self {
        Self(epochs.into_iter().collect())
    }
}
