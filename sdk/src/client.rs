//! The client: operations, deadlines, and what is safe to try again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tierkv_rpc::{
    CallError, Multiplexer, channel,
    proto::convert,
    proto::v1::{
        self, BatchGetRequest, DeleteRequest, GetRequest, PutRequest, session_answer::Answer,
        session_operation::Operation,
    },
    session::Session,
};
use tierkv_types::{
    Code, Error as Refusal, ItemKey,
    limits::{MAX_KEY_BYTES, MAX_TIMEOUT},
};
use tokio::time::{Instant, sleep_until};
use tonic::transport::Channel;

use crate::{
    answer::{Deleted, Found},
    builder::Builder,
    error::Error,
};

/// Pause before an operation is tried again; doubles up to the limit.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Session streams to one coordinator, each over a connection of its own. What one stream
/// carries is handled by one task after another at either end; with two, both ends have
/// something to do while the other works.
const SESSIONS: usize = 2;

/// A connection to the platform, shared by cloning.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    namespace: Arc<str>,
}

struct Shared {
    coordinators: Vec<Coordinator>,
    /// The coordinator that operations go to now.
    current: AtomicUsize,
    timeout: Duration,
}

struct Coordinator {
    channel: Channel,
    session: Multiplexer<Session>,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// At most the platform's `max_staleness` old.
    #[default]
    Cached,
    /// As `Cached`, and at least as new as this version of the key: one's own writes.
    Session(u64),
    /// The newest there is.
    Latest,
}

/// Options of a read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// How fresh the answer must be.
    pub consistency: Consistency,
    /// The read's own staleness bound, instead of the platform's.
    pub max_staleness: Option<Duration>,
}

impl ReadOptions {
    fn to_wire(self) -> v1::ReadOptions {
        let (consistency, min_version) = match self.consistency {
            Consistency::Cached => (v1::Consistency::Cached, 0),
            Consistency::Session(version) => (v1::Consistency::Session, version),
            Consistency::Latest => (v1::Consistency::Latest, 0),
        };
        let max_staleness_ms = self
            .max_staleness
            .map(|bound| u32::try_from(bound.as_millis()).unwrap_or(u32::MAX));
        let consistency = consistency.into();
        v1::ReadOptions {
            consistency,
            min_version,
            max_staleness_ms,
            explain: false,
        }
    }
}

/// Options of a put.
#[derive(Clone, Copy, Debug, Default)]
pub struct PutOptions {
    /// How long the key lives, from the moment the platform takes the write; `None`: until
    /// it is removed. Rounded up to whole milliseconds.
    pub ttl: Option<Duration>,
}

impl PutOptions {
    /// The time to live in milliseconds, 0 for ever.
    fn ttl_ms(self) -> Result<u64, Error> {
        let Some(ttl) = self.ttl else {
            return Ok(0);
        };
        if ttl.is_zero() {
            let words = "a time to live of zero is over at once; leave it out to keep the key";
            return Err(Refusal::invalid(words).into());
        }
        let millis = u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        convert::ttl(millis)?;
        Ok(millis)
    }
}

/// Whether an operation changes anything: what a lost answer means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Read,
    Write,
}

