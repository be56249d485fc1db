//! The REST gateway.
//!
//! Keys are any bytes, so the path is taken raw: `/v1/kv/{namespace}/{key}`, everything
//! after the second slash percent-decoded, `+` literal. What a request says and this
//! release would ignore is refused: ignoring a condition would be a silent overwrite.

use std::{str::FromStr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri,
        header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH},
        request::Parts,
    },
    response::{IntoResponse, Response},
    routing::{any, get},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use percent_encoding::percent_decode;
use serde::Serialize;
use tierkv_cache::Cache;
use tierkv_openapi::{ClusterReport, Deleted, Problem, Written, problem, ttl};
use tierkv_rpc::proto::{
    convert,
    v1::{Consistency, DeleteRequest, GetRequest, GetResponse, PutRequest, ReadOptions, Source},
};
use tierkv_types::{
    Code, Error,
    limits::{DEFAULT_TIMEOUT, MAX_VALUE_BYTES},
};
use tokio::time::{Instant, timeout_at};

use crate::{admin::Admin, operations::Operations, settings::MetricsPage};

/// The tier that answered a read.
const SOURCE: HeaderName = HeaderName::from_static("tierkv-source");
/// An upper bound of a read's staleness, in milliseconds.
const AGE_MS: HeaderName = HeaderName::from_static("tierkv-age-ms");
/// When the key expires, in milliseconds since the Unix epoch; absent: never.
const EXPIRES_AT_MS: HeaderName = HeaderName::from_static("tierkv-expires-at-ms");
/// A client's name for a write.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Everything the gateway needs.
pub(crate) struct Gateway<C> {
    pub(crate) operations: Arc<Operations<C>>,
    pub(crate) admin: Arc<Admin<C>>,
    pub(crate) metrics: MetricsPage,
    pub(crate) is_ready: Box<dyn Fn() -> bool + Send + Sync>,
}

/// The gateway's routes.
pub(crate) fn router<C: Cache>(gateway: Arc<Gateway<C>>) -> Router {
    Router::new()
        .route("/v1/kv/{*item}", any(kv::<C>))
        .route("/v1/cluster", get(cluster::<C>))
        .route("/health/live", get(async || "live\n"))
        .route("/health/ready", get(ready::<C>))
        .route("/metrics", get(metrics::<C>))
        .fallback(nowhere)
        .method_not_allowed_fallback(async || {
            refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                &Error::invalid("use another method here"),
            )
        })
        .with_state(gateway)
}

async fn kv<C: Cache>(State(gateway): State<Arc<Gateway<C>>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let answer = match head.method {
        Method::GET | Method::HEAD => gateway.get(&head).await,
        Method::PUT => gateway.put(&head, body).await,
        Method::DELETE => gateway.delete(&head).await,
        _ => {
            let error = Error::invalid("a key takes GET, HEAD, PUT and DELETE");
            let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, &error);
            response
                .headers_mut()
                .insert("allow", HeaderValue::from_static("GET, HEAD, PUT, DELETE"));
            return response;
        }
    };
    answer.unwrap_or_else(|error| {
        gateway.operations.meters.failed(&error);
        failure(&error)
    })
}

async fn cluster<C: Cache>(State(gateway): State<Arc<Gateway<C>>>) -> Response {
    match gateway.admin.cluster().await {
        Ok(report) => json(StatusCode::OK, &ClusterReport::from(report)),
        Err(error) => failure(&error),
    }
}

async fn ready<C: Cache>(State(gateway): State<Arc<Gateway<C>>>) -> Response {
    match (gateway.is_ready)() {
        true => "ready\n".into_response(),
        false => failure(&Error::unavailable(
            "a cluster's master has not answered lately",
        )),
    }
}

async fn metrics<C: Cache>(State(gateway): State<Arc<Gateway<C>>>) -> Response {
    let page = (gateway.metrics.0)();
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        page,
    )
        .into_response()
}

