//! Watches, as server-sent events.
//!
//! An event's id is the resume token. Changes sent together share one token, which the last of them
//! carries. A watch interrupted among them continues before the first: some are sent twice, but
//! none is lost. Browsers send the id back by themselves (`Last-Event-ID`).

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde::Serialize;
use tierkv_cache::Cache;
use tierkv_openapi::{
    Problem,
    events::{Change, ProgressEvent},
    octets,
    parameters::{LastEventId, NamespacePath, WatchParameters},
    refusals::{AnyRefusal, TokenRefusal},
};
use tierkv_rpc::{
    proto::v1::{WatchRequest, WatchResponse},
    stopped,
};
use tierkv_types::{Code, Error};

use super::{Gateway, answer::Failure, parameters::Parameters, path};

/// Where a client was when it lost its connection, by the standard of server-sent events.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Where a client gets a resume token, for error messages.
const EVENT_ID: &str = "the id of an event";
/// How long a client waits before it reconnects.
const RETRY: Duration = Duration::from_secs(1);
/// How often a comment is sent over an idle connection, so that it is not taken for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The changes of keys
///
/// Server-sent events without end: `written` and `removed` with the change in JSON,
/// `progress` where nothing changed, and `problem` as the last one if the watch fails. The id
/// of an event is where a watch goes on; a client that connects again sends it as
/// `Last-Event-ID`. Each change is told at least once, of one key in the order of its
/// versions; the stream ends when the server stops.
#[utoipa::path(
    get, path = "/v1/watch/{namespace}", tag = "listing", operation_id = "watch",
    params(NamespacePath, WatchParameters, LastEventId),
    responses(
        (status = 200, description = "The changes, as they happen.", body = String, content_type = "text/event-stream"),
        AnyRefusal, TokenRefusal,
    ),
)]
pub(super) async fn watch<C: Cache>(
    State(gateway): State<Arc<Gateway<C>>>,
    request: Request,
) -> Result<Response, Failure> {
    let namespace = path::namespace(request.uri(), path::WATCH)?;
    let mut parameters = Parameters::of(request.uri())?;
    let prefix = parameters.octets("prefix")?.unwrap_or_default();
    let from_query = parameters.text("resume_token")?;
    parameters.finish()?;
    // A reconnecting client uses the address of its first connection.
    let resume_token = match last_event_id(request.headers())? {
        Some(token) => octets::token_bytes("Last-Event-ID", EVENT_ID, &token)?,
        None => match from_query {
            Some(token) => octets::token_bytes("resume_token", EVENT_ID, &token)?,
            None => Bytes::new(),
        },
    };
    let wanted = WatchRequest {
        namespace,
        prefix,
        resume_token,
    };
    let answers = gateway.operations.watch(wanted).await?;
    let meters = Arc::clone(&gateway.operations.meters);
    let rest = answers.flat_map(move |answer| {
        if let Err(error) = &answer {
            meters.failed(error);
        }
        stream::iter(events(answer).into_iter().map(Ok::<_, Infallible>))
    });
    let first = stream::once(async { Ok(Event::default().retry(RETRY)) });
    let events = (first.chain(rest)).take_until(stopped(gateway.stop.clone()));
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

/// The id of the last event that a client received; an empty one counts as none.
fn last_event_id(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(id) = headers.get(LAST_EVENT_ID) else {
        return Ok(None);
    };
    let id = id.to_str().map_err(|_| {
        Error::invalid("Last-Event-ID must be the id of an event that this address sent before")
    })?;
    Ok((!id.is_empty()).then(|| id.to_owned()))
}

/// The events of one answer of a watch.
fn events(answer: Result<WatchResponse, Error>) -> Vec<Event> {
    answer
        .and_then(events_of)
        .unwrap_or_else(|error| vec![problem(&error)])
}

fn events_of(answer: WatchResponse) -> Result<Vec<Event>, Error> {
    let token = octets::token(&answer.resume_token);
    let Some(last) = answer.events.len().checked_sub(1) else {
        let progress = ProgressEvent {
            resume_token: token.clone(),
        };
        return Ok(vec![event("progress", &progress)?.id(token)]);
    };
    (answer.events.into_iter().enumerate())
        .map(|(at, wire)| {
            let event = match Change::from_wire(wire) {
                Some(Change::Written(written)) => event("written", &written)?,
                Some(Change::Removed(removed)) => event("removed", &removed)?,
                None => {
                    return Err(Error::new(
                        Code::Internal,
                        "a tier sent a change that is neither written nor removed",
                    ));
                }
            };
            Ok(match at == last {
                true => event.id(token.clone()),
                false => event,
            })
        })
        .collect()
}

fn event(name: &str, data: &impl Serialize) -> Result<Event, Error> {
    let event = Event::default().event(name).json_data(data);
    event.map_err(|error| Error::new(Code::Internal, error.to_string()))
}

/// The error of a watch, as its last event.
fn problem(error: &Error) -> Event {
    // Serialising strings and a number can't fail.
    event("problem", &Problem::new(error)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use tierkv_rpc::proto::v1::{Removed, WatchEvent, Written, watch_event::Kind};

    use super::*;

    async fn text(answer: Result<WatchResponse, Error>) -> String {
        let events = stream::iter(events(answer).into_iter().map(Ok::<_, Infallible>));
        let body = Sse::new(events).into_response().into_body();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        String::from_utf8(bytes.into()).unwrap()
    }

    fn change(key: &'static [u8], kind: Option<Kind>) -> WatchEvent {
        WatchEvent {
            key: Bytes::from_static(key),
            version: 7,
            kind,
        }
    }

    fn answer(events: Vec<WatchEvent>) -> Result<WatchResponse, Error> {
        Ok(WatchResponse {
            events,
            resume_token: Bytes::from_static(b"\xfb\xff"),
            is_partial: false,
        })
    }

    #[tokio::test]
    async fn the_last_change_of_an_answer_carries_its_token() {
        let written = Written {
            value: Bytes::from_static(b"two\nlines"),
            expires_at_ms: 9,
        };
        let changes = vec![
            change(b"\xff", Some(Kind::Written(written))),
            change(b"k", Some(Kind::Removed(Removed {}))),
        ];
        let expected = concat!(
            "event: written\n",
            "data: {\"key_base64\":\"/w==\",\"value\":\"two\\nlines\",\"version\":\"7\",\"expires_at\":9}\n\n",
            "event: removed\n",
            "data: {\"key\":\"k\",\"version\":\"7\"}\n",
            "id: -_8\n\n",
        );
        assert_eq!(text(answer(changes)).await, expected);
    }

    #[tokio::test]
    async fn an_answer_without_changes_moves_the_token_on() {
        let expected = "event: progress\ndata: {\"resume_token\":\"-_8\"}\nid: -_8\n\n";
        assert_eq!(text(answer(vec![])).await, expected);
    }

    #[tokio::test]
    async fn a_failed_watch_ends_with_a_problem() {
        let gone = text(Err(Error::new(Code::TokenExpired, "too old"))).await;
        assert!(gone.starts_with("event: problem\ndata: {"), "{gone}");
        assert!(
            gone.contains("\"TokenExpired\"") && gone.contains("too old"),
            "{gone}"
        );
        let unknown = text(answer(vec![change(b"k", None)])).await;
        assert!(unknown.contains("Internal"), "{unknown}");
    }
}
