//! The asking end of a framed stream.
//!
//! Callers put operations into a queue and sleep; one task a stream owns the connection,
//! turns whatever is queued into a frame, and wakes the callers whose answers arrived.
//! A caller that goes away costs nothing: its answer is read and thrown away.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use slab::Slab;
use tierkv_types::{
    Code, Error,
    limits::{FRAME_BYTES, MAX_FRAME_OPERATIONS},
};
use tokio::{
    sync::{Notify, Semaphore, mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::exchange::{CallError, Exchange};

/// How often calls whose time is over are looked for: deadlines are kept to this.
const SWEEP_INTERVAL: Duration = Duration::from_millis(10);
/// How long opening a stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// Frames between the stream's task and the transport. One: while the transport is busy,
/// operations gather into the next frame.
const FRAMES_AHEAD: usize = 1;

/// Many callers over a few framed streams to one peer. Cheap to clone.
pub struct Multiplexer<X: Exchange> {
    lanes: Arc<Lanes<X>>,
}

struct Lanes<X: Exchange> {
    lanes: Vec<Arc<Lane<X>>>,
    next: AtomicUsize,
}

impl<X: Exchange> Drop for Lanes<X> {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.closing.store(true, Ordering::Release);
            lane.queued.notify_one();
        }
    }
}

impl<X: Exchange> Clone for Multiplexer<X> {
    fn clone(&self) -> Self {
        Self {
            lanes: Arc::clone(&self.lanes),
        }
    }
}

impl<X: Exchange> Multiplexer<X> {
    /// One stream over each of `channels`, with at most `max_in_flight` operations each.
    /// Streams open when they are first used. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(channels: Vec<Channel>, max_in_flight: usize) -> Self {
        let lanes = channels
            .into_iter()
            .map(|channel| Lane::start(channel, max_in_flight));
        Self {
            lanes: Arc::new(Lanes {
                lanes: lanes.collect(),
                next: AtomicUsize::new(0),
            }),
        }
    }

    /// Sends an operation and waits for its answer until `deadline`.
    ///
    /// # Errors
    /// [`CallError`]; it says whether the operation may have had an effect.
    pub async fn call(
        &self,
        request: X::Request,
        deadline: Instant,
    ) -> Result<X::Reply, CallError> {
        let Lanes { lanes, next } = &*self.lanes;
        let lane = match lanes.len() {
            1 => &lanes[0],
            n => &lanes[next.fetch_add(1, Ordering::Relaxed) % n],
        };
        lane.call(request, deadline).await
    }
}

type Outcome<X> = Result<<X as Exchange>::Reply, CallError>;

struct Lane<X: Exchange> {
    calls: Mutex<Calls<X>>,
    /// Told when the queue is no longer empty.
    queued: Notify,
    /// Bounds queued and sent operations together.
    in_flight: Semaphore,
    /// Set when nobody is left to call.
    closing: AtomicBool,
}

struct Calls<X: Exchange> {
    queue: VecDeque<(u64, X::Request)>,
    waiting: Slab<Waiting<X>>,
    /// Makes the ids of two calls in one place differ.
    generation: u32,
}

struct Waiting<X: Exchange> {
    generation: u32,
    deadline: Instant,
    sent: bool,
    answer: oneshot::Sender<Outcome<X>>,
}

const fn id_of(place: usize, generation: u32) -> u64 {
    ((generation as u64) << 32) | place as u64
}

/// The place of an id, and its generation.
#[allow(clippy::cast_possible_truncation)]
const fn place_of(id: u64) -> (usize, u32) {
    ((id & 0xffff_ffff) as usize, (id >> 32) as u32)
}

impl<X: Exchange> Lane<X> {
    fn start(channel: Channel, max_in_flight: usize) -> Arc<Self> {
        let lane = Arc::new(Self {
            calls: Mutex::new(Calls {
                queue: VecDeque::new(),
                waiting: Slab::new(),
                generation: 0,
            }),
            queued: Notify::new(),
            in_flight: Semaphore::new(max_in_flight),
            closing: AtomicBool::new(false),
        });
        tokio::spawn(run(Arc::clone(&lane), channel));
        lane
    }