async fn nowhere(uri: Uri) -> Response {
    failure(&Error::new(
        Code::NotFound,
        format!(
            "there is nothing at '{}'; keys are at /v1/kv/{{namespace}}/{{key}}, the topology at \
             /v1/cluster, metrics at /metrics",
            uri.path().escape_default()
        ),
    ))
}

impl<C: Cache> Gateway<C> {
    async fn get(&self, request: &Parts) -> Result<Response, Error> {
        let (namespace, key) = item(&request.uri)?;
        let options = read_options(&request.uri)?;
        let read = GetRequest {
            namespace,
            key,
            options: Some(options),
        };
        let answer = self.operations.get(read, deadline()).await?;
        let mut response = match answer.found {
            true => {
                let length = answer.value.len();
                let body = match request.method {
                    Method::HEAD => Body::empty(),
                    _ => Body::from(answer.value.clone()),
                };
                let mut response = Response::new(body);
                let headers = response.headers_mut();
                headers.insert(
                    CONTENT_TYPE,
                    HeaderValue::from_static("application/octet-stream"),
                );
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
                headers.insert(ETAG, etag(answer.version));
                response
            }
            false => failure(&Error::new(
                Code::NotFound,
                "the key is absent; PUT a value to this address to create it",
            )),
        };
        describe(response.headers_mut(), &answer);
        Ok(response)
    }

    async fn put(&self, request: &Parts, body: Body) -> Result<Response, Error> {
        let (namespace, key) = item(&request.uri)?;
        let ttl_ms = put_options(&request.uri)?;
        no_conditions(&request.headers)?;
        let deadline = deadline();
        let value = whole(body, deadline).await?;
        let put = PutRequest {
            namespace,
            key,
            value,
            ttl_ms,
            request_id: None,
        };
        let version = self.operations.put(put, deadline).await?.version;
        let mut response = json(
            StatusCode::OK,
            &Written {
                version: version.to_string(),
            },
        );
        response.headers_mut().insert(ETAG, etag(version));
        Ok(response)
    }

    async fn delete(&self, request: &Parts) -> Result<Response, Error> {
        let (namespace, key) = item(&request.uri)?;
        if let Some(parameter) = parameters(&request.uri).next() {
            return Err(unknown(parameter?.0));
        }
        no_conditions(&request.headers)?;
        let delete = DeleteRequest {
            namespace,
            key,
            request_id: None,
        };
        let answer = self.operations.delete(delete, deadline()).await?;
        let version = answer.version.to_string();
        Ok(json(
            StatusCode::OK,
            &Deleted {
                existed: answer.existed,
                version,
            },
        ))
    }
}

fn deadline() -> Instant {
    Instant::now() + DEFAULT_TIMEOUT
}

/// Namespace and key of a path, from its raw form.
fn item(uri: &Uri) -> Result<(String, Bytes), Error> {
    let shape = || Error::invalid("the path is /v1/kv/{namespace}/{key}, the key percent-encoded");
    let rest = uri.path().strip_prefix("/v1/kv/").ok_or_else(shape)?;
    let (namespace, key) = rest.split_once('/').ok_or_else(shape)?;
    let namespace = percent_decode(namespace.as_bytes())
        .decode_utf8()
        .map_err(|_| shape())?;
    if namespace.is_empty() {
        return Err(shape());
    }
    Ok((namespace.into_owned(), decoded(key)?.into()))
}

/// Percent-decodes, refusing a `%` that begins no byte: it was meant to be `%25`.
fn decoded(text: &str) -> Result<Vec<u8>, Error> {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let broken = (0..bytes.len()).any(|at| bytes[at] == b'%' && !(hex(at + 1) && hex(at + 2)));
    if broken {
        return Err(Error::invalid(
            "a % in the path begins no byte; write %25 for a percent sign",
        ));
    }
    Ok(percent_decode(bytes).collect())
}

