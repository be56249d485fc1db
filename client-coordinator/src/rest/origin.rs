//! Refuses requests from pages of other web sites.
//!
//! A browser sends requests for any page that it shows, with two headers that identify the page.
//! `Origin` has the page's origin, on all requests that change something or that the page may read.
//! `Sec-Fetch-Site`, to loopback and over TLS, has the relation of that origin to this server.
//! Requests from pages of other origins are refused, unless an operator lists the origin; then the
//! answers allow the page to read them (CORS, by the Fetch standard). Programs send neither header.

use std::{fmt, str::FromStr};

use axum::{
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
            ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
        },
        request::Parts,
        uri::Authority,
    },
    response::{IntoResponse, Response},
};
use tierkv_types::{Code, Error};

use super::{escaped::shortened, host::is_sound};

/// The relation of the page's origin to this server's.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What the browser needs the answer for.
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
/// Where the browser shows the answer.
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
/// A page of a public site requests an address in the local network.
const REQUEST_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-allow-private-network");

/// The methods allowed to pages of listed origins.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, PUT, POST, DELETE");
/// The request headers allowed to them.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "accept, content-type, idempotency-key, if-match, if-none-match, last-event-id",
);
/// The answer headers that they may read.
const ANSWER_HEADERS: HeaderValue = HeaderValue::from_static(
    "allow, etag, tierkv-age-ms, tierkv-expires-at-ms, tierkv-path, tierkv-source, \
     tierkv-time-ms, tierkv-version",
);
/// How long a browser may cache the answer to a preflight, in seconds.
const PREFLIGHT_SECONDS: HeaderValue = HeaderValue::from_static("600");

/// The origin of a web page as browsers write it: `https://app.example.com`, with the port only if
/// it is not the scheme's default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebOrigin(String);

/// The text is not an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an origin is a scheme and a host, as in https://app.example.com or http://localhost:3000")]
pub struct NoWebOrigin;

impl FromStr for WebOrigin {
    type Err = NoWebOrigin;

    fn from_str(text: &str) -> Result<Self, NoWebOrigin> {
        let lower = text.to_ascii_lowercase();
        let (scheme, rest) = lower.split_once("://").ok_or(NoWebOrigin)?;
        let own_port = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => return Err(NoWebOrigin),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let authority: Authority = rest.parse().map_err(|_| NoWebOrigin)?;
        match is_sound(&authority) && !rest.contains('*') {
            true => {
                let rest = rest.strip_suffix(own_port).unwrap_or(rest);
                Ok(Self(format!("{scheme}://{rest}")))
            }
            false => Err(NoWebOrigin),
        }
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The origins whose requests pass.
#[derive(Debug)]
pub(super) struct Origins {
    allowed: Vec<WebOrigin>,
}

/// The sender of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// A program, a page of this server, or a person who followed a link to it.
    Own,
    /// A page of this listed origin.
    Listed(HeaderValue),
}

impl Origins {
    pub(super) const fn new(allowed: Vec<WebOrigin>) -> Self {
        Self { allowed }
    }

    /// The sender of a request to `host`.
    ///
    /// # Errors
    /// `PermissionDenied` if it is a page of another origin that is not listed.
    pub(super) fn asker(&self, head: &Parts, host: Option<&Authority>) -> Result<Asker, Error> {
        let origin = head.headers.get(ORIGIN);
        if let Some(origin) = origin.filter(|origin| self.lists(origin)) {
            return Ok(Asker::Listed(origin.clone()));
        }
        let is_own = match head.headers.get(SEC_FETCH_SITE) {
            Some(site) => is_one_of(site, &["same-origin", "none"]) || is_visit(head),
            None => origin.is_none_or(|origin| is_of(origin, host)),
        };
        match is_own {
            true => Ok(Asker::Own),
            false => Err(foreign(origin)),
        }
    }

    fn lists(&self, origin: &HeaderValue) -> bool {
        let same = |listed: &WebOrigin| origin.as_bytes().eq_ignore_ascii_case(listed.0.as_bytes());
        self.allowed.iter().any(same)
    }

