//! The row that stores which slots the cluster owns.

use std::path::Path;

use bytes::Bytes;
use tierkv_types::OwnedSlots;

use super::table::{Row, Table};
use crate::StorageError;

/// The key of the only row.
const KEY: &[u8] = b"owned";

/// The row that stores these slots.
pub(crate) fn row(owned: &OwnedSlots) -> Row {
    let mut value = Vec::with_capacity(owned.encoded_len());
    owned.encode(&mut value);
    Row {
        table: Table::SLOTS,
        key: Bytes::from_static(KEY),
        value: Some(value.into()),
    }
}

/// The slots among the rows of the store in `path`; none before the first record about them.
///
/// # Errors
/// `Damaged` if the row has anything else.
pub(crate) fn from_rows(rows: &[Row], path: &Path) -> Result<OwnedSlots, StorageError> {
    let mut owned = OwnedSlots::default();
    for row in rows.iter().filter(|row| row.table == Table::SLOTS) {
        let value = row.value.as_deref().filter(|_| row.key == KEY);
        let decoded = value.and_then(|value| OwnedSlots::decode(value).ok());
        owned = decoded.ok_or_else(|| StorageError::Damaged {
            file: path.to_owned(),
            place: format!("the row of slots {}", row.key.escape_ascii()),
            what: "it is not the slots of a cluster".to_owned(),
        })?;
    }
    Ok(owned)
}

#[cfg(test)]
mod tests {
    use tierkv_types::{SlotRun, SlotTable};

    use super::*;

    #[test]
    fn they_come_back_from_their_row_and_damage_is_found() {
        let path = Path::new("store");
        assert_eq!(from_rows(&[], path).unwrap(), OwnedSlots::default());
        let run = SlotRun {
            first: 9,
            count: 3,
            revision: 4,
        };
        let owned = OwnedSlots {
            version: 5,
            slots: SlotTable::from_runs(vec![run]).unwrap(),
        };
        let row = row(&owned);
        assert_eq!(from_rows(std::slice::from_ref(&row), path).unwrap(), owned);
        let other = Row {
            key: Bytes::from_static(b"x"),
            ..row.clone()
        };
        let cut = Row {
            value: row.value.as_ref().map(|value| value.slice(1..)),
            ..row
        };
        for damaged in [other, cut] {
            let read = from_rows(&[damaged], path);
            assert!(
                matches!(read, Err(StorageError::Damaged { .. })),
                "{read:?}"
            );
        }
    }
}
