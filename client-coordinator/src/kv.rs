//! `tierkv.v1.Kv`: what users call, unary or in a session.

use std::sync::Arc;

use futures::future::join_all;
use tierkv_cache::Cache;
use tierkv_rpc::{
    Answered, answer_frames,
    proto::{
        convert,
        status::to_status,
        v1::{
            BatchGetRequest, BatchGetResponse, CountRequest, CountResponse, DeleteRequest,
            DeleteResponse, GetRequest, GetResponse, Greeting, IncrementRequest, IncrementResponse,
            PutRequest, PutResponse, ScanRequest, ScanResponse, SessionRequest, SessionResponse,
            WatchRequest, WatchResponse, WriteRequest, WriteResponse, kv_server,
        },
    },
};
use tierkv_types::{
    Clock, Error, ItemKey, Version,
    limits::{
        DEFAULT_TIMEOUT, MAX_ANSWER_BYTES, MAX_OPERATIONS, MAX_REQUEST_BYTES,
        MAX_SESSION_IN_FLIGHT, MAX_TIMEOUT,
    },
};
use tokio::{
    sync::watch,
    time::{Duration, Instant},
};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    meters::Meters,
    reader::{Begun, Level, Reader},
    session::Session,
    writer::Writer,
};

/// Keys of one batch that are read together: what is gathered before the batch turns out
/// too large for one answer is bounded by this many values.
const KEYS_TOGETHER: usize = 64;

/// Operations of users, whichever door they came through.
pub(crate) struct Operations<C> {
    pub(crate) reader: Reader<C>,
    pub(crate) writer: Writer,
    pub(crate) meters: Arc<Meters>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl<C: Cache> Operations<C> {
    /// Reads one key.
    ///
    /// # Errors
    /// `InvalidArgument`, or what the tiers below said.
    pub(crate) async fn get(
        &self,
        request: GetRequest,
        deadline: Instant,
    ) -> Result<GetResponse, Error> {
        self.meters.gets.increment(1);
        let (key, level) = self.wanted(&request)?;
        self.reader.read(key, level, deadline).await
    }

    /// What a read asks for.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub(crate) fn wanted(&self, request: &GetRequest) -> Result<(ItemKey, Level), Error> {
        let key = ItemKey::new(&request.namespace, &request.key)?;
        Ok((key, self.reader.level(request.options.as_ref())?))
    }

    /// Reads many keys of one namespace.
    ///
    /// # Errors
    /// `InvalidArgument`, `ResourceExhausted` if the values don't fit one answer, or what
    /// the tiers below said of any key.
    pub(crate) async fn batch_get(
        &self,
        request: BatchGetRequest,
        deadline: Instant,
    ) -> Result<BatchGetResponse, Error> {
        convert::check_operations(request.keys.len())?;
        self.meters.gets.increment(request.keys.len() as u64);
        let level = self.reader.level(request.options.as_ref())?;
        let wanted = (request.keys.iter())
            .map(|key| Ok((ItemKey::new(&request.namespace, key)?, level)))
            .collect::<Result<Vec<_>, Error>>()?;
        let mut answers = Vec::with_capacity(wanted.len());
        let mut bytes = 0;
        for wanted in wanted.chunks(KEYS_TOGETHER) {
            let begun = self.reader.begin(wanted).await;
            let finished = begun.into_iter().map(async |begun| match begun {
                Begun::Hit(answer) => Ok(answer),
                Begun::Miss(miss) => self.reader.finish(miss, deadline).await,
            });
            for answer in join_all(finished).await {
                let answer = answer?;
                bytes += answer.value.len();
                answers.push(answer);
            }
            if bytes > MAX_ANSWER_BYTES {
                return Err(Error::exhausted(format!(
                    "the values have more than {MAX_ANSWER_BYTES} bytes together, which is the \
                     limit max_answer_bytes: ask for fewer keys at once"
                )));
            }
        }
        Ok(BatchGetResponse { answers })
    }

    /// Sets a key.
    ///
    /// # Errors
    /// `InvalidArgument`, or what the tiers below said.
    pub(crate) async fn put(
        &self,
        request: PutRequest,
        deadline: Instant,
    ) -> Result<PutResponse, Error> {
        self.meters.puts.increment(1);
        if request.ttl_ms != 0 {
            return Err(not_served("a time to live"));
        }
        let key = ItemKey::new(&request.namespace, &request.key)?;
        let id = request.request_id.as_ref();
        let version = self.writer.put(key, request.value, id, deadline).await?;
        Ok(PutResponse { version })
    }