/// The parameters of a query, decoded.
fn parameters(uri: &Uri) -> impl Iterator<Item = Result<(&str, String), Error>> {
    uri.query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = String::from_utf8(decoded(value)?)
                .map_err(|_| Error::invalid(format!("the parameter '{name}' is not UTF-8")))?;
            Ok((name, value))
        })
}

fn read_options(uri: &Uri) -> Result<ReadOptions, Error> {
    let mut options = ReadOptions::default();
    let mut seen = Vec::new();
    for parameter in parameters(uri) {
        let parameter = parameter?;
        if seen.contains(&parameter.0) {
            return Err(twice(parameter.0));
        }
        seen.push(parameter.0);
        match parameter {
            ("consistency", level) => {
                options.consistency = match level.as_str() {
                    "cached" => Consistency::Cached,
                    "session" => Consistency::Session,
                    "latest" => Consistency::Latest,
                    _ => {
                        return Err(Error::invalid(
                            "consistency is one of cached, session and latest",
                        ));
                    }
                }
                .into();
            }
            ("min_version", version) => options.min_version = number("min_version", &version)?,
            ("max_staleness_ms", bound) => {
                options.max_staleness_ms = Some(number("max_staleness_ms", &bound)?);
            }
            (name, _) => return Err(unknown(name)),
        }
    }
    // Asking for a version says which consistency is meant.
    if options.min_version != 0 && options.consistency == i32::from(Consistency::Unspecified) {
        options.consistency = Consistency::Session.into();
    }
    Ok(options)
}

fn number<T: FromStr>(name: &str, text: &str) -> Result<T, Error> {
    text.parse()
        .map_err(|_| Error::invalid(format!("{name} is a decimal number, not '{text}'")))
}

fn twice(name: &str) -> Error {
    Error::invalid(format!(
        "the parameter '{}' stands there twice",
        name.escape_default()
    ))
}

fn unknown(name: &str) -> Error {
    Error::invalid(format!(
        "the parameter '{}' is not known here",
        name.escape_default()
    ))
}

/// What a PUT says beside its value: the time to live in milliseconds, 0 for ever.
fn put_options(uri: &Uri) -> Result<u64, Error> {
    let mut live = None;
    for parameter in parameters(uri) {
        match parameter? {
            ("ttl", _) if live.is_some() => return Err(twice("ttl")),
            ("ttl", text) => live = Some(ttl::parse(&text)?),
            (name, _) => return Err(unknown(name)),
        }
    }
    // The longest one fits: `ttl::parse` keeps the limit.
    Ok(live.map_or(0, |live| {
        u64::try_from(live.as_millis()).unwrap_or(u64::MAX)
    }))
}

/// Refuses the conditions that a write could have and this release would ignore.
fn no_conditions(headers: &HeaderMap) -> Result<(), Error> {
    if headers.contains_key(IF_MATCH) || headers.contains_key(IF_NONE_MATCH) {
        return Err(convert::not_served("a conditional write"));
    }
    if headers.contains_key(IDEMPOTENCY_KEY) {
        return Err(convert::not_served("an Idempotency-Key"));
    }
    Ok(())
}

/// The whole body, up to the largest value and until `deadline`.
async fn whole(body: Body, deadline: Instant) -> Result<Bytes, Error> {
    let limited = Limited::new(body, MAX_VALUE_BYTES);
    let collected = timeout_at(deadline, limited.collect()).await.map_err(|_| {
        Error::new(
            Code::DeadlineExceeded,
            "the body did not arrive in time; nothing was written",
        )
    })?;
    match collected {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Error::invalid(format!(
            "the value is larger than the limit max_value_bytes, {MAX_VALUE_BYTES}"
        ))),
        Err(_) => Err(Error::invalid(
            "the body ended before it was whole; send it again",
        )),
    }
}

