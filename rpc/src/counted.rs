//! Counts the bytes of answers while they wait for their clients.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{
    Status,
    body::Body,
    codegen::{
        Service,
        http::{Request, Response},
    },
};

use crate::stream_bytes::{ConnectionShares, HeldBytes, StreamShare};

/// A large answer is passed to its connection in pieces of this size, so that a slow client makes
/// visible progress.
const PIECE_BYTES: usize = 256 << 10;

/// How a call answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One message.
    Once,
    /// Frames of answers to requests on the same stream. They are sent even without room, because
    /// only sending them makes room.
    Frames,
    /// Messages that are produced only when they can be sent.
    Stream,
}

impl Kind {
    fn of(path: &str) -> Self {
        match path.rsplit('/').next() {
            Some("Watch" | "Scan") => Self::Stream,
            Some("Session" | "Exchange") => Self::Frames,
            _ => Self::Once,
        }
    }
}

/// A service whose answers count against the share of their connection ([`ConnectionShares`]) until
/// the system has accepted them for the client. The handler of a streaming call finds the
/// [`StreamShare`] of its stream in the extensions of the request ([`stream_share`]).
#[derive(Clone, Debug)]
pub struct Counted<S>(pub S);

impl<S> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Future: Unpin>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answering<S::Future> {
        let kind = Kind::of(request.uri().path());
        let shares = request.extensions().get::<ConnectionShares>();
        let share = shares.map(|shares| match kind {
            Kind::Once => shares.calls().clone(),
            Kind::Frames | Kind::Stream => shares.stream(),
        });
        if let Some(share) = &share
            && kind != Kind::Once
        {
            request.extensions_mut().insert(share.clone());
        }
        Answering {
            answer: self.0.call(request),
            share,
            is_waiting: kind == Kind::Stream,
        }
    }
}

/// The share of a call that streams its answers, for the handler of the call.
///
/// # Errors
/// `Internal` if the request has no share: the service is not [`Counted`], the connection has no
/// [`ConnectionShares`], or the call is unary.
#[allow(clippy::result_large_err)] // It is tonic's.
pub fn stream_share<T>(request: &tonic::Request<T>) -> Result<StreamShare, Status> {
    let share = request.extensions().get::<StreamShare>();
    share.cloned().ok_or_else(|| {
        Status::internal("internal error: this connection has no response-buffer accounting")
    })
}

/// The future of a response. Its body counts against the share ([`CountedBody`]).
#[derive(Debug)]
pub struct Answering<F> {
    answer: F,
    /// `None` for a connection without [`ConnectionShares`]: the response does not count.
    share: Option<StreamShare>,
    is_waiting: bool,
}

impl<F, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<Body>, E>> + Unpin,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let response = ready!(Pin::new(&mut this.answer).poll(context))?;
        let Some(share) = this.share.take() else {
            return Poll::Ready(Ok(response));
        };
        let is_waiting = this.is_waiting;
        Poll::Ready(Ok(response.map(|body| match is_waiting {
            true => Body::new(CountedBody::waiting(body, share)),
            false => Body::new(CountedBody::new(body, share)),
        })))
    }
}

/// The body of an answer. A frame that is large enough to count (see [`StreamShare`]) is held
/// against the share until the system has accepted all of its bytes for the client.
pub struct CountedBody<B> {
    body: B,
    share: StreamShare,
    /// Whether the body waits for room before it produces more.
    is_waiting: bool,
    room: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// The rest of a large frame.
    left: Option<(HeldBytes, Bytes)>,
}

impl<B> CountedBody<B> {
    /// A body that is sent with or without room.
    pub const fn new(body: B, share: StreamShare) -> Self {
        Self {
            body,
            share,
            is_waiting: false,
            room: None,
            left: None,
        }
    }

    /// A body that produces more only when there is room.
    pub fn waiting(body: B, share: StreamShare) -> Self {
        Self {
            is_waiting: true,
            ..Self::new(body, share)
        }
    }

