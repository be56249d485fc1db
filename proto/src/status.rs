//! Maps error codes to gRPC statuses, and back.
//!
//! A status from a tier has a `google.rpc.Status` in its details, which contains one [`v1::Error`].
//! Only this detail carries a promise; a status without it comes from a transport.

use std::num::NonZeroU64;

use prost::Message;
use tierkv_types::{Code, Error};
use tonic::Status;

use crate::v1;

/// The type name of the packed detail.
const DETAIL_TYPE: &str = "type.googleapis.com/tierkv.v1.Error";

/// `google.rpc.Status`, the standard envelope of status details.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// The gRPC code for a code. The match is exhaustive on purpose.
#[must_use]
pub const fn grpc_code(code: Code) -> tonic::Code {
    match code {
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::NotFound => tonic::Code::NotFound,
        Code::AlreadyExists => tonic::Code::AlreadyExists,
        Code::ConditionFailed
        | Code::NotMaster
        | Code::WrongOwner
        | Code::StaleEpoch
        | Code::WrongNode => tonic::Code::FailedPrecondition,
        Code::Conflict => tonic::Code::Aborted,
        Code::Unauthenticated => tonic::Code::Unauthenticated,
        Code::PermissionDenied => tonic::Code::PermissionDenied,
        Code::ResourceExhausted => tonic::Code::ResourceExhausted,
        Code::TokenExpired => tonic::Code::OutOfRange,
        Code::Unavailable => tonic::Code::Unavailable,
        Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        Code::OutcomeUnknown => tonic::Code::Unknown,
        Code::DataLoss => tonic::Code::DataLoss,
        Code::Internal => tonic::Code::Internal,
    }
}

/// An error as the status of a call.
#[must_use]
pub fn to_status(error: &Error) -> Status {
    let code = grpc_code(error.code);
    let detail = to_wire(error);
    let envelope = RpcStatus {
        code: code as i32,
        message: error.message.to_string(),
        details: vec![prost_types::Any {
            type_url: DETAIL_TYPE.to_owned(),
            value: detail.encode_to_vec(),
        }],
    };
    Status::with_details(
        code,
        error.message.to_string(),
        envelope.encode_to_vec().into(),
    )
}

/// The error in a status; `None` for a status from a transport.
#[must_use]
pub fn detail(status: &Status) -> Option<Error> {
    let envelope = RpcStatus::decode(status.details()).ok()?;
    let packed = envelope
        .details
        .iter()
        .find(|any| any.type_url == DETAIL_TYPE)?;
    from_wire(v1::Error::decode(packed.value.as_slice()).ok()?)
}

/// An error as a message.
#[must_use]
pub fn to_wire(error: &Error) -> v1::Error {
    v1::Error {
        code: i32::from(error.code as u8),
        message: error.message.to_string(),
        birth_refused_at_ms: error.birth_refused_at.map_or(0, NonZeroU64::get),
    }
}

/// The error in a message; `None` if this release does not have its code.
#[must_use]
pub fn from_wire(error: v1::Error) -> Option<Error> {
    Some(Error {
        birth_refused_at: NonZeroU64::new(error.birth_refused_at_ms),
        ..Error::new(Code::from_number(error.code)?, error.message)
    })
}

/// The error of a failed read: its detail; for a transport's status, one that fits a read.
#[must_use]
pub fn read_error(status: &Status) -> Error {
    detail(status).unwrap_or_else(|| match status.code() {
        tonic::Code::DeadlineExceeded => Error::new(
            Code::DeadlineExceeded,
            "the deadline passed before an answer came",
        ),
        // tonic reports its own client-side time-out this way.
        tonic::Code::Cancelled if status.message().contains("Timeout") => Error::new(
            Code::DeadlineExceeded,
            "the deadline passed before an answer came",
        ),
        tonic::Code::ResourceExhausted | tonic::Code::OutOfRange => Error::exhausted(format!(
            "the transport refused the size: {}",
            status.message()
        )),
        _ => Error::unavailable(format!(
            "no answer came: {}",
            in_plain_words(status.message())
        )),
    })
}

/// The cause of a transport error in plain words, where the transport's own text (names of frames
/// and flags) does not help.
fn in_plain_words(transport: &str) -> &str {
    if transport.contains("invalid compression flag") {
        "what answers at that address does not speak gRPC; it may be the port for REST, or \
         another program's"
    } else if transport.contains("h2 protocol error: http2 error") {
        "the connection broke; the other end may not speak gRPC"
    } else {
        transport
    }
}

/// The error of a failed write: its detail; for a transport's status, an unknown outcome.
#[must_use]
pub fn write_error(status: &Status) -> Error {
    detail(status).unwrap_or_else(|| {
        Error::outcome_unknown(format!(
            "the connection failed before the outcome was known: {}",
            status.message()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_status_and_the_message() {
        for code in Code::ALL {
            let error = Error::new(code, "words");
            assert_eq!(detail(&to_status(&error)), Some(error.clone()));
            assert_eq!(from_wire(to_wire(&error)), Some(error));
        }
        let refused = Error::birth_refused(1_700_000_000_000, "words");
        assert_eq!(detail(&to_status(&refused)), Some(refused.clone()));
        assert_eq!(from_wire(to_wire(&refused)), Some(refused));
    }

    #[test]
    fn the_numbers_of_the_contract_are_those_of_the_codes() {
        for code in Code::ALL {
            let wire = v1::Code::try_from(i32::from(code as u8)).unwrap();
            let name = wire
                .as_str_name()
                .trim_start_matches("CODE_")
                .replace('_', "");
            assert_eq!(name, code.name().to_uppercase());
        }
    }

    #[test]
    fn a_bare_status_promises_nothing() {
        let bare = Status::unavailable("connection reset");
        assert_eq!(detail(&bare), None);
        assert_eq!(write_error(&bare).code, Code::OutcomeUnknown);
        assert_eq!(read_error(&bare).code, Code::Unavailable);
        let foreign = Status::unknown("protocol error: invalid compression flag: 123");
        assert!(read_error(&foreign).message.contains("does not speak gRPC"));
        let late = Status::cancelled("Timeout expired");
        assert_eq!(read_error(&late).code, Code::DeadlineExceeded);
    }
}
