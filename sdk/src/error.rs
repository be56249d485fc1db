//! Why an operation failed, and what to do about it.

use std::fmt;

use tierkv_types::{Code, Error as Refusal, RequestId};

/// Whether a retry of the same request may succeed: nothing was done, and the cause is temporary.
pub(crate) const fn is_retryable(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Conflict) || code.is_misrouted()
}

/// Why an operation failed, and what to do about it.
///
/// Three methods are enough for most applications:
///
/// ```
/// # fn decide(error: &tierkv::Error) -> &'static str {
/// if error.is_outcome_unknown() {
///     "it may have happened: ask again under `error.request_id()`, or read the key"
/// } else if error.is_condition_failed() {
///     "nothing was changed: read again, decide again"
/// } else if error.is_retryable() {
///     "nothing was changed: try again later"
/// } else {
///     "nothing was changed, and trying again will not help"
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    refusal: Refusal,
    request_id: Option<RequestId>,
    is_refused_for_birth: bool,
}

impl Error {
    /// A write whose outcome is unknown.
    pub(crate) fn unknown(
        id: RequestId,
        message: impl Into<std::borrow::Cow<'static, str>>,
    ) -> Self {
        Self {
            refusal: Refusal::outcome_unknown(message),
            request_id: Some(id),
            is_refused_for_birth: false,
        }
    }

    /// Marks the error of a write whose last refusal was for the birth of its request id.
    pub(crate) fn refused_for_birth(mut self) -> Self {
        self.is_refused_for_birth = true;
        self
    }

    /// The kind of failure. [`Code::OutcomeUnknown`] means that a write may have happened.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.refusal.code
    }

    /// What happened, and what to do next.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.refusal.message
    }

    /// Whether a write may or may not have happened, and may still happen until it times out.
    /// Reading the key may show it. Retrying under the same request id
    /// ([`Client::with_request_id`](crate::Client::with_request_id)) settles it, for two minutes.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        self.code() == Code::OutcomeUnknown
    }

    /// The request id of a write whose outcome is unknown.
    #[must_use]
    pub const fn request_id(&self) -> Option<RequestId> {
        self.request_id
    }

    /// Whether the last refusal of a write was for the birth of its request id, because the client
    /// did not have the platform's time. The refusal carried that time, so the same write, sent
    /// again, is accepted. The client retries such writes itself within the timeout. The error is
    /// left for writes that timed out, and for writes with a lost attempt
    /// ([`Self::is_outcome_unknown`]): for these, only the caller can decide whether sending them
    /// again is safe.
    #[must_use]
    pub const fn is_refused_for_birth(&self) -> bool {
        self.is_refused_for_birth
    }

    /// Whether a condition of the write did not hold; nothing was changed. Read again, then decide
    /// again.
    #[must_use]
    pub fn is_condition_failed(&self) -> bool {
        self.code() == Code::ConditionFailed
    }

    /// Whether nothing was done and the same operation may succeed later, as a new request. The
    /// client has already retried until its timeout.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        let code = self.code();
        is_retryable(code) || matches!(code, Code::ResourceExhausted | Code::DeadlineExceeded)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.refusal.fmt(f)
    }
}

impl std::error::Error for Error {}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            request_id: None,
            is_refused_for_birth: false,
        }
    }
}
