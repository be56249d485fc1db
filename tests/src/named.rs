//! Writes with request ids that the test chooses, so that it can send a write again.
//!
//! A client that lost an answer sends the same write again with the same request id. The SDK
//! does not let its caller choose request ids; a client in any language may.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tierkv::rpc::{
    Multiplexer, channel,
    proto::v1::{
        DeleteRequest, PutRequest, RequestId, session_answer::Answer as Answered,
        session_operation::Operation,
    },
    session::Session,
};
use tierkv_types::{Code, Error};
use tokio::time::Instant;

use crate::ledger::{Answer, Attempt, Kind};

/// Streams of one session, each with its own connection.
const STREAMS: usize = 2;
/// Writes under way on a stream.
const IN_FLIGHT: usize = 128;
/// Timeout of a write; long, because the machine may be busy.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A session whose request ids are made from the writes' numbers.
#[derive(Clone)]
pub struct NamedWrites {
    session: Multiplexer<Session>,
    namespace: String,
    /// Distinguishes the request ids of this run from those of others.
    run: u64,
}

impl NamedWrites {
    /// A session with the platform at `grpc`; it opens on its first write.
    ///
    /// # Errors
    /// If the address is invalid.
    pub fn connect(grpc: &str, namespace: &str, run: u64) -> Result<Self, Error> {
        let channels = (0..STREAMS).map(|_| channel(grpc));
        Ok(Self {
            session: Multiplexer::new(channels.collect::<Result<_, _>>()?, IN_FLIGHT),
            namespace: namespace.to_owned(),
            run,
        })
    }

    /// Sends a write once.
    ///
    /// # Errors
    /// The error that the platform returns, or `OutcomeUnknown` if no answer arrived.
    pub async fn write(&self, key: &str, attempt: Attempt) -> Result<Answer, Error> {
        let deadline = Instant::now() + TIMEOUT;
        let operation = self.operation(key, attempt);
        let answered = self.session.call(operation, deadline).await;
        match answered.map_err(|error| error.for_write())? {
            Answered::Put(put) => Ok(Answer {
                version: put.version,
                existed: None,
            }),
            Answered::Delete(delete) => Ok(Answer {
                version: delete.version,
                existed: Some(delete.existed),
            }),
            other => Err(Error::new(
                Code::Internal,
                format!("a write was answered {other:?}"),
            )),
        }
    }

    fn operation(&self, key: &str, attempt: Attempt) -> Operation {
        let mut random = self.run.to_le_bytes().to_vec();
        random.extend_from_slice(&attempt.number.to_le_bytes());
        let request_id = Some(RequestId {
            random: random.into(),
            birth_ms: attempt.born_ms,
        });
        let (namespace, key) = (self.namespace.clone(), key.to_owned().into());
        let ttl_ms = match attempt.kind {
            Kind::Expiring(_, ttl_ms) => ttl_ms,
            Kind::Put(_) | Kind::Delete => 0,
        };
        match attempt.value() {
            Some(value) => Operation::Put(PutRequest {
                namespace,
                key,
                value,
                ttl_ms,
                request_id,
            }),
            None => Operation::Delete(DeleteRequest {
                namespace,
                key,
                request_id,
            }),
        }
    }
}

/// The test's time in milliseconds since 1970, the unit of platform time.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
