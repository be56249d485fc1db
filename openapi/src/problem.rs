//! Errors over REST: the problem document and the HTTP status of each code.

use serde::{Deserialize, Serialize};
use tierkv_types::{Code, Error};
use utoipa::ToSchema;

/// The media type of a [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

/// A failed request (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The platform's code.
    #[schema(example = "InvalidArgument")]
    pub code: String,
    /// The HTTP status.
    #[schema(example = 400, minimum = 400, maximum = 599)]
    pub status: u16,
    /// The kind of failure, the same for every failure with this code.
    pub title: String,
    /// What happened, and what to do next.
    pub detail: String,
}

impl Problem {
    /// The problem document of an error.
    #[must_use]
    pub fn new(error: &Error) -> Self {
        Self {
            code: error.code.name().to_owned(),
            status: http_status(error.code),
            title: title(error.code).to_owned(),
            detail: error.message.to_string(),
        }
    }
}

/// The HTTP status for one of our codes. Exhaustive on purpose.
#[must_use]
pub const fn http_status(code: Code) -> u16 {
    match code {
        Code::InvalidArgument => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Conflict => 409,
        Code::TokenExpired => 410,
        Code::ConditionFailed => 412,
        Code::ResourceExhausted => 429,
        Code::OutcomeUnknown | Code::DataLoss | Code::Internal => 500,
        Code::NotMaster
        | Code::WrongOwner
        | Code::StaleEpoch
        | Code::WrongNode
        | Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
    }
}

const fn title(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "the request is invalid; correct it",
        Code::NotFound => "not found",
        Code::AlreadyExists => "it exists already",
        Code::ConditionFailed => "a condition did not hold; read again and decide again",
        Code::Conflict => "an older transaction holds a lock; retry",
        Code::Unauthenticated => "authentication is required",
        Code::PermissionDenied => "permission denied",
        Code::NotMaster
        | Code::WrongOwner
        | Code::StaleEpoch
        | Code::WrongNode
        | Code::Unavailable => "nothing was done; retry",
        Code::ResourceExhausted => "a limit is reached; wait or send less",
        Code::TokenExpired => "the token's history is no longer kept; start without it",
        Code::DeadlineExceeded => "the deadline passed",
        Code::OutcomeUnknown => "the write may or may not have happened; read the key",
        Code::DataLoss => "stored data is damaged; tell an operator",
        Code::Internal => "the server has a defect; tell an operator",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_a_failure_with_words() {
        for code in Code::ALL {
            let problem = Problem::new(&Error::new(code, "words"));
            assert!((400..600).contains(&problem.status), "{code}");
            assert!(!problem.title.is_empty());
        }
    }

    #[test]
    fn only_what_promises_no_effect_invites_a_blind_retry() {
        for code in Code::ALL
            .into_iter()
            .filter(|code| http_status(*code) == 503)
        {
            assert!(code == Code::Unavailable || code.is_misrouted(), "{code}");
        }
    }
}
