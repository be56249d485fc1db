//! The client: sends each operation to a coordinator, with a timeout and retries.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures::stream;
use rand::RngCore;
use tierkv_rpc::{
    CallError, platform_time,
    proto::{
        status::read_error,
        v1::{
            self, BatchGetRequest, kv_client::KvClient, session_answer::Answer,
            session_operation::Operation,
        },
    },
};
use tierkv_types::{
    Code, Error as Refusal, ItemKey, Namespace, RequestId, Slot, SystemClock,
    limits::{MAX_KEY_BYTES, MAX_TIMEOUT},
};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Request, Response, Status, transport::Channel};

use crate::{
    attempts::{Attempts, Next},
    coordinators::{Coordinator, Coordinators, Turns, slow},
    error::{Error, is_retryable},
    in_flight::InFlight,
    own_writes::{MAX_SESSION_KEYS, OwnWrites},
    platform_clock::PlatformClock,
};

/// Timeout for fetching the platform's time while a write waits for it.
const NEWS_TIMEOUT: Duration = Duration::from_secs(1);

/// A client of the platform. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    pub(crate) namespace: Arc<str>,
    timeout: Duration,
    /// The id of every write of this handle; `None`: a new id for each write.
    request_id: Option<RequestId>,
    pub(crate) own_writes: Option<Arc<OwnWrites>>,
}

struct Shared {
    coordinators: Coordinators,
    clock: Arc<PlatformClock>,
}

impl Client {
    /// A client of the coordinators at `addresses`, with at most `max_in_flight` operations in
    /// flight per session.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad address.
    pub(crate) fn new(
        addresses: &[String],
        max_in_flight: usize,
        namespace: &Namespace,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let clock = Arc::new(PlatformClock::new(SystemClock));
        let coordinators = Coordinators::new(addresses, max_in_flight, &clock)?;
        Ok(Self {
            shared: Arc::new(Shared {
                coordinators,
                clock,
            }),
            namespace: Arc::from(&**namespace),
            timeout: timeout.min(MAX_TIMEOUT),
            request_id: None,
            own_writes: None,
        })
    }

    /// The same connections, for keys of another namespace.
    ///
    /// # Errors
    /// `InvalidArgument` if the namespace breaks its rules.
    pub fn in_namespace(&self, namespace: &str) -> Result<Self, Error> {
        let namespace = tierkv_types::Namespace::new(namespace)?;
        Ok(Self {
            namespace: (&*namespace).into(),
            ..self.clone()
        })
    }

