//! The answering end of a framed stream.

use std::{
    collections::VecDeque,
    future::Future,
    mem,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use tierkv_proto::status::to_status;
use tierkv_types::limits::{FRAME_BYTES, MAX_FRAME_OPERATIONS};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use crate::{
    serving::stopping,
    stream_bytes::{HeldBytes, StreamShare},
};

/// Maximum chunks of answers that wait for the transport; over it handlers wait.
const CHUNKS_AHEAD: usize = 16;

/// Answers the frames of one service.
pub trait FrameHandler: Send + Sync + 'static {
    /// A frame of requests.
    type RequestFrame: Send + 'static;
    /// One answer, with its id.
    type Reply: Send + 'static;
    /// A frame of answers.
    type ReplyFrame: Send + 'static;

    /// Handles one frame. Requests that can be answered at once are answered here. Others go to a
    /// task of their own, admitted by [`Replies::admit`], so that later frames of the stream need
    /// not wait. When the peer goes away, this future is dropped with the stream.
    fn frame(
        self: &Arc<Self>,
        frame: Self::RequestFrame,
        replies: &Replies<Self::Reply>,
    ) -> impl Future<Output = ()> + Send;

    /// The approximate size of an answer in a frame, in bytes.
    fn weight(reply: &Self::Reply) -> usize;

    /// Builds a frame of answers.
    fn pack(&self, replies: Vec<Self::Reply>) -> Self::ReplyFrame;
}

/// Answers that are sent together.
struct Chunk<R> {
    replies: Vec<R>,
    /// Their size in bytes.
    bytes: usize,
    /// Counts those bytes while they are not in a frame, if they are enough to count.
    held: Option<HeldBytes>,
}

/// The sink for a handler's answers. Cheap to clone.
pub struct Replies<R> {
    chunks: mpsc::Sender<Chunk<R>>,
    weight: fn(&R) -> usize,
    /// Counts the answers that are not in a frame yet; `None` if they need not count.
    share: Option<StreamShare>,
    in_flight: Arc<Semaphore>,
    max_in_flight: usize,
}

impl<R> Clone for Replies<R> {
    fn clone(&self) -> Self {
        Self {
            chunks: self.chunks.clone(),
            weight: self.weight,
            share: self.share.clone(),
            in_flight: Arc::clone(&self.in_flight),
            max_in_flight: self.max_in_flight,
        }
    }
}

impl<R> Replies<R> {
    /// Sends answers; waits while the peer does not read, and drops them once it is gone.
    pub async fn send(&self, replies: Vec<R>) {
        if replies.is_empty() {
            return;
        }
        let bytes = replies.iter().map(self.weight).sum();
        let held = (self.share.as_ref()).and_then(|share| share.hold(bytes));
        let chunk = Chunk {
            replies,
            bytes,
            held,
        };
        drop(self.chunks.send(chunk).await);
    }

    /// Waits until no operation of this stream is in progress.
    pub async fn idle(&self) {
        let all = u32::try_from(self.max_in_flight).unwrap_or(u32::MAX);
        drop(self.in_flight.acquire_many(all).await);
    }

    /// Waits until `count` more operations of this stream may be in progress. While a handler waits
    /// here, its stream is not read: backpressure to the peer. A frame larger than the stream's
    /// limit waits until it is alone.
    pub async fn admit(&self, count: usize) -> Option<OperationPermits> {
        let permits = u32::try_from(count.min(self.max_in_flight)).unwrap_or(u32::MAX);
        let held = Arc::clone(&self.in_flight)
            .acquire_many_owned(permits)
            .await
            .ok()?;
        Some(OperationPermits {
            under_way: count,
            held,
        })
    }
}