    /// Adds the headers that tell browsers and caches who may read an answer.
    pub(super) fn describe(&self, asker: Asker, headers: &mut HeaderMap) {
        if !self.allowed.is_empty() {
            headers.append(VARY, HeaderValue::from_static("origin"));
        }
        if let Asker::Listed(origin) = asker {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
        }
    }
}

/// The answer to a preflight: a browser asks whether a page of a listed origin may send a request.
/// `None` for other requests.
pub(super) fn preflight(head: &Parts, asker: &Asker) -> Option<Response> {
    let asks = head.method == Method::OPTIONS
        && matches!(asker, Asker::Listed(_))
        && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if !asks {
        return None;
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS);
    if head.headers.contains_key(REQUEST_PRIVATE_NETWORK) {
        headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    Some(response)
}

fn is_one_of(header: &HeaderValue, words: &[&str]) -> bool {
    words
        .iter()
        .any(|word| header.as_bytes() == word.as_bytes())
}

/// Whether a person follows a link of another page to here, as a page of its own: the other page
/// can't read it.
fn is_visit(head: &Parts) -> bool {
    let has = |name: HeaderName, word: &str| {
        let header = head.headers.get(name);
        header.is_some_and(|header| is_one_of(header, &[word]))
    };
    matches!(head.method, Method::GET | Method::HEAD)
        && has(SEC_FETCH_MODE, "navigate")
        && has(SEC_FETCH_DEST, "document")
}

/// Whether an origin is that of `host`. The scheme is not compared: behind a TLS proxy it differs.
fn is_of(origin: &HeaderValue, host: Option<&Authority>) -> bool {
    let origin = origin.as_bytes();
    let authority = (origin.strip_prefix(b"http://")).or_else(|| origin.strip_prefix(b"https://"));
    match (authority, host) {
        (Some(authority), Some(host)) => authority.eq_ignore_ascii_case(host.as_str().as_bytes()),
        _ => false,
    }
}

fn foreign(origin: Option<&HeaderValue>) -> Error {
    let page = match origin.and_then(|origin| origin.to_str().ok()) {
        Some(origin) => format!("a page of '{}'", shortened(origin)),
        None => "a page of another site".to_owned(),
    };
    Error::new(
        Code::PermissionDenied,
        format!(
            "this request comes from {page}, whose origin is not listed in rest.allowed_origins; \
             nothing was done"
        ),
    )
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    const LISTED: &str = "https://app.example.com";

    fn head(method: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn asker(method: &str, headers: &[(&str, &str)]) -> Result<Asker, Code> {
        let origins = Origins::new(vec![LISTED.parse().unwrap()]);
        let host: Authority = "localhost:7480".parse().unwrap();
        let asker = origins.asker(&head(method, headers), Some(&host));
        asker.map_err(|error| error.code)
    }

    #[test]
    fn programs_and_own_pages_pass() {
        for headers in [
            &[][..],
            &[("sec-fetch-site", "same-origin")],
            &[
                ("sec-fetch-site", "same-origin"),
                ("origin", "http://localhost:7480"),
            ],
            &[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")],
            // From browsers without Sec-Fetch-Site, or over plain HTTP.
            &[("origin", "http://localhost:7480")],
            &[("origin", "https://LOCALHOST:7480")],
        ] {
            assert_eq!(asker("POST", headers), Ok(Asker::Own), "{headers:?}");
        }
    }

    #[test]
    fn pages_of_other_origins_do_not() {
        for headers in [
            &[("origin", "https://evil.example")][..],
            &[("origin", "null")],
            &[("origin", "http://localhost")],
            &[("origin", "http://localhost:7481")],
            &[("origin", "http://localhost:7480.evil.example")],
            &[("origin", "https://app.example.com.evil.example")],
            &[("origin", "https://app.example.com:444")],
            &[("origin", "http://app.example.com")],
            &[("origin", "chrome-extension://localhost:7480")],
            &[("origin", "")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "something new")],
            &[
                ("sec-fetch-site", "cross-site"),
                ("origin", "http://localhost:7480"),
            ],
            &[
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "navigate"),
            ],
        ] {
            for method in ["GET", "POST", "OPTIONS"] {
                let denied = Err(Code::PermissionDenied);
                assert_eq!(asker(method, headers), denied, "{method} {headers:?}");
            }
        }
    }

    #[test]
    fn a_link_may_be_followed_and_nothing_more() {
        let visit = |method, site, mode, dest| {
            let headers = [
                ("sec-fetch-site", site),
                ("sec-fetch-mode", mode),
                ("sec-fetch-dest", dest),
            ];
            asker(method, &headers).is_ok()
        };
        assert!(visit("GET", "cross-site", "navigate", "document"));
        assert!(!visit("POST", "cross-site", "navigate", "document"));
        assert!(!visit("GET", "cross-site", "navigate", "iframe"));
        assert!(!visit("GET", "cross-site", "no-cors", "image"));
        assert!(!visit("GET", "cross-site", "cors", "empty"));
    }

    #[test]
    fn listed_origins_pass_and_are_answered_before_they_ask() {
        let listed = Ok(Asker::Listed(HeaderValue::from_static(LISTED)));
        for site in ["cross-site", "same-site"] {
            let headers = [("origin", LISTED), ("sec-fetch-site", site)];
            assert_eq!(asker("PUT", &headers), listed);
        }
        let asks = [("origin", LISTED), ("access-control-request-method", "PUT")];
        let asker = Asker::Listed(HeaderValue::from_static(LISTED));
        let answer = preflight(&head("OPTIONS", &asks), &asker).unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_METHODS], METHODS);
        assert!(preflight(&head("OPTIONS", &asks[..1]), &asker).is_none());
        assert!(preflight(&head("PUT", &asks), &asker).is_none());
        assert!(preflight(&head("OPTIONS", &asks), &Asker::Own).is_none());
        let network = [
            asks[0],
            asks[1],
            ("access-control-request-private-network", "true"),
        ];
        let answer = preflight(&head("OPTIONS", &network), &asker).unwrap();
        assert_eq!(answer.headers()[ALLOW_PRIVATE_NETWORK], "true");
    }

    #[test]
    fn origins_are_written_as_browsers_do() {
        let written = |text: &str| text.parse::<WebOrigin>().map(|origin| origin.to_string());
        for (text, origin) in [
            ("https://app.example.com", "https://app.example.com"),
            ("HTTPS://App.example.com:443/", "https://app.example.com"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:80", "http://[::1]"),
            ("http://10.0.0.7:8080", "http://10.0.0.7:8080"),
        ] {
            assert_eq!(written(text).as_deref(), Ok(origin), "{text}");
        }
        for bad in [
            "",
            "*",
            "null",
            "app.example.com",
            "https://",
            "https://*",
            "https://*.example.com",
            "https://app.example.com/path",
            "ftp://app.example.com",
            "https://me@app.example.com",
            "https://a b",
            "https://app.example.com:port",
        ] {
            assert_eq!(written(bad), Err(NoWebOrigin), "{bad}");
        }
    }
}
