//! Why an operation failed, and what to do about it.

use std::fmt;

use tierkv_types::{Code, Error as Refusal, RequestId};

/// Whether the same request, sent again, may succeed: nothing was done, and the reason passes.
pub(crate) const fn is_retryable(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Conflict) || code.is_misrouted()
}

/// Why an operation failed, and what to do about it.
///
/// Three questions cover what most applications decide by:
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

    /// The same, of a write that was refused last for the birth of its request id.
    pub(crate) fn refused_for_birth(mut self) -> Self {
        self.is_refused_for_birth = true;
        self
    }

    /// The kind of failure. [`Code::OutcomeUnknown`] means that a write may have happened.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.refusal.code
    }

    /// What happened and what to do.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.refusal.message
    }

    /// Whether a write may or may not have happened, and may still happen until its time is
    /// over. Reading the key may tell; asking again under the same request id
    /// ([`Client::with_request_id`](crate::Client::with_request_id)) does, for two minutes.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        self.code() == Code::OutcomeUnknown
    }

    /// The request id of a write whose outcome is unknown.
    #[must_use]
    pub const fn request_id(&self) -> Option<RequestId> {
        self.request_id
    }

    /// Whether a write was refused last for the birth of its request id, because the client did
    /// not know the platform's time. It has learnt it from the refusal, so the same write, done
    /// again, is accepted. The client does that by itself in the operation's time; what is left
    /// are writes of which an earlier attempt was lost ([`Self::is_outcome_unknown`]), for
    /// which only the caller can say whether doing them again is safe, and those whose time
    /// was over.
    #[must_use]
    pub const fn is_refused_for_birth(&self) -> bool {
        self.is_refused_for_birth
    }

    /// Whether a condition of the write did not hold; nothing was changed. Read again, decide
    /// again.
    #[must_use]
    pub fn is_condition_failed(&self) -> bool {
        self.code() == Code::ConditionFailed
    }

    /// Whether nothing was done and the same may succeed a little later, as a new request. The
    /// client did try again until the operation's time was over.
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
