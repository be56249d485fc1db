//! Builds the responses of the gateway.

use axum::{
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, ETAG},
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Serialize;
use tierkv_openapi::{Problem, problem};
use tierkv_types::{Code, Error};

/// The failure of an operation.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    error: Error,
}

/// The response extension by which failures are counted.
#[derive(Clone)]
pub(super) struct Failed(pub(super) Error);

impl Failure {
    /// A failure with a more specific status than its code's.
    pub(super) const fn with_status(status: StatusCode, error: Error) -> Self {
        Self { status, error }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            status: status(error.code),
            error,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = refusal(self.status, &self.error);
        response.extensions_mut().insert(Failed(self.error));
        response
    }
}

fn status(code: Code) -> StatusCode {
    let status = StatusCode::from_u16(tierkv_openapi::http_status(code));
    // Only valid numbers are given.
    status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A problem with its own status, which does not count as a failed operation.
pub(super) fn refusal(status: StatusCode, error: &Error) -> Response {
    let problem = Problem {
        status: status.as_u16(),
        ..Problem::new(error)
    };
    // Serialising strings and a number can't fail.
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    (status, [(CONTENT_TYPE, problem::MEDIA_TYPE)], body).into_response()
}

/// The whole response to a client whose request is not read.
pub(super) fn farewell(error: &Error) -> Bytes {
    let problem = Problem::new(error);
    // Serialising strings and a number can't fail.
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let reason = status(error.code).canonical_reason().unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: {}\r\ncontent-length: {}\r\nretry-after: 1\r\n\
         connection: close\r\n\r\n",
        problem.status,
        problem::MEDIA_TYPE,
        body.len()
    );
    (head + &body).into()
}

/// An error response that does not count as a failed operation.
pub(super) fn uncounted(error: &Error) -> Response {
    refusal(status(error.code), error)
}

/// An answer in JSON.
pub(super) fn json(body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => ([(CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => Failure::from(Error::new(Code::Internal, error.to_string())).into_response(),
    }
}

/// An answer in JSON with the version as its entity tag.
pub(super) fn json_of_version(body: &impl Serialize, version: u64) -> Response {
    let mut response = json(body);
    response.headers_mut().insert(ETAG, etag(version));
    response
}

/// A version as an entity tag.
pub(super) fn etag(version: u64) -> HeaderValue {
    // Digits and quotes are always valid in a header.
    HeaderValue::from_str(&format!("\"{version}\"")).unwrap_or(HeaderValue::from_static("\"0\""))
}
