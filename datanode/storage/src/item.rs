//! What a key holds, and what memory alone can say of it.

use bytes::Bytes;
use tierkv_types::Version;

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The version that wrote it.
    pub version: Version,
    /// When it expires, by the cluster clock; `None` never. Whoever serves it judges.
    pub expires: Option<Version>,
    /// The value; empty is not absent.
    pub value: Bytes,
}

/// What memory knows of a key, without asking the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Residence {
    /// It holds this.
    Found(Item),
    /// It is known to be absent.
    Absent,
    /// Only the store knows: use [`Storage::load`](crate::Storage::load).
    Unknown,
}
