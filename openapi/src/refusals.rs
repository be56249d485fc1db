//! The failures of operations, for the OpenAPI document only: statuses and reasons.

use utoipa::IntoResponses;

use crate::problem::Problem;

/// Failures of every operation. For a write, a refusal is about this attempt only: an earlier
/// attempt with the same `Idempotency-Key` whose answer was lost may have been applied.
#[derive(Debug, IntoResponses)]
pub enum AnyRefusal {
    /// The request can't succeed as it is (`InvalidArgument`): correct it.
    #[response(status = 400, content_type = "application/problem+json")]
    InvalidArgument(Problem),
    /// The request is from a web page of another origin, or for a host name that this server does
    /// not accept (`PermissionDenied`).
    #[response(status = 403, content_type = "application/problem+json")]
    PermissionDenied(Problem),
    /// A limit is reached (`ResourceExhausted`): wait, or send or ask for less.
    #[response(status = 429, content_type = "application/problem+json")]
    ResourceExhausted(Problem),
    /// A defect (`Internal`, `DataLoss`), or the unknown outcome of a write (`OutcomeUnknown`):
    /// retry it with the same `Idempotency-Key`, or read the key.
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(Problem),
    /// Nothing was done (`Unavailable`): retry.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
    /// The timeout is over (`DeadlineExceeded`); a write was refused before it was logged.
    #[response(status = 504, content_type = "application/problem+json")]
    DeadlineExceeded(Problem),
}

/// Failures of every request.
#[derive(Debug, IntoResponses)]
pub enum AdmissionRefusal {
    /// The request is from a web page of another origin, or for a host name that this server does
    /// not accept (`PermissionDenied`).
    #[response(status = 403, content_type = "application/problem+json")]
    PermissionDenied(Problem),
}

/// Further failures of every write.
#[derive(Debug, IntoResponses)]
pub enum WriteRefusal {
    /// An older transaction holds a lock (`Conflict`): retry.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(Problem),
    /// The `Idempotency-Key` was used for another write (`AlreadyExists`): use a new one.
    #[response(status = 422, content_type = "application/problem+json")]
    AlreadyExists(Problem),
}

/// Further failures of requests with a condition.
#[derive(Debug, IntoResponses)]
pub enum ConditionRefusal {
    /// A condition did not hold (`ConditionFailed`): read again and decide again.
    #[response(status = 412, content_type = "application/problem+json")]
    ConditionFailed(Problem),
}

/// Further failures of requests with a body.
#[derive(Debug, IntoResponses)]
pub enum MediaRefusal {
    /// The body must be JSON and is of another type, or it has a `Content-Encoding`.
    #[response(status = 415, content_type = "application/problem+json")]
    UnsupportedMediaType(Problem),
}

/// Further failures of requests with a token.
#[derive(Debug, IntoResponses)]
pub enum TokenRefusal {
    /// The history of the token is no longer kept (`TokenExpired`): start without it.
    #[response(status = 410, content_type = "application/problem+json")]
    TokenExpired(Problem),
}
