//! [`TailError`]: why a tail can't continue.

use tierkv_types::{Code, Error, Position};

use crate::StorageError;

/// Why a tail can't continue.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TailError {
    /// The records after this one left the log.
    #[error("the log no longer holds the records after {0}")]
    Trimmed(Position),
    /// This log never held the record.
    #[error("record {0} is not in this log, or not yet")]
    Unknown(Position),
    /// Damage, and failures of the disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl TailError {
    /// The error sent to other tiers; details of this machine stay in its log.
    #[must_use]
    pub fn to_error(&self) -> Error {
        match self {
            Self::Trimmed(_) => Error::new(
                Code::TokenExpired,
                "the log no longer goes back that far; read the keys anew, then watch from now",
            ),
            Self::Unknown(_) => Error::new(
                Code::TokenExpired,
                "the resume token belongs to another history of the data; read the keys anew, then \
                 watch from now",
            ),
            Self::Storage(error) => error.to_error(),
        }
    }
}
