//! The client coordinators that a client knows, and which of them it asks.
//!
//! All operations go to one of them until it fails one; whoever sees that moves everybody on
//! to the next, so that a dead address costs one failure and not one each.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tierkv_rpc::{
    CallError, Multiplexer, channel,
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

use crate::{attempts::is_better_elsewhere, error::Error, platform_clock::PlatformClock};

/// Pause before an operation is tried again where it failed before; doubles up to the limit.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// With other coordinators to ask, one gets half of what is left of an operation's time, and
/// no less than this.
const LEAST_PATIENCE: Duration = Duration::from_millis(200);

/// Session streams to one coordinator, each over a connection of its own. What one stream
/// carries is handled by one task after another at either end; with two, both ends have
/// something to do while the other works.
const SESSIONS: usize = 2;

/// One client coordinator. Its connections open when they are first used.
pub(crate) struct Coordinator {
    /// For what is no operation on keys.
    pub(crate) channel: Channel,
    /// For scans and watches, whose answers may rest until the application takes them: those
    /// that do hold up no other.
    streams: Channel,
    pub(crate) session: Multiplexer<Session>,
}

impl Coordinator {
    /// The service's calls beside the session stream.
    pub(crate) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.streams.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES + FRAME_SLACK)
            .max_encoding_message_size(MAX_REQUEST_BYTES + FRAME_SLACK)
    }
}

/// All that are known; at least one.
pub(crate) struct Coordinators {
    all: Vec<Coordinator>,
    /// Counts on for ever; the place of the one asked is its remainder.
    current: AtomicUsize,
}

impl Coordinators {
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `InvalidArgument` if there is no address, or one is none.
    pub(crate) fn new(
        addresses: &[String],
        max_in_flight: usize,
        clock: &Arc<PlatformClock>,
    ) -> Result<Self, Error> {
        if addresses.is_empty() {
            return Err(Refusal::invalid("a client needs an address").into());
        }
        let coordinator = |address: &String| {
            let channels = (0..SESSIONS).map(|_| channel(address));
            let clock = Arc::clone(clock);
            let hear = move |millis| clock.hear(millis);
            let channels = channels.collect::<Result<_, _>>()?;
            Ok(Coordinator {
                channel: channel(address)?,
                streams: unhurried_channel(address)?,
                session: Multiplexer::with_news(channels, max_in_flight, hear),
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

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// The one that operations go to.
    pub(crate) fn current(&self) -> &Coordinator {
        self.at(self.current.load(Ordering::Relaxed))
    }

    /// All, in the order of their addresses.
    pub(crate) fn all(&self) -> &[Coordinator] {
        &self.all
    }

    fn at(&self, turn: usize) -> &Coordinator {
        &self.all[turn % self.all.len()]
    }

    /// Lets operations go to the coordinator at this place.
    pub(crate) fn choose(&self, place: usize) {
        self.current.store(place, Ordering::Relaxed);
    }

    /// An operation that is over at `deadline`.
    pub(crate) fn turns(&self, deadline: Instant) -> Turns<'_> {
        Turns {
            coordinators: self,
            turn: self.current.load(Ordering::Relaxed),
            failures: 0,
            pause: FIRST_PAUSE,
            deadline,
        }
    }
}

/// Where and when the attempts of one operation go.
pub(crate) struct Turns<'a> {
    coordinators: &'a Coordinators,
    turn: usize,
    failures: usize,
    pause: Duration,
    deadline: Instant,
}

impl Turns<'_> {
    /// Whose turn it is.
    pub(crate) fn coordinator(&self) -> &Coordinator {
        self.coordinators.at(self.turn)
    }

    /// What is left of the operation's time.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Until when this attempt may take: while there is somebody else to ask, not to the end.
    pub(crate) fn patience(&self) -> Instant {
        if self.coordinators.len() == 1 {
            return self.deadline;
        }
        let patience = (self.left() / 2).max(LEAST_PATIENCE);
        self.deadline.min(Instant::now() + patience)
    }

    /// One attempt by the session stream. Where it ends for want of patience the operation
    /// goes on at the coordinator; its answer is thrown away.
    pub(crate) async fn attempt(&self, operation: Operation) -> Result<Answer, CallError> {
        let call = self.coordinator().session.call(operation, self.deadline);
        if self.coordinators.len() == 1 {
            return call.await;
        }
        timeout_at(self.patience(), call)
            .await
            .unwrap_or_else(|_| Err(CallError::Lost(slow())))
    }

    /// Gets ready for the next attempt after one that failed for `why`; `false` if there is no
    /// time left for it.
    pub(crate) async fn next(&mut self, why: &Refusal) -> bool {
        self.failures += 1;
        let is_elsewhere = self.coordinators.len() > 1 && is_better_elsewhere(why.code);
        if is_elsewhere {
            let next = self.turn.wrapping_add(1);
            // Whoever sees a failure first moves everybody on.
            let _ = self.coordinators.current.compare_exchange(
                self.turn,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            self.turn = next;
            // Somebody who was not asked yet is asked at once.
            if !self.failures.is_multiple_of(self.coordinators.len()) {
                return Instant::now() < self.deadline;
            }
        }
        self.pause().await
    }

    /// Waits before the same coordinator is asked again, longer each time; `false` if there is
    /// no time left for it.
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

/// Why an attempt was given up although the operation's time is not over.
pub(crate) fn slow() -> Refusal {
    Refusal::unavailable("the coordinator did not answer in time")
}
