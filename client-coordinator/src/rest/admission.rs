//! Checks of every request before its operation: the page it comes from, the host it is for, and
//! that its body is not compressed.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{ACCEPT_ENCODING, CONTENT_ENCODING, TRANSFER_ENCODING},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use tierkv_types::Error;

use super::{
    answer::Failure,
    host::{HostName, Hosts},
    origin::{Origins, WebOrigin, preflight},
};

/// The rules set by the operator.
#[derive(Debug)]
pub(crate) struct Admission {
    hosts: Hosts,
    origins: Origins,
}

impl Admission {
    /// The rules of a gateway, which depend on whether it listens on loopback only.
    pub(crate) fn new(
        allowed_hosts: Vec<HostName>,
        allowed_origins: Vec<WebOrigin>,
        is_on_loopback: bool,
    ) -> Self {
        Self {
            hosts: Hosts::new(allowed_hosts, is_on_loopback),
            origins: Origins::new(allowed_origins),
        }
    }
}

/// Answers a refused request; passes all others on.
pub(super) async fn admit(
    State(admission): State<Arc<Admission>>,
    request: Request,
    next: Next,
) -> Response {
    let Admission { hosts, origins } = &*admission;
    let (head, body) = request.into_parts();
    let asker = (hosts.check(&head)).and_then(|host| origins.asker(&head, host.as_ref()));
    let asker = match asker {
        Ok(asker) => asker,
        Err(error) => return Failure::from(error).into_response(),
    };
    let answer = preflight(&head, &asker).or_else(|| coding_refusal(&head.headers));
    let mut response = match answer {
        Some(answer) => answer,
        None => next.run(Request::from_parts(head, body)).await,
    };
    origins.describe(asker, response.headers_mut());
    response
}

/// The refusal of a compressed body, which would be stored as it is; `None` if it is not
/// compressed.
fn coding_refusal(headers: &HeaderMap) -> Option<Response> {
    let is_other = |header: &HeaderValue, plain: &str| {
        let mut codings = header.as_bytes().split(|byte| *byte == b',');
        codings.any(|coding| !coding.trim_ascii().eq_ignore_ascii_case(plain.as_bytes()))
    };
    let mut content = headers.get_all(CONTENT_ENCODING).iter();
    if content.any(|header| is_other(header, "identity")) {
        let failure = Failure::with_status(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Error::invalid(
                "the body has a Content-Encoding, and none is supported; send it as it is",
            ),
        );
        let identity = [(ACCEPT_ENCODING, HeaderValue::from_static("identity"))];
        return Some((identity, failure).into_response());
    }
    let mut transfer = headers.get_all(TRANSFER_ENCODING).iter();
    let failure = Failure::with_status(
        StatusCode::NOT_IMPLEMENTED,
        Error::invalid(
            "only the Transfer-Encoding chunked is supported; send the body without others",
        ),
    );
    let is_coded = transfer.any(|header| is_other(header, "chunked"));
    is_coded.then(|| failure.into_response())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn status(name: &HeaderName, lines: &[&str]) -> Option<u16> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_str(line).unwrap());
        }
        let refusal = coding_refusal(&headers);
        refusal.map(|response| response.status().as_u16())
    }

    #[test]
    fn coded_bodies_are_refused() {
        for plain in [&[][..], &["identity"], &["Identity, identity"]] {
            assert_eq!(status(&CONTENT_ENCODING, plain), None, "{plain:?}");
        }
        for coded in [
            &["gzip"][..],
            &["identity, br"],
            &["identity", "zstd"],
            &[""],
        ] {
            assert_eq!(status(&CONTENT_ENCODING, coded), Some(415), "{coded:?}");
        }
        assert_eq!(status(&TRANSFER_ENCODING, &["Chunked"]), None);
        assert_eq!(status(&TRANSFER_ENCODING, &["gzip, chunked"]), Some(501));
    }
}
