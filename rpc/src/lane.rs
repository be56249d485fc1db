//! One framed stream and the calls that wait for its answers.
//!
//! ```text
//!   callers ──► queue ──► Outbound (drawn by the transport) ──► peer
//!      ▲                                                         │
//!      └────────── deliver ◄── converse (the lane's task) ◄──────┘
//! ```
//!
//! The transport polls for frames. While it is busy, operations collect into the next frame.

use std::{
    collections::VecDeque,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use slab::Slab;
use tierkv_types::{
    Code, Error,
    limits::{FRAME_BYTES, MAX_FRAME_OPERATIONS, MAX_REQUEST_BYTES},
};
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, MissedTickBehavior, interval, interval_at, timeout, timeout_at},
};
use tokio_stream::Stream;
use tonic::Streaming;

use crate::{
    deadline::last_attempt,
    exchange::{CallError, Exchange},
    process_name::AddressedChannel,
};

/// How often timed-out calls are looked for: the precision of deadlines.
const SWEEP_INTERVAL: Duration = Duration::from_millis(10);
/// Timeout of opening a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// How many turns of the runtime a frame is held back at most, while each turn adds operations:
/// callers woken together go into one frame.
const GATHERING_TURNS: u32 = 4;

/// The outcome of a call.
pub(crate) type Outcome<X> = Result<<X as Exchange>::Reply, CallError>;

/// Receives what a frame carries beside its answers.
pub(crate) type OnNews<X> = Arc<dyn Fn(<X as Exchange>::News) + Send + Sync>;

/// One stream, opened on demand and reopened after it broke.
pub(crate) struct Lane<X: Exchange> {
    calls: Mutex<Calls<X>>,
    /// Limits queued and sent operations together.
    in_flight: Semaphore,
    on_news: OnNews<X>,
}

struct Calls<X: Exchange> {
    queue: VecDeque<(u64, X::Request)>,
    waiting: Slab<Waiting<X>>,
    /// Distinguishes the ids of successive calls in one place.
    generation: u32,
    /// The waker of the task that found the queue empty: woken by the next call.
    idle: Option<Waker>,
    /// The stream's number: the transport of an earlier stream gets no more frames.
    stream: u64,
    /// Whether the peer accepted the stream. Operations leave the queue only then, so that an
    /// operation still queued is certainly unsent.
    is_open: bool,
    /// Whether to open the stream although nothing is queued.
    is_wanted: bool,
    /// Whether all callers are gone.
    is_closing: bool,
}

struct Waiting<X: Exchange> {
    generation: u32,
    deadline: Instant,
    /// When it is refused if the stream is not open by then; `None` if it was open already.
    refuse_at: Option<Instant>,
    sent: bool,
    answer: oneshot::Sender<Outcome<X>>,
}

const fn id_of(place: usize, generation: u32) -> u64 {
    ((generation as u64) << 32) | place as u64
}

/// The place in an id, and its generation.
#[allow(clippy::cast_possible_truncation)]
const fn place_of(id: u64) -> (usize, u32) {
    ((id & 0xffff_ffff) as usize, (id >> 32) as u32)
}

impl<X: Exchange> Calls<X> {
    fn enqueue(
        &mut self,
        request: X::Request,
        deadline: Instant,
        answer: oneshot::Sender<Outcome<X>>,
    ) {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let refuse_at = (!self.is_open).then(|| last_attempt(deadline));
        let place = self.waiting.insert(Waiting {
            generation,
            deadline,
            refuse_at,
            sent: false,
            answer,
        });
        self.queue.push_back((id_of(place, generation), request));
    }

    /// The call with this id, unless it has ended.
    fn waiting(&mut self, id: u64) -> Option<&mut Waiting<X>> {
        let (place, generation) = place_of(id);
        self.waiting
            .get_mut(place)
            .filter(|waiting| waiting.generation == generation)
    }

    /// A frame of the queued operations, up to its limit.
    fn next_frame(&mut self) -> Option<X::RequestFrame> {
        let now = Instant::now();
        let mut frame = X::empty(self.queue.len().min(MAX_FRAME_OPERATIONS));
        let (mut count, mut operations, mut bytes) = (0, 0, 0);
        while let Some((_, request)) = self.queue.front() {
            operations += X::operations(request);
            bytes += X::weight(request);
            if count > 0 && (operations > MAX_FRAME_OPERATIONS || bytes > FRAME_BYTES) {
                break;
            }
            if let Some((id, request)) = self.queue.pop_front()
                && let Some(waiting) = self.waiting(id)
            {
                waiting.sent = true;
                let left = waiting.deadline.duration_since(now);
                X::push(&mut frame, id, left, request);
                count += 1;
            }
        }
        (count > 0).then_some(frame)
    }
}

