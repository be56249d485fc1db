//! Whether the nodes of a cluster have the same committed log and the same state (I3).
//!
//! The nodes stand still while their directories are copied. Of each copy, the records are read from
//! the files of the log, and the state from a storage that is opened on it and applies the log up to
//! the commit index.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use bytes::Bytes;
use tierkv_storage::{Outcome, RealDisk, Storage, StorageSettings, outcomes_in};
use tierkv_types::{
    RequestId,
    record::{DecodeError, RecordHeader},
};

/// Where a segment's records begin.
const SEGMENT_HEADER_BYTES: usize = 64;
const PIECE_BYTES: usize = 1 << 20;
/// The kinds of pieces that are compared byte by byte: entries, and rows of small tables. The
/// outcomes of requests are compared one by one, and the end has the digest of all.
const COMPARED: [u8; 2] = [1, 3];
/// The size of a segment that a copy may begin.
const SEGMENT_BYTES: u64 = 1 << 20;

/// What a node has, up to the commit index.
pub(crate) struct Content {
    node: String,
    /// By index: the bytes of each record.
    log: BTreeMap<u64, Vec<u8>>,
    /// What each key holds and the small tables, as they would be sent to another node.
    state: Vec<Bytes>,
    /// The outcomes of requests, by the random part of their ids, with their births. Those of
    /// forgotten requests are left out: each node removes them at another time (TXN-IDS).
    outcomes: BTreeMap<[u8; 16], (u64, Outcome)>,
}

impl Content {
    /// Reads a copy of a node's directory.
    pub(crate) async fn read(node: &str, dir: &Path, commit: u64) -> Result<Self, String> {
        let words = |error: &dyn std::fmt::Display| format!("{node} in {}: {error}", dir.display());
        // Before the storage is opened, which may change it.
        let log = records(&dir.join("log")).map_err(|error| words(&error))?;
        let settings = StorageSettings {
            segment_bytes: SEGMENT_BYTES,
            ..StorageSettings::new(dir)
        };
        let opened = Storage::open(settings, Arc::new(RealDisk)).await;
        let (storage, found) = opened.map_err(|error| words(&error))?;
        if found.last.index.0 != commit {
            let ends = format!("its log ends at {}, not at {commit}", found.last);
            return Err(words(&ends));
        }
        storage.apply(&found.tail);
        let (_, clock) = storage.applied();
        let pieces = pieces(&storage).await;
        let closed = storage.close().await;
        let pieces = pieces.map_err(|error| words(&error))?;
        closed.map_err(|error| words(&error))?;
        let outcomes = pieces.iter().filter_map(outcomes_in).flatten();
        let remembered = outcomes.filter(|(id, _)| id.birth_millis >= RequestId::horizon(clock));
        Ok(Self {
            node: node.to_owned(),
            log,
            outcomes: remembered
                .map(|(id, outcome)| (id.random, (id.birth_millis, outcome)))
                .collect(),
            state: (pieces.into_iter())
                .filter(|piece| piece.get(1).is_some_and(|kind| COMPARED.contains(kind)))
                .collect(),
        })
    }

    /// How many requests it remembers that every node must remember.
    pub(crate) fn outcomes(&self) -> usize {
        self.outcomes.len()
    }

    /// How many records are in its log.
    pub(crate) fn records(&self) -> usize {
        self.log.len()
    }

    /// Compares everything that both nodes have. Returns how many records both have.
    pub(crate) fn compare(&self, other: &Self) -> Result<usize, String> {
        let nodes = format!("{} and {}", self.node, other.node);
        let mut compared = 0;
        for (index, record) in &self.log {
            // Each node's log begins where it likes.
            let Some(others) = other.log.get(index) else {
                continue;
            };
            if record != others {
                return Err(format!(
                    "{nodes} have different records {index}: {:?} and {:?}",
                    Bytes::copy_from_slice(record),
                    Bytes::copy_from_slice(others)
                ));
            }
            compared += 1;
        }
        if self.state.len() != other.state.len() {
            let counts = (self.state.len(), other.state.len());
            return Err(format!("{nodes} have states of {counts:?} pieces"));
        }
        for (at, (piece, others)) in self.state.iter().zip(&other.state).enumerate() {
            if piece != others {
                let byte = piece.iter().zip(others).position(|(one, two)| one != two);
                let lengths = (piece.len(), others.len());
                return Err(format!(
                    "{nodes} have different states: pieces {at} of {lengths:?} bytes, kind {:?}, \
                     differ from byte {byte:?} on",
                    piece.get(1)
                ));
            }
        }
        let randoms = self.outcomes.keys().chain(other.outcomes.keys());
        for random in randoms {
            let (one, two) = (self.outcomes.get(random), other.outcomes.get(random));
            if one != two {
                return Err(format!(
                    "{nodes} remember different outcomes of request {random:02x?}: {one:?} and \
                     {two:?}"
                ));
            }
        }
        Ok(compared)
    }
}

/// The state of an open storage, as it would be sent to another node.
async fn pieces(storage: &Storage) -> Result<Vec<Bytes>, tierkv_storage::StorageError> {
    let mut snapshot = storage.node_snapshot(PIECE_BYTES).await?;
    let mut pieces = Vec::new();
    while let Some(piece) = snapshot.next().await? {
        pieces.push(piece);
    }
    Ok(pieces)
}

/// Every record in the segments of a log, by index.
fn records(log: &Path) -> Result<BTreeMap<u64, Vec<u8>>, String> {
    let mut records = BTreeMap::new();
    let mut segments = Vec::new();
    for entry in fs::read_dir(log).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.extension() == Some("log".as_ref()) {
            segments.push(path);
        }
    }
    segments.sort();
    for segment in segments {
        let bytes = fs::read(&segment).map_err(|error| error.to_string())?;
        let mut at = SEGMENT_HEADER_BYTES;
        loop {
            let header = match RecordHeader::read(bytes.get(at..).unwrap_or_default()) {
                Ok(header) => header,
                Err(DecodeError::End) => break,
                Err(error) => {
                    return Err(format!("{} at offset {at}: {error}", segment.display()));
                }
            };
            let index = header.position.index.0;
            let record = bytes[at..at + header.len].to_vec();
            if let Some(last) = records.keys().next_back()
                && index != last + 1
            {
                return Err(format!(
                    "record {index} follows {last} in {}",
                    segment.display()
                ));
            }
            records.insert(index, record);
            at += header.len;
        }
    }
    Ok(records)
}