/// The permits of the operations of one stream that are in progress.
///
/// After each chunk of answers, return its permits, so that a slow operation holds no permit but
/// its own:
///
/// ```text
/// let Some(mut permits) = replies.admit(requests.len()).await else { return };
/// while let Some(chunk) = answered.next().await {
///     let count = chunk.len();
///     replies.send(chunk).await;
///     permits.answered(count);
/// }
/// ```
///
/// Dropping it returns the remaining permits.
#[derive(Debug)]
pub struct OperationPermits {
    /// Operations not answered yet.
    under_way: usize,
    /// One per operation, or the stream's limit if that is less.
    held: OwnedSemaphorePermit,
}

impl OperationPermits {
    /// Returns the permits of `count` answered operations.
    pub fn answered(&mut self, count: usize) {
        self.under_way = self.under_way.saturating_sub(count);
        let surplus = self.held.num_permits().saturating_sub(self.under_way);
        drop(self.held.split(surplus));
    }
}

/// Reads the frames of `inbound`, has `handler` answer them, and streams the answers. Those that are
/// not in a frame yet count for `share`, if there is one.
///
/// Once `stop` becomes true or loses its sender, no further frame is read and operations in
/// progress are answered. Then the stream ends with `Unavailable`, which is a promise: operations
/// that were not answered were never started.
///
/// Frames are read by the task that polls the answers: a frame that can be answered at once needs
/// no second task, and a peer that does not read its answers is not read either.
pub fn answer_frames<H: FrameHandler>(
    inbound: Streaming<H::RequestFrame>,
    handler: Arc<H>,
    greeting: Option<H::ReplyFrame>,
    max_in_flight: usize,
    share: Option<StreamShare>,
    stop: watch::Receiver<bool>,
) -> Answered<H> {
    let (chunks, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let replies = Replies {
        chunks,
        weight: H::weight,
        share,
        in_flight: Arc::new(Semaphore::new(max_in_flight)),
        max_in_flight,
    };
    Answered {
        greeting,
        reading: Some(Box::pin(read_frames(
            inbound,
            Arc::clone(&handler),
            replies,
            stop,
        ))),
        handler,
        chunks: receiver,
        is_over: false,
        last_word: None,
        left: VecDeque::new(),
        left_bytes: 0,
        held: None,
    }
}

/// Passes the frames to the handler until there are no more. Returns how the stream ends once all
/// operations in progress are answered.
async fn read_frames<H: FrameHandler>(
    mut inbound: Streaming<H::RequestFrame>,
    handler: Arc<H>,
    replies: Replies<H::Reply>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Status> {
    let mut stops = pin!(stop.wait_for(|stop| *stop));
    loop {
        let message = tokio::select! {
            biased;
            _ = &mut stops => {
                return Err(to_status(&stopping()));
            }
            message = inbound.message() => message,
        };
        match message {
            Ok(Some(frame)) => handler.frame(frame, &replies).await,
            // The peer has finished sending; operations in progress are still answered.
            Ok(None) => return Ok(()),
            // A frame that does not decode, or is too large, ends the stream.
            Err(status) => return Err(status),
        }
    }
}

/// Reads and handles frames; resolves to the end of the stream.
type Reading = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

/// The stream of answer frames.
pub struct Answered<H: FrameHandler> {
    handler: Arc<H>,
    greeting: Option<H::ReplyFrame>,
    /// Reads and handles frames; `None` once there are no more.
    reading: Option<Reading>,
    chunks: mpsc::Receiver<Chunk<H::Reply>>,
    /// Whether all chunks have arrived.
    is_over: bool,
    /// The status after the last answer, unless the stream ends normally.
    last_word: Option<Status>,
    /// Answers not yet in a frame.
    left: VecDeque<H::Reply>,
    /// Their size in bytes.
    left_bytes: usize,
    /// Counts them, if they are enough to count.
    held: Option<HeldBytes>,
}

impl<H: FrameHandler> Unpin for Answered<H> {}

impl<H: FrameHandler> Stream for Answered<H> {
    type Item = Result<H::ReplyFrame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(greeting) = self.greeting.take() {
            return Poll::Ready(Some(Ok(greeting)));
        }
        self.read(context);
        self.gather(context);
        if !self.left.is_empty() {
            let replies = self.cut();
            return Poll::Ready(Some(Ok(self.handler.pack(replies))));
        }
        match self.is_over {
            true => Poll::Ready(self.last_word.take().map(Err)),
            false => Poll::Pending,
        }
    }
}

impl<H: FrameHandler> Answered<H> {
    fn is_full(&self) -> bool {
        self.left.len() >= MAX_FRAME_OPERATIONS || self.left_bytes >= FRAME_BYTES
    }

    /// Handles the frames that have arrived.
    fn read(&mut self, context: &mut Context<'_>) {
        if self.is_full() {
            return;
        }
        if let Some(reading) = &mut self.reading
            && let Poll::Ready(end) = reading.as_mut().poll(context)
        {
            self.reading = None;
            self.last_word = end.err();
        }
    }

    /// Takes the chunks that have arrived, up to about one frame.
    fn gather(&mut self, context: &mut Context<'_>) {
        while !self.is_over && !self.is_full() {
            match self.chunks.poll_recv(context) {
                Poll::Ready(Some(chunk)) => {
                    self.left_bytes += chunk.bytes;
                    match self.left.is_empty() {
                        true => self.left = chunk.replies.into(),
                        false => self.left.extend(chunk.replies),
                    }
                    match (&mut self.held, chunk.held) {
                        (Some(held), Some(more)) => held.merge(more),
                        (held, more) => *held = held.take().or(more),
                    }
                }
                Poll::Ready(None) => self.is_over = true,
                Poll::Pending => return,
            }
        }
    }

    /// The first of the waiting answers, up to one frame and at least one.
    fn cut(&mut self) -> Vec<H::Reply> {
        if self.left_bytes <= FRAME_BYTES {
            self.left_bytes = 0;
            self.held = None;
            return mem::take(&mut self.left).into();
        }
        let (mut count, mut bytes) = (0, 0);
        for reply in &self.left {
            let weight = H::weight(reply);
            if count > 0 && bytes + weight > FRAME_BYTES {
                break;
            }
            bytes += weight;
            count += 1;
        }
        self.left_bytes -= bytes;
        if let Some(held) = &mut self.held {
            held.give_back(bytes);
        }
        self.left.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn replies(max_in_flight: usize) -> Replies<()> {
        Replies {
            chunks: mpsc::channel(1).0,
            weight: |()| 0,
            share: None,
            in_flight: Arc::new(Semaphore::new(max_in_flight)),
            max_in_flight,
        }
    }

    #[tokio::test]
    async fn each_answer_gives_its_place_back() {
        let replies = replies(4);
        let mut permits = replies.admit(3).await.unwrap();
        permits.answered(1);
        assert_eq!(replies.in_flight.available_permits(), 2);
        permits.answered(0);
        assert_eq!(replies.in_flight.available_permits(), 2);
        drop(permits);
        assert_eq!(replies.in_flight.available_permits(), 4);
    }

    #[tokio::test]
    async fn a_stream_is_idle_once_all_its_operations_are_answered() {
        let replies = replies(4);
        replies.idle().await;
        let mut permits = replies.admit(2).await.unwrap();
        let mut idle = pin!(replies.idle());
        let mut context = Context::from_waker(Waker::noop());
        assert!(idle.as_mut().poll(&mut context).is_pending());
        permits.answered(1);
        assert!(idle.as_mut().poll(&mut context).is_pending());
        permits.answered(1);
        idle.await;
        assert_eq!(replies.in_flight.available_permits(), 4);
    }

    #[tokio::test]
    async fn more_than_the_bound_holds_all_places_until_so_many_are_left() {
        let replies = replies(4);
        let mut permits = replies.admit(10).await.unwrap();
        permits.answered(6);
        assert_eq!(replies.in_flight.available_permits(), 0);
        permits.answered(1);
        assert_eq!(replies.in_flight.available_permits(), 1);
        permits.answered(3);
        assert_eq!(replies.in_flight.available_permits(), 4);
    }
}