impl<X: Exchange> Lane<X> {
    /// Starts the lane's task.
    pub(crate) fn start(
        channel: AddressedChannel,
        max_in_flight: usize,
        on_news: OnNews<X>,
    ) -> Arc<Self> {
        let lane = Arc::new(Self {
            calls: Mutex::new(Calls {
                queue: VecDeque::new(),
                waiting: Slab::new(),
                generation: 0,
                idle: None,
                stream: 0,
                is_open: false,
                is_wanted: false,
                is_closing: false,
            }),
            in_flight: Semaphore::new(max_in_flight),
            on_news,
        });
        tokio::spawn(Arc::clone(&lane).run(channel));
        lane
    }

    /// Opens the stream now instead of with the first call. If that fails, the first call retries.
    pub(crate) fn open_at_once(&self) {
        let idle = {
            let mut calls = self.calls();
            calls.is_wanted = true;
            calls.idle.take()
        };
        if let Some(idle) = idle {
            idle.wake();
        }
    }

    /// Ends the stream and the task: all callers are gone.
    pub(crate) fn close(&self) {
        self.calls().is_closing = true;
        self.end_stream();
    }

    fn calls(&self) -> MutexGuard<'_, Calls<X>> {
        // Nothing panics while it holds the lock, so the calls are consistent.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an operation and waits for its answer until `deadline`.
    pub(crate) async fn call(&self, request: X::Request, deadline: Instant) -> Outcome<X> {
        let bytes = X::weight(&request);
        if bytes > MAX_REQUEST_BYTES {
            // Sent, it would end the stream for all its calls.
            return Err(CallError::Unsent(Error::exhausted(format!(
                "the request has {bytes} bytes; the limit max_request_bytes is \
                 {MAX_REQUEST_BYTES}: send less at once"
            ))));
        }
        self.admit(deadline).await?;
        let (answer, answered) = oneshot::channel();
        let idle = {
            let mut calls = self.calls();
            calls.enqueue(request, deadline, answer);
            calls.idle.take()
        };
        if let Some(idle) = idle {
            idle.wake();
        }
        answered.await.unwrap_or_else(|_| {
            Err(CallError::Lost(Error::unavailable(
                "the connection is closing",
            )))
        })
    }

    /// Takes a place in flight; it is returned when the call ends.
    async fn admit(&self, deadline: Instant) -> Result<(), CallError> {
        let permit = match self.in_flight.try_acquire() {
            Ok(permit) => permit,
            Err(_) => match timeout_at(deadline, self.in_flight.acquire()).await {
                Ok(Ok(permit)) => permit,
                _ => {
                    return Err(CallError::Unsent(Error::exhausted(
                        "max_in_flight operations are in progress; send fewer at once",
                    )));
                }
            },
        };
        permit.forget();
        Ok(())
    }

    /// Sends callers their outcomes. The lock is not held meanwhile: a woken caller calls again.
    fn settle(&self, settled: Vec<(oneshot::Sender<Outcome<X>>, Outcome<X>)>) {
        self.in_flight.add_permits(settled.len());
        for (answer, outcome) in settled {
            // A caller that went away needs no answer.
            drop(answer.send(outcome));
        }
    }

    fn deliver(&self, frame: X::ReplyFrame) {
        if let Some(news) = X::news(&frame) {
            (self.on_news)(news);
        }
        let mut settled = Vec::with_capacity(X::answers(&frame));
        let mut calls = self.calls();
        X::unpack(frame, |id, reply| {
            if calls.waiting(id).is_some() {
                let (place, _) = place_of(id);
                let answer = calls.waiting.remove(place).answer;
                settled.push((answer, reply.map_err(CallError::Refused)));
            }
        });
        drop(calls);
        self.settle(settled);
    }

    /// Ends the calls whose deadline has passed.
    fn sweep(&self) {
        let now = Instant::now();
        let why = Error::new(
            Code::DeadlineExceeded,
            "the deadline passed before an answer came",
        );
        self.give_up(|waiting| waiting.deadline <= now, &CallError::Lost(why));
    }