fn etag(version: u64) -> HeaderValue {
    // Digits and quotes are always a header value.
    HeaderValue::from_str(&format!("\"{version}\"")).unwrap_or(HeaderValue::from_static("\"0\""))
}

fn describe(headers: &mut HeaderMap, answer: &GetResponse) {
    let source = match Source::try_from(answer.source) {
        Ok(Source::Cache) => "cache",
        Ok(Source::Replica) => "replica",
        Ok(Source::Master) => "master",
        Ok(Source::Unspecified) | Err(_) => "unknown",
    };
    headers.insert(SOURCE, HeaderValue::from_static(source));
    headers.insert(AGE_MS, HeaderValue::from(answer.age_ms));
    if answer.expires_at_ms != 0 {
        headers.insert(EXPIRES_AT_MS, HeaderValue::from(answer.expires_at_ms));
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => (status, [(CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => failure(&Error::new(Code::Internal, error.to_string())),
    }
}

fn failure(error: &Error) -> Response {
    let status = tierkv_openapi::http_status(error.code);
    refusal(
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        error,
    )
}

fn refusal(status: StatusCode, error: &Error) -> Response {
    let problem = Problem {
        status: status.as_u16(),
        ..Problem::new(error)
    };
    // A struct of strings and a number always serialises.
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    (status, [(CONTENT_TYPE, problem::MEDIA_TYPE)], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(path: &str) -> Result<(String, Vec<u8>), Code> {
        let uri: Uri = path.parse().unwrap();
        item(&uri)
            .map(|(namespace, key)| (namespace, key.to_vec()))
            .map_err(|error| error.code)
    }

    #[test]
    fn keys_are_taken_raw() {
        let key = |path| parsed(path).unwrap().1;
        assert_eq!(key("/v1/kv/n/a"), b"a");
        assert_eq!(key("/v1/kv/n/a+b%2Bc"), b"a+b+c");
        assert_eq!(key("/v1/kv/n/a%2Fb"), b"a/b");
        assert_eq!(key("/v1/kv/n/a/b"), b"a/b");
        assert_eq!(key("/v1/kv/n/%00%FF"), b"\x00\xff");
        assert_eq!(key("/v1/kv/n//"), b"/");
        assert_eq!(key("/v1/kv/n/%2E%2E"), b"..");
        assert_eq!(parsed("/v1/kv/n"), Err(Code::InvalidArgument));
        assert_eq!(parsed("/v1/kv//k"), Err(Code::InvalidArgument));
        assert_eq!(parsed("/v1/kv/n/100%"), Err(Code::InvalidArgument));
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        let options = |query: &str| {
            let uri: Uri = format!("/v1/kv/n/k?{query}").parse().unwrap();
            read_options(&uri)
        };
        assert_eq!(
            options("min_version=7").unwrap().consistency,
            Consistency::Session as i32
        );
        assert_eq!(
            options("max_staleness_ms=0").unwrap().max_staleness_ms,
            Some(0)
        );
        for bad in [
            "consistency=newest",
            "consistency=cached&consistency=latest",
            "min_version=x",
            "max_staleness_ms=-1",
            "fresh=1",
        ] {
            assert!(options(bad).is_err(), "{bad}");
        }
        let live = |path: &str| put_options(&path.parse().unwrap());
        assert_eq!(live("/v1/kv/n/k"), Ok(0));
        assert_eq!(live("/v1/kv/n/k?ttl=60s"), Ok(60_000));
        for bad in [
            "ttl=60",
            "ttl=",
            "ttl",
            "ttl=1s&ttl=2s",
            "consistency=latest",
        ] {
            assert!(live(&format!("/v1/kv/n/k?{bad}")).is_err(), "{bad}");
        }
        let mut headers = HeaderMap::new();
        assert!(no_conditions(&headers).is_ok());
        headers.insert(IF_MATCH, HeaderValue::from_static("\"1\""));
        assert!(no_conditions(&headers).is_err());
    }
}
