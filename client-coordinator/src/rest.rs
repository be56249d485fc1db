//! The REST gateway.
//!
//! ```text
//!   request ─► admission ─► routes (here) ─► keys · increments · touches · batches · listing · watching · operators
//!                                 │ path, parameters, entity_tag, conditions, idempotency, body
//!                                 ▼
//!                             operations ─► answer (values, JSON, problems)
//! ```
//!
//! Keys are any bytes, so paths are parsed raw: everything after the namespace's slash is the key,
//! percent-decoded; `+` is literal. Parts of a request that this server would ignore are refused:
//! to ignore a condition would be a silent overwrite.
//!
//! Some requests are refused before any operation: those for another host (`host`), those from
//! pages of other web sites (`origin`), and those with compressed bodies (`admission`). Bodies that
//! were not read are discarded after the answer (`leftover`).
//!
//! Reading order: `serving` (the connections, with the timeouts of `pace`), `admission`, `path` and
//! `parameters` (the address), `entity_tag`, `conditions` and `idempotency` (headers), `body`,
//! `answer`, then the operations. `document` describes them all (OpenAPI) and serves the
//! description.

mod admission;
mod answer;
mod batches;
mod body;
mod conditions;
mod document;
mod entity_tag;
mod escaped;
mod front;
mod gateway;
mod host;
mod idempotency;
mod increments;
mod keys;
mod leftover;
mod listing;
mod operators;
mod origin;
mod pace;
mod parameters;
mod path;
mod serving;
mod touches;
mod watching;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{
        HeaderName, HeaderValue, Method, StatusCode, Uri,
        header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS},
    },
    middleware::{from_fn, from_fn_with_state, map_response_with_state},
    response::Response,
    routing::{get, post},
};
use tierkv_cache::Cache;
use tierkv_rpc::{Acceptor, Connections};
use tierkv_types::{Code, Error};
use tokio::{net::TcpListener, sync::watch};

use self::{
    admission::admit,
    answer::{Failed, refusal, uncounted},
    leftover::discard_rest,
};

use crate::settings::ConnectionLimits;

pub(crate) use self::{admission::Admission, gateway::Gateway};
pub use self::{
    host::{HostName, NoHostName},
    origin::{NoWebOrigin, WebOrigin},
};

/// The platform's time, in milliseconds since the Unix epoch, for clients whose clock may be wrong.
const TIME_MS: HeaderName = HeaderName::from_static("tierkv-time-ms");

/// The gateway's routes.
fn router<C: Cache>(gateway: Arc<Gateway<C>>) -> Router {
    let key = get(keys::get::<C>)
        .head(keys::head::<C>)
        .put(keys::put::<C>)
        .delete(keys::delete::<C>);
    Router::new()
        .route("/", get(front::page))
        .route("/v1/kv/{namespace}/{*key}", key)
        .route("/v1/kv/{namespace}", get(listing::list::<C>))
        .route("/v1/count/{namespace}", get(listing::count::<C>))
        .route("/v1/watch/{namespace}", get(watching::watch::<C>))
        .route(
            "/v1/increment/{namespace}/{*key}",
            post(increments::increment::<C>),
        )
        .route("/v1/touch/{namespace}/{*key}", post(touches::touch::<C>))
        .route("/v1/batch-get", post(batches::batch_get::<C>))
        .route("/v1/write", post(batches::write::<C>))
        .route("/v1/cluster", get(operators::cluster::<C>))
        .route("/health/live", get(operators::live))
        .route("/health/ready", get(operators::ready::<C>))
        .route("/metrics", get(operators::metrics::<C>))
        .merge(document::router())
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(&gateway.admission), admit))
        .layer(from_fn(discard_rest))
        .layer(map_response_with_state(Arc::clone(&gateway), finish::<C>))
        .with_state(gateway)
}

/// Accepts this door's connections.
pub(crate) fn acceptor(listener: TcpListener, connections: Connections) -> Acceptor {
    let full = answer::farewell(&Error::exhausted(format!(
        "there are {} connections here, which is the limit {}; retry later",
        connections.limit(),
        connections.name()
    )));
    Acceptor::new(listener, serving::DOOR, connections, full)
}

/// Serves until it is stopped and all requests in progress have finished.
pub(crate) async fn serve<C: Cache>(
    gateway: Gateway<C>,
    acceptor: Acceptor,
    limits: ConnectionLimits,
    stop: watch::Receiver<bool>,
) {
    serving::serve(router(Arc::new(gateway)), acceptor, &limits, stop).await;
}

/// Counts a failure, and adds the headers of every answer.
async fn finish<C: Cache>(
    State(gateway): State<Arc<Gateway<C>>>,
    mut response: Response,
) -> Response {
    if let Some(Failed(error)) = response.extensions_mut().remove() {
        gateway.operations.meters.failed(&error);
    }
    let headers = response.headers_mut();
    if let Some(time) = gateway.operations.platform_time_ms() {
        headers.insert(TIME_MS, HeaderValue::from(time));
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Shown in a frame of another page, this page could be used for clickjacking.
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    // A cache in between can't tell how stale an answer is; it may keep one and revalidate it.
    (headers.entry(CACHE_CONTROL)).or_insert(HeaderValue::from_static("no-cache"));
    response
}

async fn nowhere(uri: Uri) -> Response {
    let error = path::misshapen(&uri).unwrap_or_else(|| {
        Error::new(
            Code::NotFound,
            format!(
                "there is nothing at '{}'; keys are at /v1/kv/{{namespace}}/{{key}} and are \
                 listed at /v1/kv/{{namespace}}; everything else is described at /docs and in /openapi.json",
                uri.path().escape_default()
            ),
        )
    });
    uncounted(&error)
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    refusal(
        StatusCode::METHOD_NOT_ALLOWED,
        &Error::invalid(format!(
            "the address does not take {}; it takes {}",
            method.as_str().escape_debug(),
            path::methods(&uri)
        )),
    )
}