    /// While the stream is not open, ends the calls that have no time left to be sent. Nothing was
    /// done for them, so the refusal must arrive before their callers give up and no longer know
    /// that ([`last_attempt`]).
    fn sweep_unsent(&self) {
        let now = Instant::now();
        let why = Error::new(
            Code::DeadlineExceeded,
            "the peer could not be reached before the deadline",
        );
        let is_late = |waiting: &Waiting<X>| waiting.refuse_at.is_some_and(|at| at <= now);
        self.give_up(is_late, &CallError::Unsent(why));
    }

    /// Ends calls without an answer; a lost call that was never sent is reported as unsent.
    fn give_up(&self, which: impl Fn(&Waiting<X>) -> bool, why: &CallError) {
        let mut guard = self.calls();
        let calls = &mut *guard;
        let over: Vec<usize> = (calls.waiting.iter())
            .filter_map(|(place, waiting)| which(waiting).then_some(place))
            .collect();
        if over.is_empty() {
            return;
        }
        let settled = (over.into_iter())
            .map(|place| {
                let waiting = calls.waiting.remove(place);
                let error = match why {
                    CallError::Lost(error) if !waiting.sent => CallError::Unsent(error.clone()),
                    why => why.clone(),
                };
                (waiting.answer, Err(error))
            })
            .collect();
        let Calls { queue, waiting, .. } = calls;
        queue.retain(|(id, _)| {
            let (place, generation) = place_of(*id);
            waiting
                .get(place)
                .is_some_and(|waiting| waiting.generation == generation)
        });
        drop(guard);
        self.settle(settled);
    }

    /// Ready once an operation is queued, the stream is wanted, or the lane is closing.
    fn poll_queued(&self, context: &Context<'_>) -> Poll<()> {
        let mut calls = self.calls();
        let is_wanted = std::mem::take(&mut calls.is_wanted);
        if calls.queue.is_empty() && !is_wanted && !calls.is_closing {
            calls.idle = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// The sending half of a new stream; it sends nothing before [`Self::opened`].
    fn begin_stream(self: &Arc<Self>) -> Outbound<X> {
        Outbound {
            stream: self.calls().stream,
            lane: Arc::clone(self),
            gathering: Gathering::default(),
        }
    }

    fn opened(&self) {
        let idle = {
            let mut calls = self.calls();
            calls.is_open = true;
            calls.idle.take()
        };
        if let Some(idle) = idle {
            idle.wake();
        }
    }

    fn end_stream(&self) {
        let idle = {
            let mut calls = self.calls();
            calls.stream += 1;
            calls.is_open = false;
            calls.idle.take()
        };
        if let Some(idle) = idle {
            idle.wake();
        }
    }

    /// The lane's task: opens the stream when there is something to send, keeps it until it breaks,
    /// and ends when all callers are gone.
    async fn run(self: Arc<Self>, channel: AddressedChannel) {
        loop {
            std::future::poll_fn(|context| self.poll_queued(context)).await;
            if self.calls().is_closing {
                return;
            }
            let why = match self.open(&channel).await {
                Ok(replies) => self.converse(replies).await,
                Err(error) => CallError::Unsent(error),
            };
            self.end_stream();
            self.give_up(|_| true, &why);
        }
    }

    /// Opens the stream; meanwhile, calls that can't be sent in time are ended.
    async fn open(
        self: &Arc<Self>,
        channel: &AddressedChannel,
    ) -> Result<Streaming<X::ReplyFrame>, Error> {
        let mut sweep = interval_at(Instant::now() + SWEEP_INTERVAL, SWEEP_INTERVAL);
        let opening = X::open(channel.clone(), self.begin_stream());
        let mut opening = pin!(timeout(OPEN_TIMEOUT, opening));
        loop {
            tokio::select! {
                opened = &mut opening => return match opened {
                    Ok(Ok(replies)) => Ok(replies),
                    Ok(Err(status)) => Err(tierkv_proto::status::read_error(&status)),
                    Err(_) => Err(Error::unavailable("the peer did not answer in time")),
                },
                _ = sweep.tick() => self.sweep_unsent(),
            }
        }
    }

    /// Receives answers until the stream ends; returns why it ended.
    async fn converse(&self, mut replies: Streaming<X::ReplyFrame>) -> CallError {
        self.opened();
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = replies.message() => match message {
                    Ok(Some(frame)) => self.deliver(frame),
                    Ok(None) => return CallError::Lost(Error::unavailable("the peer closed the stream")),
                    // A stopping peer sends this after its last answer: operations without an
                    // answer were never started.
                    Err(status) => match tierkv_proto::status::detail(&status) {
                        Some(word) => return CallError::Refused(word),
                        None => {
                            return CallError::Lost(tierkv_proto::status::read_error(&status));
                        }
                    },
                },
                _ = sweep.tick() => {
                    if self.calls().is_closing {
                        return CallError::Lost(Error::unavailable("the client is closing"));
                    }
                    self.sweep();
                }
            }
        }
    }
}

