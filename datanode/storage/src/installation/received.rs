//! [`Received`]: checks the pieces of a snapshot as they come.

use bytes::Bytes;
use tierkv_types::ItemKey;

use super::{unsound, written_log::LogEpochs};
use crate::{
    Cursor, Row, StorageError, Table,
    piece::{Kind, Piece, Totals},
    state::{epochs_from_rows, slots_from_rows},
};

/// What was received of a snapshot.
#[derive(Debug, Default)]
pub(super) struct Received {
    totals: Totals,
    /// The last piece's kind.
    last: Option<Kind>,
    last_key: Option<ItemKey>,
    last_row: Option<(Table, Bytes)>,
    /// The rows that are compared with the rest at the end.
    rows: Vec<Row>,
    /// What the sender counted.
    end: Option<Totals>,
}

impl Received {
    /// Decodes the next piece.
    ///
    /// # Errors
    /// `UnsoundSnapshot` if it is no piece or out of order.
    pub(super) fn check(&mut self, bytes: &Bytes) -> Result<Piece, StorageError> {
        let piece = Piece::decode(bytes);
        let piece = piece.ok_or_else(|| unsound("a piece of it can't be read"))?;
        let kind = piece.kind();
        if self.last.is_some_and(|last| kind < last) || self.end.is_some() {
            return Err(unsound(format!("a piece of {kind:?} is out of order")));
        }
        self.last = Some(kind);
        match &piece {
            Piece::Entries(entries) => {
                let mut last = self.last_key.as_ref();
                for (key, entry) in entries {
                    if last.is_some_and(|last| last >= key) {
                        let key = key.as_bytes().escape_ascii();
                        return Err(unsound(format!("key {key} is out of order")));
                    }
                    last = Some(key);
                    self.totals.entry(entry);
                }
                // A copy, so that it does not keep the memory of the piece.
                self.last_key = last.map(ItemKey::detached);
            }
            Piece::Outcomes(outcomes) => self.totals.outcomes += outcomes.len() as u64,
            Piece::Rows(rows) => rows.iter().try_for_each(|row| self.row(row))?,
            Piece::End(end) => {
                self.end = Some(*end);
                return Ok(piece);
            }
        }
        self.totals.digest(bytes);
        Ok(piece)
    }

    fn row(&mut self, row: &Row) -> Result<(), StorageError> {
        let name = (row.table, row.key.clone());
        let is_next = self.last_row.as_ref().is_none_or(|last| *last < name);
        if !is_next || row.table == Table::INSTALLING {
            let (table, key) = (row.table.number(), row.key.escape_ascii());
            return Err(unsound(format!(
                "the row of key {key} in table {table} does not belong there"
            )));
        }
        self.last_row = Some(name);
        self.totals.rows += 1;
        if matches!(row.table, Table::EPOCHS | Table::SLOTS) {
            self.rows.push(row.clone());
        }
        Ok(())
    }

    /// Checks that everything was received, and that it fits the record `cut` with which the
    /// snapshot ends, and the log.
    ///
    /// # Errors
    /// `UnsoundSnapshot` with what is missing or does not fit.
    pub(super) fn finish(&self, cut: Cursor, log: &LogEpochs) -> Result<(), StorageError> {
        let end = self.end.ok_or_else(|| unsound("its end is missing"))?;
        if end != self.totals {
            let received = self.totals;
            return Err(unsound(format!(
                "its sender counted {end:?}, received were {received:?}"
            )));
        }
        let epochs = epochs_from_rows(&self.rows)
            .map_err(|_| unsound("its rows of epochs are out of order"))?;
        slots_from_rows(&self.rows, "the snapshot".as_ref())
            .map_err(|_| unsound("its row of slots is not the slots of a cluster"))?;
        let position = cut.position;
        let (epoch, first) = epochs.last().unwrap_or_default();
        if epoch != position.epoch || first > position.index {
            return Err(unsound(format!(
                "it ends with record {position}, but its last epoch {epoch} begins with record \
                 {first}"
            )));
        }
        let before = epochs.of(log.from.index).unwrap_or_default();
        if before != log.from.epoch {
            return Err(unsound(format!(
                "its log begins after record {}, which is of epoch {before} by its rows",
                log.from
            )));
        }
        for (epoch, first) in log.begun.iter() {
            if !epochs.iter().any(|begun| begun == (epoch, first)) {
                return Err(unsound(format!(
                    "epoch {epoch} begins with record {first} in its log, but not in its rows"
                )));
            }
        }
        Ok(())
    }
}
