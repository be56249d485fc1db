//! The answering end of a framed stream.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tierkv_types::limits::{FRAME_BYTES, MAX_FRAME_OPERATIONS};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

/// Chunks of answers that wait for the transport; over it handlers wait.
const CHUNKS_AHEAD: usize = 16;

/// Answers frames of one service.
pub trait FrameHandler: Send + Sync + 'static {
    /// What comes in.
    type RequestFrame: Send + 'static;
    /// One answer, with its id.
    type Reply: Send + 'static;
    /// What goes out.
    type ReplyFrame: Send + 'static;

    /// Takes in one frame. What can be answered at once is answered from here; what must
    /// wait goes to a task of its own, admitted by [`Replies::admit`], so that the
    /// stream's later frames don't wait for it.
    fn frame(
        self: &Arc<Self>,
        frame: Self::RequestFrame,
        replies: &Replies<Self::Reply>,
    ) -> impl Future<Output = ()> + Send;

    /// About how many bytes an answer takes in a frame.
    fn weight(reply: &Self::Reply) -> usize;

    /// Makes a frame of answers.
    fn pack(replies: Vec<Self::Reply>) -> Self::ReplyFrame;
}

/// Where a handler puts its answers. Cheap to clone.
pub struct Replies<R> {
    chunks: mpsc::Sender<Result<Vec<R>, Status>>,
    in_flight: Arc<Semaphore>,
    max_in_flight: usize,
}

impl<R> Clone for Replies<R> {
    fn clone(&self) -> Self {
        Self {
            chunks: self.chunks.clone(),
            in_flight: Arc::clone(&self.in_flight),
            max_in_flight: self.max_in_flight,
        }
    }
}

impl<R> Replies<R> {
    /// Sends answers; waits while the peer does not read, and forgets them once it is gone.
    pub async fn send(&self, replies: Vec<R>) {
        if !replies.is_empty() {
            drop(self.chunks.send(Ok(replies)).await);
        }
    }

    /// Waits until `count` more operations of this stream may be under way. While a
    /// handler waits here its stream is not read, which is what slows the peer down.
    /// A frame of more than the stream's bound waits until it is alone.
    pub async fn admit(&self, count: usize) -> Option<Admitted> {
        let places = u32::try_from(count.min(self.max_in_flight)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.in_flight)
            .acquire_many_owned(places)
            .await
            .ok()?;
        Some(Admitted {
            under_way: count,
            permit,
        })
    }
}

/// Operations of one stream that are under way, and the places that they hold.
///
/// Whoever answers them in several chunks says so after each, so that a slow operation
/// holds no place but its own:
///
/// ```ignore
/// let Some(mut admitted) = replies.admit(requests.len()).await else { return };
/// while let Some(chunk) = answered.next().await {
///     let count = chunk.len();
///     replies.send(chunk).await;
///     admitted.answered(count);
/// }
/// ```
///
/// Places that are left are given back when it is dropped.
#[derive(Debug)]
pub struct Admitted {
    /// Operations that are not answered yet.
    under_way: usize,
    /// One place each, or the stream's bound where that is less.
    permit: OwnedSemaphorePermit,
}

impl Admitted {
    /// Says that `count` of the operations were answered; their places are free again.
    pub fn answered(&mut self, count: usize) {
        self.under_way = self.under_way.saturating_sub(count);
        let surplus = self.permit.num_permits().saturating_sub(self.under_way);
        drop(self.permit.split(surplus));
    }
}

/// Reads the frames of `inbound`, lets `handler` answer them, and streams the answers.
pub fn answer_frames<H: FrameHandler>(
    mut inbound: Streaming<H::RequestFrame>,
    handler: Arc<H>,
    greeting: Option<H::ReplyFrame>,
    max_in_flight: usize,
) -> Answered<H> {
    let (chunks, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let in_flight = Arc::new(Semaphore::new(max_in_flight));
    let replies = Replies {
        chunks,
        in_flight,
        max_in_flight,
    };
    tokio::spawn(async move {
        loop {
            match inbound.message().await {
                Ok(Some(frame)) => handler.frame(frame, &replies).await,
                // The peer is done; operations under way finish and are answered.
                Ok(None) => return,
                // A frame that does not decode, or is too large, ends the stream.
                Err(status) => return drop(replies.chunks.send(Err(status)).await),
            }
        }
    });
    Answered {
        greeting,
        chunks: receiver,
        failure: None,
        left: Vec::new(),
    }
}

/// The stream of answer frames.
pub struct Answered<H: FrameHandler> {
    greeting: Option<H::ReplyFrame>,
    chunks: mpsc::Receiver<Result<Vec<H::Reply>, Status>>,
    /// What ends the stream after the answers before it.
    failure: Option<Status>,
    /// Answers that did not fit the frame before, in reverse order.
    left: Vec<H::Reply>,
}

impl<H: FrameHandler> Unpin for Answered<H> {}

impl<H: FrameHandler> Stream for Answered<H> {
    type Item = Result<H::ReplyFrame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(greeting) = self.greeting.take() {
            return Poll::Ready(Some(Ok(greeting)));
        }
        if self.left.is_empty() {
            if let Some(status) = self.failure.take() {
                return Poll::Ready(Some(Err(status)));
            }
            match self.chunks.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Ready(Some(Ok(chunk))) => {
                    if fits::<H>(&chunk) {
                        let chunk = self.merge(chunk);
                        return Poll::Ready(Some(Ok(H::pack(chunk))));
                    }
                    self.left = chunk;
                    self.left.reverse();
                }
            }
        }
        Poll::Ready(Some(Ok(H::pack(self.cut()))))
    }
}

fn fits<H: FrameHandler>(chunk: &[H::Reply]) -> bool {
    chunk.iter().map(H::weight).sum::<usize>() <= FRAME_BYTES
}

impl<H: FrameHandler> Answered<H> {
    /// Adds the chunks that are there already, while they fit.
    fn merge(&mut self, mut chunk: Vec<H::Reply>) -> Vec<H::Reply> {
        let mut bytes: usize = chunk.iter().map(H::weight).sum();
        while chunk.len() < MAX_FRAME_OPERATIONS / 2 && bytes < FRAME_BYTES / 2 {
            match self.chunks.try_recv() {
                Ok(Ok(next)) if fits::<H>(&next) => {
                    bytes += next.iter().map(H::weight).sum::<usize>();
                    chunk.extend(next);
                }
                Ok(Ok(mut next)) => {
                    next.reverse();
                    self.left = next;
                    break;
                }
                Ok(Err(status)) => {
                    self.failure = Some(status);
                    break;
                }
                Err(_) => break,
            }
        }
        chunk
    }

    /// The first answers of what is left, up to one frame and at least one.
    fn cut(&mut self) -> Vec<H::Reply> {
        let (mut frame, mut bytes) = (Vec::new(), 0);
        while let Some(reply) = self.left.last() {
            bytes += H::weight(reply);
            if !frame.is_empty() && bytes > FRAME_BYTES {
                break;
            }
            frame.extend(self.left.pop());
        }
        frame
    }
}