/// The sending half of a stream, polled by the transport: each frame holds the operations queued
/// when the transport was ready for it.
struct Outbound<X: Exchange> {
    lane: Arc<Lane<X>>,
    stream: u64,
    gathering: Gathering,
}

impl<X: Exchange> Stream for Outbound<X> {
    type Item = X::RequestFrame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self {
            lane,
            stream,
            gathering,
        } = &mut *self;
        let mut calls = lane.calls();
        if calls.stream != *stream {
            return Poll::Ready(None);
        }
        if calls.is_open && gathering.goes_on(calls.queue.len(), calls.waiting.len()) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        match calls.is_open.then(|| calls.next_frame()).flatten() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => {
                calls.idle = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Holds a frame back while callers that were woken together are still queueing.
#[derive(Default)]
struct Gathering {
    /// The queue's length at the last check.
    queued: usize,
    turns: u32,
}

impl Gathering {
    /// Whether to check again after the tasks that are ready now have run. Once all calls are
    /// queued, no answer can wake another caller: a lone caller never waits.
    fn goes_on(&mut self, queued: usize, in_flight: usize) -> bool {
        let more_may_come = queued < in_flight.min(MAX_FRAME_OPERATIONS);
        if more_may_come && queued > self.queued && self.turns < GATHERING_TURNS {
            self.queued = queued;
            self.turns += 1;
            return true;
        }
        *self = Self::default();
        false
    }
}

#[cfg(test)]
mod tests {
    use tierkv_proto::v1::{BatchGetRequest, GetRequest, session_operation::Operation};

    use super::*;
    use crate::{channel, session::Session};

    fn batch(keys: usize, key: &'static [u8]) -> Operation {
        Operation::BatchGet(BatchGetRequest {
            keys: vec![key.into(); keys],
            ..BatchGetRequest::default()
        })
    }

    fn calls() -> Calls<Session> {
        Calls {
            queue: VecDeque::new(),
            waiting: Slab::new(),
            generation: 0,
            idle: None,
            stream: 0,
            is_open: true,
            is_wanted: false,
            is_closing: false,
        }
    }

    #[tokio::test]
    async fn a_request_over_the_limit_is_not_sent() {
        let channel = channel("127.0.0.1:1").unwrap();
        let lane: Arc<Lane<Session>> = Lane::start(channel.into(), 1, Arc::new(|_| ()));
        let large = batch(5 << 10, &[7; 1 << 10]);
        let deadline = Instant::now() + Duration::from_secs(1);
        let CallError::Unsent(error) = lane.call(large, deadline).await.unwrap_err() else {
            panic!("expected an unsent call");
        };
        assert_eq!(error.code, Code::ResourceExhausted);
        assert!(error.message.contains("max_request_bytes"), "{error}");
    }

    #[tokio::test]
    async fn the_keys_of_batches_count_in_a_frame() {
        let mut calls = calls();
        let deadline = Instant::now() + Duration::from_secs(1);
        for keys in [300, 300, 100, 1_000, 1] {
            calls.enqueue(batch(keys, b"k"), deadline, oneshot::channel().0);
        }
        let mut frames = Vec::new();
        while let Some(frame) = calls.next_frame() {
            frames.push(frame.operations.len());
        }
        assert_eq!(frames, [1, 2, 1, 1]);
    }

    #[test]
    fn a_caller_that_is_alone_does_not_wait_for_others() {
        let mut gathering = Gathering::default();
        assert!(!gathering.goes_on(1, 1));
        assert!(gathering.goes_on(1, 3), "two others may call");
        assert!(gathering.goes_on(2, 3), "one did");
        assert!(!gathering.goes_on(2, 3), "nobody came in the last turn");
    }

    #[test]
    fn an_abandoned_call_leaves_no_frame() {
        let mut calls = calls();
        calls
            .queue
            .push_back((7, Operation::Get(GetRequest::default())));
        assert!(calls.next_frame().is_none());
    }
}
