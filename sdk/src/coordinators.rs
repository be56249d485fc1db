//! The client coordinators of a client, and the choice among them.
//!
//! All operations go to one coordinator until it fails one. The operation that sees the failure
//! moves all others to the next coordinator, so that a dead address costs one failure in all and
//! not one per operation.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tierkv_rpc::{
    CallError, Multiplexer, channel, last_attempt,
    proto::v1::{kv_client::KvClient, session_answer::Answer, session_operation::Operation},
    session::{FRAME_SLACK, Session},
    unhurried_channel,
};
use tierkv_types::{
    Error as Refusal,
    limits::{MAX_ANSWER_BYTES, MAX_REQUEST_BYTES},
};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::transport::Channel;

use crate::{
    attempts::is_better_elsewhere, error::Error, in_flight::InFlight, platform_clock::PlatformClock,
};

/// Pause before an operation is retried at the same coordinator; doubles up to the limit.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// With several coordinators, an attempt may use half of the operation's remaining time, but not
/// less than this.
const LEAST_PATIENCE: Duration = Duration::from_millis(200);

/// Session streams to one coordinator, each over its own connection. At either end one task at a
/// time handles a stream; with two streams, both ends can work at the same time.
const SESSIONS: usize = 2;

/// One client coordinator. Its connections open when they are first used.
pub(crate) struct Coordinator {
    /// For calls that are not operations on keys.
    pub(crate) channel: Channel,
    /// For scans and watches. Their answers may wait until the application reads them, and must not
    /// hold up other operations.
    streams: Channel,
    pub(crate) session: Multiplexer<Session>,
}

impl Coordinator {
    /// A client for the calls outside the session stream.
    pub(crate) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.streams.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES + FRAME_SLACK)
            .max_encoding_message_size(MAX_REQUEST_BYTES + FRAME_SLACK)
    }
}

/// All coordinators of the client; at least one.
pub(crate) struct Coordinators {
    all: Vec<Coordinator>,
    /// Only grows; modulo the number of coordinators, it is the place of the current one.
    current: AtomicUsize,
}

impl Coordinators {
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `InvalidArgument` if there is no address, or one is malformed.
    pub(crate) fn new(
        addresses: &[String],
        max_in_flight: usize,
        clock: &Arc<PlatformClock>,
    ) -> Result<Self, Error> {
        if addresses.is_empty() {
            return Err(Refusal::invalid("the client has no address; give at least one").into());
        }
        let coordinator = |address: &String| {
            let channels = (0..SESSIONS).map(|_| channel(address));
            let clock = Arc::clone(clock);
            let record = move |millis| clock.record(millis);
            let channels = channels.collect::<Result<_, _>>()?;
            Ok(Coordinator {
                channel: channel(address)?,
                streams: unhurried_channel(address)?,
                session: Multiplexer::with_news(channels, max_in_flight, record),
            })
        };
        Ok(Self {
            all: addresses
                .iter()
                .map(coordinator)
                .collect::<Result<_, Error>>()?,
            current: AtomicUsize::new(0),
        })
    }

    /// The number of coordinators.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// The coordinator that operations go to.
    pub(crate) fn current(&self) -> &Coordinator {
        self.at(self.current.load(Ordering::Relaxed))
    }

    /// All coordinators, in the order of their addresses.
    pub(crate) fn all(&self) -> &[Coordinator] {
        &self.all
    }

    fn at(&self, turn: usize) -> &Coordinator {
        &self.all[turn % self.all.len()]
    }

    /// Makes the coordinator at this place the current one.
    pub(crate) fn choose(&self, place: usize) {
        self.current.store(place, Ordering::Relaxed);
    }

    /// The attempts of an operation with this deadline.
    pub(crate) fn turns(&self, deadline: Instant) -> Turns<'_> {
        Turns {
            coordinators: self,
            turn: self.current.load(Ordering::Relaxed),
            failures: 0,
            pause: FIRST_PAUSE,
            deadline,
            last_write: last_attempt(deadline),
        }
    }
}

