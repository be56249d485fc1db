//! [`Note`]: what a node last noted of its log in coordination (REP-LOGID).

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tierkv_types::{Index, LogId};

/// The format that this code writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// A node's log as of some seconds ago: a log of that id that ends earlier is an old copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// The log's id.
    pub log_id: LogId,
    /// An index that was committed and in the log.
    pub commit: Index,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    log_id: LogId,
    commit: Index,
}

/// A note that can't be read, or that a newer release wrote.
#[derive(Debug, thiserror::Error)]
#[error("the note of a node's log is not readable by this release: {0}")]
pub struct UnreadableNote(String);

impl Note {
    /// Whether the log, if it ends with the record `last`, lacks what was noted.
    #[must_use]
    pub fn contradicts(&self, log_id: LogId, last: Index) -> bool {
        self.log_id == log_id && last < self.commit
    }

    /// Whether `self` is to replace an earlier note of the node.
    #[must_use]
    pub fn replaces(&self, earlier: &Self) -> bool {
        self.log_id != earlier.log_id || self.commit > earlier.commit
    }

    /// The note as it is stored.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let stored = Stored {
            format: FORMAT,
            log_id: self.log_id,
            commit: self.commit,
        };
        // Numbers can always be written.
        serde_json::to_vec(&stored)
            .map(Bytes::from)
            .unwrap_or_default()
    }

    /// Reads a stored note.
    ///
    /// # Errors
    /// [`UnreadableNote`].
    pub fn decode(bytes: &[u8]) -> Result<Self, UnreadableNote> {
        let stored: Stored =
            serde_json::from_slice(bytes).map_err(|error| UnreadableNote(error.to_string()))?;
        if stored.format > FORMAT {
            return Err(UnreadableNote(format!("it has format {}", stored.format)));
        }
        Ok(Self {
            log_id: stored.log_id,
            commit: stored.commit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_log_of_the_same_id_contradicts_it() {
        let note = Note {
            log_id: LogId(7),
            commit: Index(10),
        };
        assert_eq!(note.encode(), r#"{"format":1,"log_id":7,"commit":10}"#);
        assert_eq!(Note::decode(&note.encode()).unwrap(), note);
        assert!(Note::decode(br#"{"format":2,"log_id":7,"commit":10}"#).is_err());
        assert!(note.contradicts(LogId(7), Index(9)));
        assert!(!note.contradicts(LogId(7), Index(10)));
        assert!(!note.contradicts(LogId(8), Index(0)));
        let later = Note {
            commit: Index(11),
            ..note
        };
        assert!(later.replaces(&note) && !note.replaces(&later) && !note.replaces(&note));
    }
}