    fn piece(&mut self) -> Option<Bytes> {
        let (mut held, mut bytes) = self.left.take()?;
        let piece = held.attach(bytes.split_to(bytes.len().min(PIECE_BYTES)));
        self.left = (!bytes.is_empty()).then_some((held, bytes));
        Some(piece)
    }

    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.room.is_none() && (!self.is_waiting || self.share.has_room()) {
            return Poll::Ready(());
        }
        let room = self.room.get_or_insert_with(|| {
            let share = self.share.clone();
            Box::pin(async move { share.room().await })
        });
        ready!(room.as_mut().poll(context));
        self.room = None;
        Poll::Ready(())
    }
}

impl<B> HttpBody for CountedBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        if let Some(piece) = this.piece() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        ready!(this.poll_room(context));
        let frame = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            end => return Poll::Ready(end),
        };
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
        };
        let Some(held) = this.share.hold(data.len()) else {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        };
        this.left = Some((held, data));
        Poll::Ready(this.piece().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let left = (self.left.as_ref()).map_or(0, |(_, bytes)| bytes.len() as u64);
        let rest = self.body.size_hint();
        let mut hint = SizeHint::new();
        // The upper bound first: the lower must not exceed it.
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + left);
        }
        hint.set_lower(rest.lower() + left);
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible, task::Waker};

    use super::*;
    use crate::stream_bytes::StreamBytes;

    /// Its frames, one after the other.
    struct Frames(VecDeque<Bytes>);

    impl HttpBody for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|bytes| Ok(Frame::data(bytes))))
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0.iter().map(|bytes| bytes.len() as u64).sum())
        }
    }

    fn frames(sizes: &[usize]) -> Frames {
        Frames(
            sizes
                .iter()
                .map(|size| Bytes::from(vec![3; *size]))
                .collect(),
        )
    }

    /// The data of the next frame, if the body does not wait.
    fn next<B>(body: &mut CountedBody<B>) -> Poll<Option<Bytes>>
    where
        B: HttpBody<Data = Bytes, Error = Infallible> + Unpin,
    {
        let mut context = Context::from_waker(Waker::noop());
        let frame = Pin::new(body).poll_frame(&mut context);
        frame.map(|frame| frame.map(|frame| frame.unwrap().into_data().unwrap()))
    }

    #[tokio::test]
    async fn a_large_frame_comes_in_pieces_and_whole() {
        let shares = ConnectionShares::new(&StreamBytes::of_users("test", 1 << 30));
        let size = 2 * PIECE_BYTES + 5;
        let mut body = CountedBody::new(frames(&[10, size]), shares.stream());
        let mut sizes = Vec::new();
        let mut hints = vec![body.size_hint().exact().unwrap()];
        while let Poll::Ready(Some(data)) = next(&mut body) {
            sizes.push(data.len());
            hints.push(body.size_hint().exact().unwrap());
        }
        assert_eq!(sizes, [10, PIECE_BYTES, PIECE_BYTES, 5]);
        let all = 10 + size as u64;
        let piece = PIECE_BYTES as u64;
        assert_eq!(hints, [all, all - 10, 5 + piece, 5, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_makes_no_more_until_there_is_room() {
        let shares = ConnectionShares::new(&StreamBytes::of_users("test", 2 << 20));
        let mut streamed = CountedBody::waiting(frames(&[1 << 20, 7]), shares.stream());
        let mut answer = CountedBody::new(frames(&[9]), shares.calls().clone());
        let mut sent = Vec::new();
        for _ in 0..4 {
            let Poll::Ready(Some(piece)) = next(&mut streamed) else {
                panic!("a frame that was made is sent");
            };
            sent.push(piece);
        }
        assert!(next(&mut streamed).is_pending());
        assert_eq!(
            next(&mut answer),
            Poll::Ready(Some(Bytes::from(vec![3; 9])))
        );
        sent.pop();
        assert_eq!(
            next(&mut streamed).map(|data| data.unwrap().len()),
            Poll::Ready(7)
        );
    }
}
