//! The rows that store the first index of each epoch.

use std::path::Path;

use bytes::Bytes;
use tierkv_types::{Epoch, EpochTable, Index};

use super::{Row, Table};
use crate::StorageError;

/// A row of [`Table::EPOCHS`] that is malformed or out of order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MalformedEpoch {
    key: Bytes,
}

impl MalformedEpoch {
    /// The error of a reader of the store in `path`.
    pub(crate) fn in_store(&self, path: &Path) -> StorageError {
        StorageError::Damaged {
            file: path.to_owned(),
            place: format!("the row of epoch {}", self.key.escape_ascii()),
            what: "it is not an epoch with its first index, or is out of order".to_owned(),
        }
    }
}

/// The epochs among `rows`, which are in the order of their keys. Rows of other tables are
/// ignored.
///
/// # Errors
/// The first row that is malformed: epochs and first indexes have 8 bytes each and both rise from
/// row to row.
pub(crate) fn from_rows(rows: &[Row]) -> Result<EpochTable, MalformedEpoch> {
    let mut table = EpochTable::default();
    for row in rows.iter().filter(|row| row.table == Table::EPOCHS) {
        let begun = parse(row).map(|(epoch, first)| table.begin(epoch, first));
        if !matches!(begun, Some(Ok(()))) {
            let key = row.key.clone();
            return Err(MalformedEpoch { key });
        }
    }
    Ok(table)
}

/// The row that stores the first index of an epoch.
pub(crate) fn row(epoch: Epoch, first: Index) -> Row {
    Row {
        table: Table::EPOCHS,
        key: Bytes::copy_from_slice(&epoch.0.to_be_bytes()),
        value: Some(Bytes::copy_from_slice(&first.0.to_be_bytes())),
    }
}

fn parse(row: &Row) -> Option<(Epoch, Index)> {
    let epoch = row.key[..].try_into().ok()?;
    let first = row.value.as_ref()?[..].try_into().ok()?;
    Some((
        Epoch(u64::from_be_bytes(epoch)),
        Index(u64::from_be_bytes(first)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_come_back_from_their_rows() {
        let mut table = EpochTable::default();
        assert_eq!(table.last(), None);
        let mut rows = Vec::new();
        for (epoch, first) in [(Epoch(1), Index(1)), (Epoch(300), Index(1 << 40))] {
            table.begin(epoch, first).unwrap();
            rows.push(row(epoch, first));
        }
        rows.push(Row {
            table: Table::from_number(200),
            key: Bytes::from_static(b"other"),
            value: None,
        });
        assert_eq!(from_rows(&rows), Ok(table.clone()));
        assert_eq!(table.last(), Some((Epoch(300), Index(1 << 40))));
        let all = [(Epoch(1), Index(1)), (Epoch(300), Index(1 << 40))];
        assert_eq!(table.iter().collect::<Vec<_>>(), all);
    }

    #[test]
    fn malformed_rows_are_refused() {
        let sound = row(Epoch(3), Index(7));
        let with_key = |key: &'static [u8]| Row {
            key: Bytes::from_static(key),
            ..sound.clone()
        };
        let with_value = |value: Option<&'static [u8]>| Row {
            value: value.map(Bytes::from_static),
            ..sound.clone()
        };
        let malformed = [
            vec![with_key(b"")],
            vec![with_key(&[0; 9])],
            vec![with_value(None)],
            vec![with_value(Some(&[0; 7]))],
            vec![sound.clone(), sound.clone()],
            vec![sound.clone(), row(Epoch(2), Index(8))],
            vec![sound.clone(), row(Epoch(4), Index(7))],
        ];
        for rows in malformed {
            let refused = from_rows(&rows).unwrap_err();
            assert_eq!(refused.key, rows[rows.len() - 1].key);
            let words = refused.in_store(Path::new("/n/store")).to_string();
            assert!(words.contains("the row of epoch"), "{words}");
        }
    }
}
