//! The ways in which operations fail, for the document: which statuses, and why.

use utoipa::IntoResponses;

use crate::problem::Problem;

/// What any operation may answer. What a refusal says of a write it says of this attempt: an
/// earlier one under the same `Idempotency-Key` whose answer was lost may have been applied.
#[derive(Debug, IntoResponses)]
pub enum AnyRefusal {
    /// The request can't succeed as it is (`InvalidArgument`): correct it.
    #[response(status = 400, content_type = "application/problem+json")]
    InvalidArgument(Problem),
    /// The request comes for a web page of another origin, or for a host that this server does
    /// not answer to (`PermissionDenied`).
    #[response(status = 403, content_type = "application/problem+json")]
    PermissionDenied(Problem),
    /// A limit is reached (`ResourceExhausted`): wait, or send or ask for less.
    #[response(status = 429, content_type = "application/problem+json")]
    ResourceExhausted(Problem),
    /// A defect (`Internal`, `DataLoss`); of a write, also that its outcome is unknown
    /// (`OutcomeUnknown`): repeat it with the same `Idempotency-Key`, or read.
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(Problem),
    /// Nothing was done (`Unavailable`): retry.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
    /// The time was over (`DeadlineExceeded`); a write was refused before it was logged.
    #[response(status = 504, content_type = "application/problem+json")]
    DeadlineExceeded(Problem),
}

/// What any request at all may be answered.
#[derive(Debug, IntoResponses)]
pub enum AdmissionRefusal {
    /// The request comes for a web page of another origin, or for a host that this server does
    /// not answer to (`PermissionDenied`).
    #[response(status = 403, content_type = "application/problem+json")]
    PermissionDenied(Problem),
}

/// What any write may answer, too.
#[derive(Debug, IntoResponses)]
pub enum WriteRefusal {
    /// An older transaction holds a lock (`Conflict`): retry.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(Problem),
    /// The `Idempotency-Key` was used for another write (`AlreadyExists`): make a new one.
    #[response(status = 422, content_type = "application/problem+json")]
    AlreadyExists(Problem),
}

/// What anything with a condition may answer, too.
#[derive(Debug, IntoResponses)]
pub enum ConditionRefusal {
    /// A condition did not hold (`ConditionFailed`): read again and decide again.
    #[response(status = 412, content_type = "application/problem+json")]
    ConditionFailed(Problem),
}

/// What anything with a body may answer, too.
#[derive(Debug, IntoResponses)]
pub enum MediaRefusal {
    /// The body is of another type than JSON where JSON is wanted, or has a
    /// `Content-Encoding`.
    #[response(status = 415, content_type = "application/problem+json")]
    UnsupportedMediaType(Problem),
}

/// What anything with a token may answer, too.
#[derive(Debug, IntoResponses)]
pub enum TokenRefusal {
    /// The token points at history that is gone (`TokenExpired`): start afresh.
    #[response(status = 410, content_type = "application/problem+json")]
    TokenExpired(Problem),
}