    /// The same connections, with another timeout per operation, retries included. At most 60 s.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            timeout: timeout.min(MAX_TIMEOUT),
            ..self.clone()
        }
    }

    /// The same connections, for retrying a write whose outcome is unknown ([`Error::request_id`]).
    /// Send the same write again through this handle, within two minutes of the first time: it is
    /// applied if it was not before, and never twice.
    ///
    /// Every write of this handle carries the id, so use the handle for that one write: another
    /// write under an applied id is never applied. The earlier attempts may still have an effect,
    /// so a write of this handle either succeeds or its outcome stays unknown, even when it is
    /// refused.
    #[must_use]
    pub fn with_request_id(&self, id: RequestId) -> Self {
        Self {
            request_id: Some(id),
            ..self.clone()
        }
    }

    /// The same connections, for one user's session. Reads of this handle and its clones see the
    /// writes that the session made, also through the cache; other clients may see values up to
    /// `max_staleness` old. A write whose outcome is unknown does not count.
    ///
    /// A session keeps the versions of the [`MAX_SESSION_KEYS`] keys that it wrote last. The
    /// guarantee also holds for older writes, but some of their reads go to the key's master. Once
    /// the session has written anything, scans and counts read at the masters.
    #[must_use]
    pub fn session(&self) -> Self {
        Self {
            own_writes: Some(Arc::new(OwnWrites::new(MAX_SESSION_KEYS))),
            ..self.clone()
        }
    }

    /// The platform's time as this client estimates it: at most a little behind. Expiry is judged
    /// by it, not by this machine's wall clock.
    #[must_use]
    pub fn platform_time(&self) -> SystemTime {
        let millis = self.shared.clock.millis().unwrap_or(0);
        UNIX_EPOCH + Duration::from_millis(millis)
    }

    /// The connection for calls that are not operations on keys.
    pub(crate) fn channel(&self) -> Channel {
        self.shared.coordinators.current().channel.clone()
    }

    pub(crate) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The attempts of an operation that starts now.
    pub(crate) fn turns(&self) -> Turns<'_> {
        let deadline = Instant::now() + self.timeout;
        self.shared.coordinators.turns(deadline)
    }

    /// Finds a coordinator that answers, by an empty batch read. Each address is tried once with
    /// its share of the timeout, so that a wrong address fails at once and a dead one leaves time
    /// for the others.
    pub(crate) async fn greet(&self) -> Result<(), Error> {
        let mut last = Refusal::invalid("the client has no address; give at least one");
        let deadline = Instant::now() + self.timeout;
        let coordinators = self.shared.coordinators.all();
        for (place, coordinator) in coordinators.iter().enumerate() {
            let others = u32::try_from(coordinators.len() - place).unwrap_or(u32::MAX);
            let share = deadline.saturating_duration_since(Instant::now()) / others;
            match greeted(coordinator, Instant::now() + share).await {
                Ok(()) => {
                    self.shared.coordinators.choose(place);
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    /// Sends a read, with retries at all coordinators, until it is answered or times out.
    /// `operation` builds the request again for each attempt; nearly always one is enough.
    pub(crate) async fn read(&self, operation: impl Fn() -> Operation) -> Result<Answer, Error> {
        let mut turns = self.turns();
        loop {
            let error = match turns.attempt(operation()).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure.for_read(),
            };
            if !is_retryable(error.code) || !turns.next(&error).await {
                return Err(error.into());
            }
        }
    }

    /// Sends a write, with retries at all coordinators under the same id, until its outcome is
    /// known or it times out. Also returns its id. An attempt that takes long is not given up while
    /// another coordinator is tried, so that a late refusal still counts. `key`: one of the keys, all
    /// of which are in one cluster.
    pub(crate) async fn change(
        &self,
        key: &[u8],
        operation: impl Fn(v1::RequestId) -> Operation,
    ) -> Result<(Answer, RequestId), Error> {
        let mut turns = self.turns();
        let mut id = match self.request_id {
            Some(id) => id,
            None => self.new_request_id(key, &mut turns).await?,
        };
        let mut attempts = Attempts::new(id, self.request_id.is_some());
        let mut in_flight = InFlight::none();
        loop {
            let wire = v1::RequestId {
                random: Bytes::copy_from_slice(&id.random),
                birth_ms: id.birth_millis,
            };
            attempts.sent();
            let attempt = turns.write(operation(wire));
            let mut answered = match turns.is_alone() {
                true => Some(attempt.await),
                false => {
                    in_flight.push(turns.place(), attempt);
                    in_flight.next(turns.write_patience(&in_flight)).await
                }
            };
            // Until there is a further attempt to send.
            loop {
                let goes_on = match answered {
                    Some(Ok(answer)) => return Ok((answer, id)),
                    None => turns.next_write(&slow(), &in_flight).await,
                    Some(Err(failure)) => match self.after(key, &mut attempts, failure) {
                        Next::Conclude => return Err(attempts.conclude()),
                        Next::Wait => false,
                        Next::Again => turns.next_write(attempts.last(), &in_flight).await,
                        Next::Renew(now) => {
                            id = born_at(now);
                            attempts.renew(id);
                            turns.pause().await
                        }
                    },
                };
                if goes_on {
                    break;
                }
                if in_flight.len() == 0 {
                    return Err(attempts.conclude());
                }
                answered = in_flight.next(None).await;
            }
        }
    }

    /// What to do after a failed attempt of a write of `key`.
    fn after(&self, key: &[u8], attempts: &mut Attempts, failure: CallError) -> Next {
        if let CallError::Refused(refusal) = &failure
            && let Some(now) = refusal.birth_refused_at
            && let Some(slot) = self.slot(key)
        {
            self.shared.clock.record_refusal(slot, now.get());
        }
        attempts.failed(failure)
    }

    /// Makes a read-only call outside the session stream.
    pub(crate) async fn ask<T, F>(
        &self,
        question: impl Fn(KvClient<Channel>, Duration) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut turns = self.turns();
        loop {
            let asked = question(turns.coordinator().kv(), turns.left());
            let error = match timeout_at(turns.patience(), asked).await {
                Ok(answered) => match self.note_time(answered) {
                    Ok(answer) => return Ok(answer),
                    Err(status) => read_error(&status),
                },
                Err(_) if turns.left().is_zero() => late(),
                Err(_) => slow(),
            };
            if !is_retryable(error.code) || !turns.next(&error).await {
                return Err(error.into());
            }
        }
    }

    fn slot(&self, key: &[u8]) -> Option<Slot> {
        let key = ItemKey::new(&self.namespace, key).ok()?;
        Some(key.slot())
    }

    /// A request id for a new write of `key`.
    ///
    /// # Errors
    /// `Unavailable` if no coordinator returned the platform's time before the write's timeout.
    async fn new_request_id(&self, key: &[u8], turns: &mut Turns<'_>) -> Result<RequestId, Error> {
        let clock = &self.shared.clock;
        loop {
            if clock.needs_news() {
                self.ask_for_the_time(turns.coordinator()).await;
            }
            // Without a newer reading, the last one still serves.
            if let Some(birth_millis) = clock.birth(|| self.slot(key)) {
                return Ok(born_at(birth_millis));
            }
            let unknown =
                Refusal::unavailable("no coordinator has the platform's time yet; try again");
            if !turns.next(&unknown).await {
                return Err(unknown.into());
            }
        }
    }

    async fn ask_for_the_time(&self, coordinator: &Coordinator) {
        let mut kv = coordinator.kv();
        let greeting = async move {
            let nothing = Request::new(stream::empty());
            kv.session(nothing)
                .await
                .ok()?
                .into_inner()
                .message()
                .await
                .ok()?
        };
        if let Ok(Some(frame)) = timeout(NEWS_TIMEOUT.min(self.timeout / 2), greeting).await
            && let Some(greeting) = frame.greeting
        {
            self.shared.clock.record(greeting.platform_time_ms);
        }
    }

    /// Records the platform's time from the metadata of an answer or a refusal.
    pub(crate) fn note_time<T>(&self, answered: Result<Response<T>, Status>) -> Result<T, Status> {
        let metadata = match &answered {
            Ok(response) => response.metadata(),
            Err(status) => status.metadata(),
        };
        self.shared
            .clock
            .record(platform_time(metadata).unwrap_or(0));
        answered.map(Response::into_inner)
    }
}

/// A new request id, born at this platform time.
fn born_at(birth_millis: u64) -> RequestId {
    let mut random = [0; 16];
    rand::rng().fill_bytes(&mut random);
    RequestId {
        birth_millis,
        random,
    }
}

async fn greeted(coordinator: &Coordinator, deadline: Instant) -> Result<(), Refusal> {
    let nothing = Operation::BatchGet(BatchGetRequest::default());
    match timeout_at(deadline, coordinator.session.call(nothing, deadline)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(failure)) => Err(failure.for_read()),
        Err(_) => Err(slow()),
    }
}

/// Returns the key if it keeps the limits: what a server would refuse is not sent.
pub(crate) fn checked(key: &[u8]) -> Result<&[u8], Error> {
    // Most keys pass this length check; `ItemKey` has the full rule and its error message.
    if !(1..=MAX_KEY_BYTES).contains(&key.len()) {
        ItemKey::new("", key)?;
    }
    Ok(key)
}

/// The error of a read whose timeout passed without any other failure.
pub(crate) fn late() -> Refusal {
    Refusal::new(
        Code::DeadlineExceeded,
        "the deadline passed before an answer came",
    )
}
