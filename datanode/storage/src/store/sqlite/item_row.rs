//! An item's row in each schema.

use bytes::Bytes;
use sqlx::{FromRow, sqlite::SqliteRow};
use tierkv_types::{Slot, Version};

use crate::{Item, ItemHash};

/// The columns of the newest schema, in the order of [`ItemRow::read`].
///
/// The value is the last one, so that a read of only the others does not read the overflow
/// pages of a long value.
pub(super) const COLUMNS: &str = "key, slot, version, expires, hash, value";

/// The columns of the schemas 1 to 3, in the order of [`ItemRow::read_earlier`].
pub(super) const EARLIER_COLUMNS: &str = "key, version, expires, value, checksum";

/// The content of a row of the table `item`.
#[derive(Debug)]
pub(super) struct ItemRow {
    pub(super) key: Vec<u8>,
    pub(super) item: Item,
    /// Whether its checksum matches.
    pub(super) is_sound: bool,
}

impl ItemRow {
    /// Reads a row of [`COLUMNS`].
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

    /// Reads a row of [`EARLIER_COLUMNS`].
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

    /// The row's hash in the newest schema. A damaged row gets a hash that does not match, so
    /// that the damage stays detected.
    pub(super) fn hash(&self) -> [u8; 16] {
        let hash = *ItemHash::of(&self.key, &self.item).as_bytes();
        match self.is_sound {
            true => hash,
            false => hash.map(|byte| !byte),
        }
    }

    /// An estimate of its memory, in bytes.
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
