//! A timeout for request bodies: without it, a slow client could hold a request, and its resources,
//! forever.

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use metrics::Counter;
use tierkv_rpc::{connection_timeouts, proto::status::to_status};
use tierkv_types::{Code, Error};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

type BoxError = Box<dyn StdError + Send + Sync>;

/// The timeout of bodies at one door.
#[derive(Clone)]
pub(crate) struct BodyTime {
    time: Duration,
    timeouts: Counter,
}

impl BodyTime {
    pub(crate) fn new(door: &'static str, time: Duration) -> Self {
        Self {
            time,
            timeouts: connection_timeouts(door, "limits.body_timeout_ms"),
        }
    }

    /// A body whose timeout starts now.
    pub(crate) fn limit<B>(&self, body: B) -> TimelyBody<B> {
        TimelyBody {
            body: Some(body),
            until: Instant::now() + self.time,
            sleep: None,
            timeouts: self.timeouts.clone(),
        }
    }
}

/// A body that fails after its timeout.
pub(crate) struct TimelyBody<B> {
    /// `None` once it has failed.
    body: Option<B>,
    until: Instant,
    /// Created on the first wait: most bodies are there at once.
    sleep: Option<Pin<Box<Sleep>>>,
    timeouts: Counter,
}

impl<B> Body for TimelyBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let until = this.until;
        let sleep = this
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        ready!(sleep.as_mut().poll(context));
        this.body = None;
        this.timeouts.increment(1);
        Poll::Ready(Some(Err(LateBody::new().into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        (self.body.as_ref()).map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// The error of a body that timed out.
#[derive(Debug)]
pub(crate) struct LateBody {
    /// The status for a gRPC client: tonic looks for it in the source.
    status: Status,
}

impl LateBody {
    fn new() -> Self {
        Self {
            status: to_status(&Self::error()),
        }
    }

    /// The error for the client.
    pub(crate) fn error() -> Error {
        Error::new(
            Code::DeadlineExceeded,
            "the body did not arrive within the limit limits.body_timeout_ms; nothing was done",
        )
    }

    /// Whether the body's timeout caused this error.
    pub(crate) fn is_in(error: &(dyn StdError + 'static)) -> bool {
        let mut next = Some(error);
        while let Some(error) = next {
            if error.is::<Self>() {
                return true;
            }
            next = error.source();
        }
        false
    }
}

impl fmt::Display for LateBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body took too long")
    }
}

impl StdError for LateBody {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.status)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body as AnyBody;
    use futures::{StreamExt, stream};
    use http_body_util::BodyExt;

    use super::*;

    const TIME: Duration = Duration::from_secs(30);

    /// A body in pieces, one per second.
    fn slow(pieces: u64) -> AnyBody {
        let pieces = stream::iter(0..pieces).then(|_| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, std::io::Error>(Bytes::from_static(b"piece"))
        });
        AnyBody::from_stream(pieces)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_take_its_time_and_no_more() {
        let time = BodyTime::new("test", TIME);
        let whole = time.limit(slow(29)).collect().await.unwrap();
        assert_eq!(whole.to_bytes().len(), 29 * 5);
        let late = time.limit(slow(31)).collect().await.unwrap_err();
        assert!(LateBody::is_in(&*late));
        // Wrapped as by the layers of a server.
        let wrapped = AnyBody::new(time.limit(slow(31)))
            .collect()
            .await
            .unwrap_err();
        assert!(LateBody::is_in(&wrapped));
        let status = Status::from_error(wrapped.into());
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_there_is_what_it_was() {
        let time = BodyTime::new("test", TIME);
        let mut body = time.limit(AnyBody::from("value"));
        assert_eq!(body.size_hint().exact(), Some(5));
        tokio::time::sleep(2 * TIME).await;
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "value");
        assert!(body.is_end_stream() && body.frame().await.is_none());
        assert!(time.limit(AnyBody::empty()).is_end_stream());
    }
}
