//! The closed list of error codes, and the error type of all tiers.

use std::{borrow::Cow, fmt, num::NonZeroU64};

/// Why an operation did not succeed. Each code implies what the caller does next; each transport
/// maps it in one function (`tierkv-proto`, `tierkv-openapi`).
///
/// The numbers are those of the wire and are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// The request can never succeed as it is: correct it.
    InvalidArgument = 1,
    /// It does not exist: create it first, or look elsewhere.
    NotFound = 2,
    /// It exists already: use it, or choose another name.
    AlreadyExists = 3,
    /// A condition of the write did not hold: read again, then decide again.
    ConditionFailed = 4,
    /// An older transaction holds a lock: retry.
    Conflict = 5,
    /// The caller must authenticate.
    Unauthenticated = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// This node is not its cluster's master: refresh the route and retry. Never reaches a user.
    NotMaster = 8,
    /// This cluster does not own the slot: refresh the placement and retry. Never reaches a user.
    WrongOwner = 9,
    /// The sender acts for a superseded epoch: refresh and retry. Never reaches a user.
    StaleEpoch = 10,
    /// A named limit is reached: wait, or send less.
    ResourceExhausted = 11,
    /// The token points to history that is no longer kept: start again.
    TokenExpired = 12,
    /// Nothing was done and nothing will be: retry.
    Unavailable = 13,
    /// The deadline passed; a write was refused before it was logged.
    DeadlineExceeded = 14,
    /// A write may or may not have happened: retry with the same request id, or read.
    OutcomeUnknown = 15,
    /// Stored data is damaged: tell an operator.
    DataLoss = 16,
    /// A bug or a broken invariant: tell an operator.
    Internal = 17,
    /// The request was meant for another process: refresh the route and retry. Never reaches a
    /// user.
    WrongNode = 18,
}

impl Code {
    /// All codes, in the order of their numbers.
    pub const ALL: [Self; 18] = [
        Self::InvalidArgument,
        Self::NotFound,
        Self::AlreadyExists,
        Self::ConditionFailed,
        Self::Conflict,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::NotMaster,
        Self::WrongOwner,
        Self::StaleEpoch,
        Self::ResourceExhausted,
        Self::TokenExpired,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::OutcomeUnknown,
        Self::DataLoss,
        Self::Internal,
        Self::WrongNode,
    ];

    /// The code of a wire number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|code| i32::from(*code as u8) == number)
    }

    /// Whether coordinators handle this code themselves: they refresh their route and retry within
    /// the deadline. No user ever sees it.
    #[must_use]
    pub const fn is_misrouted(self) -> bool {
        matches!(
            self,
            Self::NotMaster | Self::WrongOwner | Self::StaleEpoch | Self::WrongNode
        )
    }

    /// The code's name for users.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "InvalidArgument",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::ConditionFailed => "ConditionFailed",
            Self::Conflict => "Conflict",
            Self::Unauthenticated => "Unauthenticated",
            Self::PermissionDenied => "PermissionDenied",
            Self::NotMaster => "NotMaster",
            Self::WrongOwner => "WrongOwner",
            Self::StaleEpoch => "StaleEpoch",
            Self::ResourceExhausted => "ResourceExhausted",
            Self::TokenExpired => "TokenExpired",
            Self::Unavailable => "Unavailable",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::OutcomeUnknown => "OutcomeUnknown",
            Self::DataLoss => "DataLoss",
            Self::Internal => "Internal",
            Self::WrongNode => "WrongNode",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A refusal or failure that crosses tiers: a code, and a message with what to do next.
///
/// Internal details belong in the log of the tier that handles the error, not in the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    /// The kind of failure.
    pub code: Code,
    /// What happened and what the caller can do, lowercase, without a trailing stop.
    pub message: Cow<'static, str>,
    /// For a write refused for the birth of its request id: the platform time of the refusal, in
    /// milliseconds. This attempt did nothing, and a write under this id is no longer applied if
    /// it was not applied before. A new id born at that time would be accepted.
    pub birth_refused_at: Option<NonZeroU64>,
}

impl Error {
    /// An error with this code and message.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            birth_refused_at: None,
        }
    }

    /// [`Code::InvalidArgument`] for a request id whose birth is out of bounds at
    /// `platform_millis`.
    pub fn birth_refused(platform_millis: u64, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            birth_refused_at: NonZeroU64::new(platform_millis),
            ..Self::invalid(message)
        }
    }

    /// [`Code::InvalidArgument`] with this message.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// [`Code::Unavailable`] with this message: the caller may rely on no side effect.
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Unavailable, message)
    }

    /// [`Code::ResourceExhausted`] with this message; name the limit in it.
    pub fn exhausted(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::ResourceExhausted, message)
    }

    /// [`Code::OutcomeUnknown`] with this message.
    pub fn outcome_unknown(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::OutcomeUnknown, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_its_number_and_no_other_number_is() {
        for code in Code::ALL {
            assert_eq!(Code::from_number(i32::from(code as u8)), Some(code));
        }
        assert_eq!(Code::from_number(0), None);
        assert_eq!(Code::from_number(19), None);
        assert_eq!(Code::from_number(-1), None);
    }
}
