//! Discards the unread rest of bodies: those of requests that were refused early.
//!
//! Many clients send a whole body before they read the answer, and closing a connection with unread
//! bytes can lose the answer (RFC 9112, section 9.6). So the answer is sent at once, and the rest
//! of the body is read and discarded after it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream, HttpBody},
    extract::Request,
    http::header::EXPECT,
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::time::{Instant, timeout, timeout_at};

/// Maximum bytes discarded of a refused body; the connection is closed over it.
const DISCARDED_BYTES: usize = 1 << 30;
/// Maximum time of the discarding.
const DISCARD_TIME: Duration = Duration::from_secs(30);
/// Maximum pause of a client meanwhile.
const DISCARD_PAUSE: Duration = Duration::from_secs(2);

/// Passes a request on, and discards the part of its body that was not read.
pub(super) async fn discard_rest(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    if body.is_end_stream() {
        return next.run(Request::from_parts(head, body)).await;
    }
    let asks_first = head.headers.contains_key(EXPECT);
    let lender = Lender::default();
    let lent = Body::from_stream(lender.lend(body));
    let response = next.run(Request::from_parts(head, lent)).await;
    if let Some(rest) = lender.returned()
        // With `Expect: 100-continue`, the client sends the body only once it is read.
        && (rest.was_read || !asks_first)
    {
        tokio::spawn(discard(rest.stream));
    }
    response
}

async fn discard(mut stream: BodyDataStream) {
    let (mut bytes, end) = (0, Instant::now() + DISCARD_TIME);
    while bytes <= DISCARDED_BYTES
        && let Ok(Ok(Some(Ok(chunk)))) =
            timeout_at(end, timeout(DISCARD_PAUSE, stream.next())).await
    {
        bytes += chunk.len();
    }
}

/// The rest of a body.
struct Rest {
    stream: BodyDataStream,
    /// Whether the operation started to read it.
    was_read: bool,
}

/// Lends a body to an operation, and gets back what was not read.
#[derive(Default)]
struct Lender(Arc<Mutex<Option<Rest>>>);

impl Lender {
    fn lend(&self, body: Body) -> Lent {
        Lent {
            rest: Some(Rest {
                stream: body.into_data_stream(),
                was_read: false,
            }),
            lender: Arc::clone(&self.0),
        }
    }

    /// The rest of the body, if the operation is done with it and left some.
    fn returned(&self) -> Option<Rest> {
        locked(&self.0).take()
    }
}

fn locked(place: &Mutex<Option<Rest>>) -> MutexGuard<'_, Option<Rest>> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A lent body.
struct Lent {
    /// `None` once it was read to its end, or failed.
    rest: Option<Rest>,
    lender: Arc<Mutex<Option<Rest>>>,
}

impl Stream for Lent {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        rest.was_read = true;
        let next = rest.stream.poll_next_unpin(context);
        if let Poll::Ready(None | Some(Err(_))) = next {
            self.rest = None;
        }
        next
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        *locked(&self.lender) = self.rest.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(chunks: &[&'static str]) -> Body {
        let chunks: Vec<Result<_, axum::Error>> =
            chunks.iter().map(|chunk| Ok(Bytes::from(*chunk))).collect();
        Body::from_stream(futures::stream::iter(chunks))
    }

    #[tokio::test]
    async fn an_unread_rest_comes_back() {
        let lender = Lender::default();
        let mut lent = lender.lend(body(&["a", "b", "c"]));
        assert_eq!(lent.next().await.unwrap().unwrap(), "a");
        assert!(lender.returned().is_none(), "it is still being read");
        drop(lent);
        let mut rest = lender.returned().unwrap();
        assert!(rest.was_read);
        assert_eq!(rest.stream.next().await.unwrap().unwrap(), "b");

        drop(lender.lend(body(&["a"])));
        assert!(lender.returned().is_some_and(|rest| !rest.was_read));
    }

    #[tokio::test]
    async fn nothing_comes_back_of_what_was_read() {
        let lender = Lender::default();
        let mut lent = lender.lend(body(&["a"]));
        assert!(lent.next().await.is_some());
        assert!(lent.next().await.is_none());
        drop(lent);
        assert!(lender.returned().is_none());
    }
}
