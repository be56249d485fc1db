//! The errors of coordination, with what the caller does next.

use tierkv_types::{Code, Error};

/// A failure of a coordination backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoordinationError {
    /// The store can't be reached or can't answer. Nothing was changed and nothing will be.
    #[error("coordination is unavailable: {0}; nothing was changed, retry")]
    Unavailable(String),
    /// A change may or may not have happened, or may happen yet (COORD-CAS).
    #[error(
        "the outcome of a change is unknown: {0}; swap again, then read the record at a later \
         revision"
    )]
    OutcomeUnknown(String),
    /// The store behind this handle was closed; there are no more changes from it.
    #[error("the coordination store was closed; open it again")]
    Closed,
    /// The call can never succeed as it is.
    #[error("{0}")]
    InvalidArgument(String),
    /// A live member or candidate already has this name.
    #[error("{0}")]
    AlreadyExists(String),
    /// The disk under the store failed, or the stored data can't be used. Nothing was changed.
    #[error("{0}")]
    Storage(String),
}

impl CoordinationError {
    /// The platform's code for this failure.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Unavailable(_) | Self::Closed => Code::Unavailable,
            Self::OutcomeUnknown(_) => Code::OutcomeUnknown,
            Self::InvalidArgument(_) => Code::InvalidArgument,
            Self::AlreadyExists(_) => Code::AlreadyExists,
            Self::Storage(_) => Code::Internal,
        }
    }
}

impl From<CoordinationError> for Error {
    fn from(error: CoordinationError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