    fn calls(&self) -> MutexGuard<'_, Calls<X>> {
        // Nothing panics while it holds the lock; if it did, the calls are still whole.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call(&self, request: X::Request, deadline: Instant) -> Outcome<X> {
        self.admit(deadline).await?;
        let (answer, answered) = oneshot::channel();
        let was_empty = {
            let mut calls = self.calls();
            calls.generation = calls.generation.wrapping_add(1);
            let generation = calls.generation;
            let place = calls.waiting.insert(Waiting {
                generation,
                deadline,
                sent: false,
                answer,
            });
            calls.queue.push_back((id_of(place, generation), request));
            calls.queue.len() == 1
        };
        if was_empty {
            self.queued.notify_one();
        }
        answered.await.unwrap_or_else(|_| {
            Err(CallError::Lost(Error::unavailable(
                "the connection is being closed",
            )))
        })
    }

    /// Takes a place in flight; it is given back when the call is settled.
    async fn admit(&self, deadline: Instant) -> Result<(), CallError> {
        let permit = match self.in_flight.try_acquire() {
            Ok(permit) => permit,
            Err(_) => match timeout_at(deadline, self.in_flight.acquire()).await {
                Ok(Ok(permit)) => permit,
                _ => {
                    return Err(CallError::Unsent(Error::exhausted(
                        "max_in_flight operations are under way; send fewer at once",
                    )));
                }
            },
        };
        permit.forget();
        Ok(())
    }

    fn settle(&self, place: usize, calls: &mut Calls<X>, outcome: Outcome<X>) {
        let waiting = calls.waiting.remove(place);
        self.in_flight.add_permits(1);
        // A caller that went away needs no answer.
        drop(waiting.answer.send(outcome));
    }

    /// Whatever is queued, up to one frame.
    fn next_frame(&self) -> Option<X::RequestFrame> {
        let now = Instant::now();
        let mut calls = self.calls();
        let calls = &mut *calls;
        if calls.queue.is_empty() {
            return None;
        }
        let mut frame = X::empty(calls.queue.len().min(MAX_FRAME_OPERATIONS));
        let (mut count, mut bytes) = (0, 0);
        while count < MAX_FRAME_OPERATIONS
            && let Some((_, request)) = calls.queue.front()
        {
            bytes += X::weight(request);
            if count > 0 && bytes > FRAME_BYTES {
                break;
            }
            if let Some((id, request)) = calls.queue.pop_front() {
                let (place, generation) = place_of(id);
                // A call that was given up before it was sent left its request behind.
                if let Some(waiting) = calls.waiting.get_mut(place)
                    && waiting.generation == generation
                {
                    waiting.sent = true;
                    X::push(
                        &mut frame,
                        id,
                        waiting.deadline.duration_since(now),
                        request,
                    );
                    count += 1;
                }
            }
        }
        (count > 0).then_some(frame)
    }

    fn has_queued(&self) -> bool {
        !self.calls().queue.is_empty()
    }

    fn deliver(&self, frame: X::ReplyFrame) {
        let mut calls = self.calls();
        X::unpack(frame, |id, reply| {
            let (place, generation) = place_of(id);
            if calls
                .waiting
                .get(place)
                .is_some_and(|waiting| waiting.generation == generation)
            {
                self.settle(place, &mut calls, reply.map_err(CallError::Refused));
            }
        });
    }

    /// Gives up the calls whose time is over.
    fn sweep(&self) {
        let now = Instant::now();
        self.give_up(|waiting| waiting.deadline <= now, &|| {
            Error::new(
                Code::DeadlineExceeded,
                "the deadline passed before an answer came",
            )
        });
    }

    fn give_up(&self, which: impl Fn(&Waiting<X>) -> bool, why: &dyn Fn() -> Error) {
        let mut calls = self.calls();
        let places: Vec<usize> = (calls.waiting.iter())
            .filter_map(|(place, waiting)| which(waiting).then_some(place))
            .collect();
        for place in places {
            let error = match calls.waiting[place].sent {
                true => CallError::Lost(why()),
                false => CallError::Unsent(why()),
            };
            self.settle(place, &mut calls, Err(error));
        }
        let Calls { queue, waiting, .. } = &mut *calls;
        queue.retain(|(id, _)| {
            let (place, generation) = place_of(*id);
            waiting
                .get(place)
                .is_some_and(|waiting| waiting.generation == generation)
        });
    }
}

/// The stream's task: opens it when there is something to send, keeps it until it
/// breaks, and ends when nobody is left to call.
async fn run<X: Exchange>(lane: Arc<Lane<X>>, channel: Channel) {
    while !lane.closing.load(Ordering::Acquire) {
        if !lane.has_queued() {
            lane.queued.notified().await;
            continue;
        }
        let error = match open(&lane, &channel).await {
            Ok((frames, replies)) => converse(&lane, frames, replies).await,
            Err(error) => error,
        };
        lane.give_up(|_| true, &|| error.clone());
    }
}

type Opened<X> = (
    mpsc::Sender<<X as Exchange>::RequestFrame>,
    Streaming<<X as Exchange>::ReplyFrame>,
);

/// Opens the stream; meanwhile calls whose time is over are given up.
async fn open<X: Exchange>(lane: &Lane<X>, channel: &Channel) -> Result<Opened<X>, Error> {
    let (frames, outbound) = mpsc::channel(FRAMES_AHEAD);
    let mut sweep = interval(SWEEP_INTERVAL);
    let mut opening = pin!(timeout(
        OPEN_TIMEOUT,
        X::open(channel.clone(), ReceiverStream::new(outbound))
    ));
    loop {
        tokio::select! {
            opened = &mut opening => return match opened {
                Ok(Ok(replies)) => Ok((frames, replies)),
                Ok(Err(status)) => Err(tierkv_proto::status::read_error(&status)),
                Err(_) => Err(Error::unavailable("the peer did not answer in time")),
            },
            _ = sweep.tick() => lane.sweep(),
        }
    }
}

/// Sends frames and takes answers until the stream ends; says why it did.
async fn converse<X: Exchange>(
    lane: &Lane<X>,
    frames: mpsc::Sender<X::RequestFrame>,
    mut replies: Streaming<X::ReplyFrame>,
) -> Error {
    let mut sweep = interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if lane.closing.load(Ordering::Acquire) {
            return Error::unavailable("the client is closing");
        }
        let queued = lane.has_queued();
        tokio::select! {
            message = replies.message() => match message {
                Ok(Some(frame)) => lane.deliver(frame),
                Ok(None) => return Error::unavailable("the peer closed the stream"),
                Err(status) => return tierkv_proto::status::read_error(&status),
            },
            permit = frames.reserve(), if queued => {
                let Ok(permit) = permit else {
                    return Error::unavailable("the transport closed the stream");
                };
                // Callers that were woken together queue together: let them.
                tokio::task::yield_now().await;
                if let Some(frame) = lane.next_frame() {
                    permit.send(frame);
                }
            }
            () = lane.queued.notified(), if !queued => {}
            _ = sweep.tick() => lane.sweep(),
        }
    }
}
