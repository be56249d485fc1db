//! Log records: the unit of replication, of durability and of atomicity (I4).
//!
//! The structs define what a record means. [`encode`], [`decode`] and [`RecordHeader`] convert it
//! to and from the bytes in a log (the format is in `codec`).

mod codec;
mod header;

use bytes::Bytes;

use crate::{
    key::ItemKey,
    limits::REQUEST_MEMORY,
    owned_slots::OwnedSlots,
    replication::{Index, Position},
    version::Version,
};

pub use self::{
    codec::{decode, encode, encoded_len, encoded_len_with},
    header::{
        DecodeError, FORMAT, MAX_RECORD_BYTES, OLDEST_FORMAT, RecordHeader,
        is_whole_but_for_its_length,
    },
};

/// A client's name for one write, so that a retry is applied once (I8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    /// When the client made it, in milliseconds of platform time.
    pub birth_millis: u64,
    /// 128 random bits.
    pub random: [u8; 16],
}

impl RequestId {
    /// Ids born before this millisecond of platform time are refused at the cluster time `now`,
    /// because they may have been forgotten (TXN-IDS).
    #[must_use]
    pub fn horizon(now: Version) -> u64 {
        let memory = u64::try_from(REQUEST_MEMORY.as_millis()).unwrap_or(u64::MAX);
        now.millis().saturating_sub(memory)
    }
}

/// One record of a cluster's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its position in the log.
    pub position: Position,
    /// The master's commit index when it appended this record.
    pub commit: Index,
    /// The version of all its changes; strictly above the version of the record before it.
    pub version: Version,
    /// The changes.
    pub payload: Payload,
}

/// What a record does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: the first record of a master's epoch (REP-NOOP).
    Noop,
    /// Changes keys, all or none.
    Write(Write),
    /// Removes expired keys, found by the master: at least one change, each a deletion of a key
    /// that existed.
    Expire(Vec<Change>),
    /// Forgets the tombstones of deletions up to this version.
    Forget {
        /// Below the record's own version.
        up_to: Version,
    },
    /// From here on the cluster owns these slots and no others (PLACE-OWN).
    Own(OwnedSlots),
}

/// An atomic set of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The client's name for it.
    pub request: RequestId,
    /// A checksum of the client's request, to detect another request under the same id; 0 in
    /// records of releases that had none.
    pub fingerprint: u32,
    /// At least one change; no key twice.
    pub changes: Vec<Change>,
}

/// One key's change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: ItemKey,
    /// The change.
    pub kind: ChangeKind,
}

/// What happens to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It gets this value.
    Put {
        /// The whole value; an empty value is not an absent key.
        value: Bytes,
        /// When it expires, by the cluster clock; `None` for never.
        expires: Option<Version>,
    },
    /// It gets this number, the result of an increment, stored as decimal text.
    Increment {
        /// The number after the increment, as in the client's answer.
        number: i64,
        /// When it expires, by the cluster clock; `None` for never.
        expires: Option<Version>,
    },
    /// It becomes absent.
    Delete {
        /// Whether it existed before, as in the client's answer.
        existed: bool,
    },
}
