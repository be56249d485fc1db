//! Reads all rows of items, page by page in bounded memory.

use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::item_row::{COLUMNS, EARLIER_COLUMNS, ItemRow};

/// Most rows of a page.
const PAGE_ROWS: usize = 1_000;
/// Bytes of rows after which a page ends.
const PAGE_BYTES: usize = 4 << 20;

/// The columns of the rows of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ItemFormat {
    /// Those of the schemas 1 to 3.
    Earlier,
    /// Those of the newest schema.
    Newest,
}

/// Reads all rows of the table `item` in key order.
#[derive(Debug)]
pub(super) struct ItemPages {
    statement: String,
    format: ItemFormat,
    after: Vec<u8>,
    is_at_end: bool,
}

impl ItemPages {
    pub(super) fn new(format: ItemFormat) -> Self {
        let columns = match format {
            ItemFormat::Earlier => EARLIER_COLUMNS,
            ItemFormat::Newest => COLUMNS,
        };
        Self {
            statement: format!(
                "SELECT {columns} FROM item WHERE key > ? ORDER BY key LIMIT {PAGE_ROWS}"
            ),
            format,
            after: Vec::new(),
            is_at_end: false,
        }
    }

    /// The next rows; none at the end.
    pub(super) async fn next(
        &mut self,
        connection: &mut SqliteConnection,
    ) -> Result<Vec<ItemRow>, sqlx::Error> {
        let mut page = Vec::new();
        if self.is_at_end {
            return Ok(page);
        }
        // The text is made of constants.
        let query = sqlx::query(AssertSqlSafe(self.statement.as_str()));
        let mut rows = query.bind(&self.after).fetch(connection);
        let mut bytes = 0;
        while bytes < PAGE_BYTES {
            let Some(row) = rows.try_next().await? else {
                self.is_at_end = page.len() < PAGE_ROWS;
                break;
            };
            let row = match self.format {
                ItemFormat::Earlier => ItemRow::read_earlier(&row)?,
                ItemFormat::Newest => ItemRow::read(&row)?,
            };
            bytes += row.bytes();
            page.push(row);
        }
        drop(rows);
        if let Some(last) = page.last() {
            self.after.clone_from(&last.key);
        }
        Ok(page)
    }
}
