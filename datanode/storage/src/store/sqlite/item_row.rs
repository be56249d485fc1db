//! An item's row, as each schema keeps it.

use bytes::Bytes;
use sqlx::{FromRow, sqlite::SqliteRow};
use tierkv_types::{Slot, Version};

use crate::{Item, ItemHash};

/// The columns of the newest schema, in the order in which [`ItemRow::read`] takes them.
///
/// The value is the last one: who reads the others alone does not read the pages that a
/// long value goes on in.
pub(super) const COLUMNS: &str = "key, slot, version, expires, hash, value";

/// The columns of the schemas 1 to 3, in the order in which [`ItemRow::read_earlier`] takes
/// them.
pub(super) const EARLIER_COLUMNS: &str = "key, version, expires, value, checksum";

/// What a row of the table `item` holds.
#[derive(Debug)]
pub(super) struct ItemRow {
    pub(super) key: Vec<u8>,
    pub(super) item: Item,
    /// Whether all of it is as it was written.
    pub(super) is_sound: bool,
}

impl ItemRow {
    /// Takes a row of [`COLUMNS`].
    pub(super) fn read(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        type Columns = (Vec<u8>, i64, i64, Option<i64>, Vec<u8>, Vec<u8>);
        let (key, slot, version, expires, hash, value) = Columns::from_row(row)?;
        let item = item(version, expires, value);
        let is_sound = slot == i64::from(Slot::of(&key).number())
            && hash == ItemHash::of(&key, &item).as_bytes();
        Ok(Self {
            key,
            item,
            is_sound,
        })
    }

    /// Takes a row of [`EARLIER_COLUMNS`].
    pub(super) fn read_earlier(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        type Columns = (Vec<u8>, i64, Option<i64>, Vec<u8>, i64);
        let (key, version, expires, value, checksum) = Columns::from_row(row)?;
        let item = item(version, expires, value);
        let is_sound = checksum == i64::from(earlier_checksum(&key, &item));
        Ok(Self {
            key,
            item,
            is_sound,
        })
    }

    /// The hash that the row has in the newest schema. A damaged row gets one that does not
    /// match: it must not vouch for what is damaged.
    pub(super) fn hash(&self) -> [u8; 16] {
        let hash = *ItemHash::of(&self.key, &self.item).as_bytes();
        match self.is_sound {
            true => hash,
            false => hash.map(|byte| !byte),
        }
    }

    /// About how much memory it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.key.len() + self.item.value.len()
    }
}

fn item(version: i64, expires: Option<i64>, value: Vec<u8>) -> Item {
    Item {
        version: Version::from_bits(version.cast_unsigned()),
        expires: expires.map(|expires| Version::from_bits(expires.cast_unsigned())),
        value: Bytes::from(value),
    }
}

/// The checksum of the schemas 1 to 3: the CRC-32C of key, version, expiry and value.
pub(super) fn earlier_checksum(key: &[u8], item: &Item) -> u32 {
    let mut checksum = crc32c::crc32c(key);
    checksum = crc32c::crc32c_append(checksum, &item.version.to_bits().to_le_bytes());
    checksum = match item.expires {
        Some(expires) => {
            let checksum = crc32c::crc32c_append(checksum, &[1]);
            crc32c::crc32c_append(checksum, &expires.to_bits().to_le_bytes())
        }
        None => crc32c::crc32c_append(checksum, &[0]),
    };
    crc32c::crc32c_append(checksum, &item.value)
}