impl Client {
    /// Starts making a client.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(settings: Builder) -> Result<Self, Error> {
        let mut coordinators = Vec::with_capacity(settings.addresses.len());
        for address in &settings.addresses {
            let sessions = (0..SESSIONS).map(|_| channel(address));
            let sessions = sessions.collect::<Result<_, _>>()?;
            let session = Multiplexer::new(sessions, settings.max_in_flight);
            let channel = channel(address)?;
            coordinators.push(Coordinator { channel, session });
        }
        let shared = Shared {
            coordinators,
            current: AtomicUsize::new(0),
            timeout: settings.timeout.min(MAX_TIMEOUT),
        };
        Ok(Self {
            shared: Arc::new(shared),
            namespace: settings.namespace.into(),
        })
    }

    /// The same connection, for keys of another namespace.
    ///
    /// # Errors
    /// `InvalidArgument` if the namespace breaks its rules.
    pub fn in_namespace(&self, namespace: &str) -> Result<Self, Error> {
        let namespace = tierkv_types::Namespace::new(namespace)?;
        Ok(Self {
            shared: Arc::clone(&self.shared),
            namespace: (&*namespace).into(),
        })
    }

    /// Reads a key.
    ///
    /// # Errors
    /// The operation's [`Error`]; an absent key is none.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Found, Error> {
        self.get_with(key, ReadOptions::default()).await
    }

    /// Reads a key, as fresh as `options` ask.
    ///
    /// # Errors
    /// The operation's [`Error`]; an absent key is none.
    pub async fn get_with(
        &self,
        key: impl AsRef<[u8]>,
        options: ReadOptions,
    ) -> Result<Found, Error> {
        let key = checked(key.as_ref())?;
        let get = || {
            Operation::Get(GetRequest {
                namespace: self.namespace.as_ref().to_owned(),
                key: Bytes::copy_from_slice(key),
                options: wire_options(options),
            })
        };
        match self.call(get, Effect::Read).await? {
            Answer::Get(found) => Ok(found.into()),
            _ => Err(mismatch(Effect::Read)),
        }
    }

    /// Reads many keys, at most 1,000; answers stand in the order of the keys.
    ///
    /// # Errors
    /// The operation's [`Error`]; absent keys are none.
    pub async fn batch_get(&self, keys: &[impl AsRef<[u8]>]) -> Result<Vec<Found>, Error> {
        self.batch_get_with(keys, ReadOptions::default()).await
    }

    /// Reads many keys, each as fresh as `options` ask.
    ///
    /// # Errors
    /// The operation's [`Error`]; absent keys are none.
    pub async fn batch_get_with(
        &self,
        keys: &[impl AsRef<[u8]>],
        options: ReadOptions,
    ) -> Result<Vec<Found>, Error> {
        convert::check_operations(keys.len())?;
        for key in keys {
            checked(key.as_ref())?;
        }
        let batch = || {
            Operation::BatchGet(BatchGetRequest {
                namespace: self.namespace.as_ref().to_owned(),
                keys: keys
                    .iter()
                    .map(|key| Bytes::copy_from_slice(key.as_ref()))
                    .collect(),
                options: wire_options(options),
            })
        };
        match self.call(batch, Effect::Read).await? {
            Answer::BatchGet(batch) if batch.answers.len() == keys.len() => {
                Ok(batch.answers.into_iter().map(Found::from).collect())
            }
            _ => Err(mismatch(Effect::Read)),
        }
    }

    /// Sets a key; returns the new version.
    ///
    /// # Errors
    /// The operation's [`Error`]; with [`Code::OutcomeUnknown`] it may have happened.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<u64, Error> {
        self.put_with(key, value, PutOptions::default()).await
    }

    /// Sets a key as `options` say; returns the new version.
    ///
    /// # Errors
    /// The operation's [`Error`]; with [`Code::OutcomeUnknown`] it may have happened.
    pub async fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        options: PutOptions,
    ) -> Result<u64, Error> {
        let (key, value) = (checked(key.as_ref())?, value.into());
        let ttl_ms = options.ttl_ms()?;
        convert::check_value(&value)?;
        let put = || {
            Operation::Put(PutRequest {
                namespace: self.namespace.as_ref().to_owned(),
                key: Bytes::copy_from_slice(key),
                value: value.clone(),
                ttl_ms,
                request_id: None,
            })
        };
        match self.call(put, Effect::Write).await? {
            Answer::Put(put) => Ok(put.version),
            _ => Err(mismatch(Effect::Write)),
        }
    }

    /// Removes a key.
    ///
    /// # Errors
    /// The operation's [`Error`]; with [`Code::OutcomeUnknown`] it may have happened.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<Deleted, Error> {
        let key = checked(key.as_ref())?;
        let delete = || {
            Operation::Delete(DeleteRequest {
                namespace: self.namespace.as_ref().to_owned(),
                key: Bytes::copy_from_slice(key),
                request_id: None,
            })
        };
        match self.call(delete, Effect::Write).await? {
            Answer::Delete(delete) => Ok(Deleted {
                existed: delete.existed,
                version: delete.version,
            }),
            _ => Err(mismatch(Effect::Write)),
        }
    }

    /// The connection for what is no operation on keys.
    pub(crate) fn channel(&self) -> Channel {
        self.coordinator().channel.clone()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.shared.timeout
    }

    /// Finds a coordinator that answers, by an operation that means nothing and changes
    /// nothing. Each address is tried once, so that a wrong one is told at once.
    pub(crate) async fn greet(&self) -> Result<(), Error> {
        let deadline = Instant::now() + self.shared.timeout;
        let mut last = None;
        for (at, coordinator) in self.shared.coordinators.iter().enumerate() {
            let nothing = BatchGetRequest::default();
            match coordinator
                .session
                .call(Operation::BatchGet(nothing), deadline)
                .await
            {
                Ok(_) => {
                    self.shared.current.store(at, Ordering::Relaxed);
                    return Ok(());
                }
                Err(failure) => last = Some(failure.for_read()),
            }
        }
        Err(last
            .unwrap_or_else(|| Refusal::invalid("a client needs an address"))
            .into())
    }

    fn coordinator(&self) -> &Coordinator {
        let Shared {
            coordinators,
            current,
            ..
        } = &*self.shared;
        &coordinators[current.load(Ordering::Relaxed) % coordinators.len()]
    }

    /// Sends an operation, again and elsewhere where that is safe, until its time is over.
    /// It is made anew for each attempt: nearly always there is one.
    async fn call(
        &self,
        operation: impl Fn() -> Operation,
        effect: Effect,
    ) -> Result<Answer, Error> {
        let deadline = Instant::now() + self.shared.timeout;
        let mut pause = FIRST_PAUSE;
        loop {
            let at = self.shared.current.load(Ordering::Relaxed);
            let coordinator = &self.shared.coordinators[at % self.shared.coordinators.len()];
            let failure = match coordinator.session.call(operation(), deadline).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let unreachable = !matches!(failure, CallError::Refused(_));
            let error = match effect {
                Effect::Read => failure.for_read(),
                Effect::Write => failure.for_write(),
            };
            let again = Instant::now() + pause;
            // `Unavailable` promises that nothing was done, so trying again is safe.
            if error.code != Code::Unavailable || again >= deadline {
                return Err(error.into());
            }
            if unreachable {
                // Whoever sees it first moves everybody on.
                let next = at.wrapping_add(1);
                let _ = self.shared.current.compare_exchange(
                    at,
                    next,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
            sleep_until(again).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Default options need no message.
fn wire_options(options: ReadOptions) -> Option<v1::ReadOptions> {
    let default = options.consistency == Consistency::Cached && options.max_staleness.is_none();
    (!default).then(|| options.to_wire())
}

/// The key, if it keeps the limits: what a server would refuse is not sent.
fn checked(key: &[u8]) -> Result<&[u8], Error> {
    // The usual length needs no further check; the rule and its words are `ItemKey`'s.
    if !(1..=MAX_KEY_BYTES).contains(&key.len()) {
        ItemKey::new("", key)?;
    }
    Ok(key)
}

/// The server answered something else: what became of a write is then not known.
fn mismatch(effect: Effect) -> Error {
    let code = match effect {
        Effect::Read => Code::Internal,
        Effect::Write => Code::OutcomeUnknown,
    };
    Refusal::new(code, "the server answered another operation than was asked").into()
}

#[cfg(test)]
mod tests {
    use tierkv_types::limits::MAX_TTL;

    use super::*;

    #[test]
    fn no_time_to_live_becomes_for_ever() {
        let millis = |ttl| PutOptions { ttl }.ttl_ms().map_err(|error| error.code());
        assert_eq!(millis(None), Ok(0));
        assert_eq!(millis(Some(Duration::from_nanos(1))), Ok(1));
        assert_eq!(millis(Some(Duration::from_micros(1_500))), Ok(2));
        assert_eq!(millis(Some(Duration::from_secs(60))), Ok(60_000));
        assert_eq!(millis(Some(Duration::ZERO)), Err(Code::InvalidArgument));
        assert_eq!(millis(Some(MAX_TTL * 2)), Err(Code::InvalidArgument));
        assert_eq!(millis(Some(Duration::MAX)), Err(Code::InvalidArgument));
    }
}