/// The attempts of one operation: to which coordinator and until when.
pub(crate) struct Turns<'a> {
    coordinators: &'a Coordinators,
    turn: usize,
    failures: usize,
    pause: Duration,
    deadline: Instant,
    /// The latest time for a further attempt of a write: a refusal of a later one could miss the
    /// deadline, and the outcome would be unknown.
    last_write: Instant,
}

impl<'a> Turns<'a> {
    /// The coordinator of this attempt.
    pub(crate) fn coordinator(&self) -> &Coordinator {
        self.coordinators.at(self.turn)
    }

    /// The operation's remaining time.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The deadline of this attempt: with other coordinators to try, before the operation's own.
    pub(crate) fn patience(&self) -> Instant {
        if self.coordinators.len() == 1 {
            return self.deadline;
        }
        let patience = (self.left() / 2).max(LEAST_PATIENCE);
        self.deadline.min(Instant::now() + patience)
    }

    /// One attempt of a read over the session stream. If it times out, its answer is dropped.
    pub(crate) async fn attempt(&self, operation: Operation) -> Result<Answer, CallError> {
        let call = self.coordinator().session.call(operation, self.deadline);
        if self.is_alone() {
            return call.await;
        }
        timeout_at(self.patience(), call)
            .await
            .unwrap_or_else(|_| Err(CallError::Lost(slow())))
    }

    /// The place of this attempt's coordinator.
    pub(crate) fn place(&self) -> usize {
        self.turn % self.coordinators.len()
    }

    /// Whether there is no other coordinator.
    pub(crate) fn is_alone(&self) -> bool {
        self.coordinators.len() == 1
    }

    /// One attempt of a write over the session stream, until the operation's deadline.
    pub(crate) fn write(
        &self,
        operation: Operation,
    ) -> impl Future<Output = Result<Answer, CallError>> + use<'a> {
        let (coordinators, turn, deadline) = (self.coordinators, self.turn, self.deadline);
        async move {
            coordinators
                .at(turn)
                .session
                .call(operation, deadline)
                .await
        }
    }

    /// How long to wait for the attempts of a write before another coordinator is tried; `None` if
    /// all have one.
    pub(crate) fn write_patience<F: Future>(&self, in_flight: &InFlight<F>) -> Option<Instant> {
        (in_flight.len() < self.coordinators.len()).then(|| self.patience())
    }

    /// Prepares the next attempt of a write, at a coordinator without one; `false` if there is none
    /// or no time is left.
    pub(crate) async fn next_write<F: Future>(
        &mut self,
        why: &Refusal,
        in_flight: &InFlight<F>,
    ) -> bool {
        if in_flight.len() == self.coordinators.len() || !self.next(why).await {
            return false;
        }
        while in_flight.is_at(self.place()) {
            self.turn = self.turn.wrapping_add(1);
        }
        Instant::now() < self.last_write
    }

    /// Prepares the next attempt after one that failed for `why`; `false` if no time is left.
    pub(crate) async fn next(&mut self, why: &Refusal) -> bool {
        self.failures += 1;
        let is_elsewhere = self.coordinators.len() > 1 && is_better_elsewhere(why.code);
        if is_elsewhere {
            let next = self.turn.wrapping_add(1);
            // The first to see a failure moves all operations on.
            let _ = self.coordinators.current.compare_exchange(
                self.turn,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            self.turn = next;
            // A coordinator not yet tried is tried at once.
            if !self.failures.is_multiple_of(self.coordinators.len()) {
                return Instant::now() < self.deadline;
            }
        }
        self.pause().await
    }

    /// Waits before the same coordinator is tried again, longer each time; `false` if no time is
    /// left.
    pub(crate) async fn pause(&mut self) -> bool {
        let again = Instant::now() + self.pause;
        if again >= self.deadline {
            return false;
        }
        sleep_until(again).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

/// The error of an attempt that timed out before its operation did.
pub(crate) fn slow() -> Refusal {
    Refusal::unavailable("the coordinator did not answer in time")
}
