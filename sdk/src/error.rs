//! Why an operation failed.

use tierkv_types::Code;

/// Why an operation failed, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(tierkv_types::Error);

impl Error {
    /// The kind of failure. [`Code::OutcomeUnknown`] means that a write may have happened.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.0.code
    }

    /// What happened and what to do.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl From<tierkv_types::Error> for Error {
    fn from(error: tierkv_types::Error) -> Self {
        Self(error)
    }
}