    /// Removes a key.
    ///
    /// # Errors
    /// `InvalidArgument`, or what the tiers below said.
    pub(crate) async fn delete(
        &self,
        request: DeleteRequest,
        deadline: Instant,
    ) -> Result<DeleteResponse, Error> {
        self.meters.deletes.increment(1);
        let key = ItemKey::new(&request.namespace, &request.key)?;
        self.writer
            .delete(key, request.request_id.as_ref(), deadline)
            .await
    }

    /// The first frame of a session.
    fn greeting(&self) -> SessionResponse {
        let limit = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
        let platform_time = self.reader.views.platform_time(self.clock.boot_time());
        let greeting = Greeting {
            platform_time_ms: platform_time
                .map_or_else(|| self.clock.wall_millis(), Version::millis),
            max_in_flight: limit(MAX_SESSION_IN_FLIGHT),
            max_request_bytes: limit(MAX_REQUEST_BYTES),
            max_operations: limit(MAX_OPERATIONS),
        };
        SessionResponse {
            greeting: Some(greeting),
            answers: Vec::new(),
        }
    }
}

/// Refuses what the contract has and this release does not serve, rather than ignoring it.
pub(crate) fn not_served(what: &str) -> Error {
    Error::invalid(format!(
        "{what} is not served by this release; leave it out or upgrade"
    ))
}

/// The service as tonic wants it.
pub(crate) struct Door<C> {
    pub(crate) operations: Arc<Operations<C>>,
    /// Ends the sessions when the coordinator stops.
    pub(crate) stop: watch::Receiver<bool>,
}

impl<C: Cache> Door<C> {
    fn answer<T>(&self, outcome: Result<T, Error>) -> Result<Response<T>, Status> {
        outcome.map(Response::new).map_err(|error| {
            self.operations.meters.failed(&error);
            to_status(&error)
        })
    }
}

/// The deadline a gRPC client set, cut to the limit.
fn deadline<T>(request: &Request<T>) -> Instant {
    let timeout = request
        .metadata()
        .get("grpc-timeout")
        .and_then(|value| parse_timeout(value.to_str().ok()?))
        .unwrap_or(DEFAULT_TIMEOUT);
    Instant::now() + timeout.min(MAX_TIMEOUT)
}

/// The gRPC wire form of a time-out: up to eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = (digits.len() <= 8).then(|| digits.parse().ok())??;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

fn unimplemented<T>(operation: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!(
        "{operation} is not served by this release"
    )))
}

/// A stream that never is: its operation is not served yet.
type NoStream<T> = tokio_stream::Empty<Result<T, Status>>;

#[tonic::async_trait]
impl<C: Cache> kv_server::Kv for Door<C> {
    type SessionStream = Answered<Session<C>>;
    type ScanStream = NoStream<ScanResponse>;
    type WatchStream = NoStream<WatchResponse>;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let deadline = deadline(&request);
        self.answer(self.operations.get(request.into_inner(), deadline).await)
    }

    async fn batch_get(
        &self,
        request: Request<BatchGetRequest>,
    ) -> Result<Response<BatchGetResponse>, Status> {
        let deadline = deadline(&request);
        self.answer(
            self.operations
                .batch_get(request.into_inner(), deadline)
                .await,
        )
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        if request.get_ref().ttl_ms != 0 {
            return unimplemented("a time to live");
        }
        let deadline = deadline(&request);
        self.answer(self.operations.put(request.into_inner(), deadline).await)
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let deadline = deadline(&request);
        self.answer(self.operations.delete(request.into_inner(), deadline).await)
    }

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let session = Arc::new(Session {
            operations: Arc::clone(&self.operations),
        });
        let greeting = Some(self.operations.greeting());
        let inbound = request.into_inner();
        Ok(Response::new(answer_frames(
            inbound,
            session,
            greeting,
            MAX_SESSION_IN_FLIGHT,
            self.stop.clone(),
        )))
    }

    async fn increment(
        &self,
        _: Request<IncrementRequest>,
    ) -> Result<Response<IncrementResponse>, Status> {
        unimplemented("Increment")
    }

    async fn write(&self, _: Request<WriteRequest>) -> Result<Response<WriteResponse>, Status> {
        unimplemented("Write")
    }

    async fn scan(&self, _: Request<ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        unimplemented("Scan")
    }

    async fn count(&self, _: Request<CountRequest>) -> Result<Response<CountResponse>, Status> {
        unimplemented("Count")
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        unimplemented("Watch")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("2S"), Some(Duration::from_secs(2)));
        assert_eq!(
            parse_timeout("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3_600))
        );
        for bad in ["", "S", "5", "5x", "123456789S", "-1S"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }
}
