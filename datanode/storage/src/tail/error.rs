//! Why a follower of the log can't go on.

use tierkv_types::{Code, Error, Position};

use crate::StorageError;

/// Why a tail can't go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TailError {
    /// The records after this one left the log.
    #[error("the log does not hold the records after {0} any more")]
    Trimmed(Position),
    /// This log never held the record.
    #[error("record {0} is none of this log, or not yet")]
    Unknown(Position),
    /// Damage, and failures of the disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl TailError {
    /// The error as other tiers see it; details of this machine stay in its log.
    #[must_use]
    pub fn to_error(&self) -> Error {
        match self {
            Self::Trimmed(_) => Error::new(
                Code::TokenExpired,
                "the log does not go back that far any more; read the keys anew, then watch \
                 from now",
            ),
            Self::Unknown(_) => Error::new(
                Code::TokenExpired,
                "the place to go on from is of another history of the data; read the keys \
                 anew, then watch from now",
            ),
            Self::Storage(error) => error.to_error(),
        }
    }
}
