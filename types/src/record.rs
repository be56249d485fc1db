//! Log records: the unit of replication, of durability and of atomicity (I4).
//!
//! The structs say what a record means; [`encode`], [`decode`] and [`RecordHeader`] turn one
//! into the bytes that a log keeps and back (the format is written down in `codec`).

mod codec;
mod header;

use bytes::Bytes;

use crate::{
    key::ItemKey,
    limits::REQUEST_MEMORY,
    replication::{Index, Position},
    version::Version,
};

pub use self::{
    codec::{decode, encode, encoded_len},
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
    /// The millisecond of platform time before which an id must be born to be refused
    /// `now`, by the cluster clock: so far ids are forgotten (TXN-IDS).
    #[must_use]
    pub fn horizon(now: Version) -> u64 {
        let memory = u64::try_from(REQUEST_MEMORY.as_millis()).unwrap_or(u64::MAX);
        now.millis().saturating_sub(memory)
    }
}

/// One record of a cluster's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub position: Position,
    /// The master's commit index when it appended this record.
    pub commit: Index,
    /// The version of everything this record changes; strictly above the version of
    /// the record before it.
    pub version: Version,
    /// What it does.
    pub payload: Payload,
}

/// What a record does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: the first record of a master's epoch (REP-NOOP).
    Noop,
    /// Changes keys, all or none.
    Write(Write),
    /// Removes keys whose time is over, found by the master: at least one change, each a
    /// deletion of a key that was there.
    Expire(Vec<Change>),
    /// Forgets the tombstones of deletions up to this version.
    Forget {
        /// Below the record's own version.
        up_to: Version,
    },
}

/// An atomic set of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The client's name for it.
    pub request: RequestId,
    /// A checksum of what the client asked for, so that the same name for something else
    /// is noticed; 0 in records of releases that kept none.
    pub fingerprint: u32,
    /// At least one change; no key twice.
    pub changes: Vec<Change>,
}

/// One key's change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which key.
    pub key: ItemKey,
    /// What becomes of it.
    pub kind: ChangeKind,
}

/// What becomes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It holds this value from now on.
    Put {
        /// The whole value; empty is not absent.
        value: Bytes,
        /// When it expires, by the cluster clock; `None` never.
        expires: Option<Version>,
    },
    /// An increment left it at this number, which it holds as decimal text from now on.
    Increment {
        /// The number after the increment, as the client is told.
        number: i64,
        /// When it expires, by the cluster clock; `None` never.
        expires: Option<Version>,
    },
    /// It is absent from now on.
    Delete {
        /// Whether it was there before, as the client is told.
        existed: bool,
    },
}
