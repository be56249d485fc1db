//! The operations of users, common to all doors.

use std::sync::Arc;

use futures::{StreamExt, future::join_all};
use tierkv_cache::Cache;
use tierkv_rpc::proto::{
    convert,
    v1::{
        BatchGetRequest, BatchGetResponse, CountRequest, CountResponse, DeleteRequest,
        DeleteResponse, GetRequest, GetResponse, Greeting, IncrementRequest, IncrementResponse,
        PutRequest, PutResponse, ScanRequest, ScanResponse, SessionResponse, TouchRequest,
        TouchResponse, WatchRequest, WatchResponse, WriteRequest, WriteResponse,
        write_operation::Kind,
    },
};
use tierkv_types::{
    Clock, Error, ItemKey, OperationKind, Slot, Version,
    limits::{MAX_ANSWER_BYTES, MAX_OPERATIONS, MAX_REQUEST_BYTES, MAX_SESSION_IN_FLIGHT},
};
use tokio::time::Instant;

use crate::{
    answers::Answers,
    meters::Meters,
    read_options::CheckedOptions,
    reader::{Lookup, Reader},
    scans::Scans,
    watches::Watches,
    writer::{Naming, Writer},
};

/// Keys of one batch that are read together. This bounds what is in memory before a batch turns out
/// too large for one answer.
const KEYS_TOGETHER: usize = 64;

/// The operations of users, common to all doors.
pub(crate) struct Operations<C> {
    pub(crate) reader: Reader<C>,
    pub(crate) writer: Writer,
    pub(crate) scans: Scans,
    pub(crate) watches: Watches,
    pub(crate) meters: Arc<Meters>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl<C: Cache> Operations<C> {
    /// Reads one key.
    ///
    /// # Errors
    /// `InvalidArgument`, or the errors of the tiers below.
    pub(crate) async fn get(
        &self,
        request: GetRequest,
        deadline: Instant,
    ) -> Result<GetResponse, Error> {
        let _timed = self.meters.gets.begin();
        let (key, options) = self.wanted(&request)?;
        self.reader.read(key, options, deadline).await
    }

    /// The key and the checked options of a read.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub(crate) fn wanted(&self, request: &GetRequest) -> Result<(ItemKey, CheckedOptions), Error> {
        let key = ItemKey::new(&request.namespace, &request.key)?;
        Ok((key, self.reader.check(request.options.as_ref())?))
    }

    /// Reads many keys of one namespace.
    ///
    /// # Errors
    /// `InvalidArgument`, `ResourceExhausted` if the values don't fit one answer, or the tiers'
    /// errors for any key.
    pub(crate) async fn batch_get(
        &self,
        request: BatchGetRequest,
        deadline: Instant,
    ) -> Result<BatchGetResponse, Error> {
        // Clients send an empty batch to find out whether this coordinator answers: no operation.
        let _timed = (!request.keys.is_empty()).then(|| self.meters.batch_gets.begin());
        convert::check_operations(request.keys.len())?;
        self.meters.gets.count.increment(request.keys.len() as u64);
        let options = self.reader.check(request.options.as_ref())?;
        let wanted = (request.keys.iter())
            .map(|key| Ok((ItemKey::new(&request.namespace, key)?, options)))
            .collect::<Result<Vec<_>, Error>>()?;
        let mut answers = Vec::with_capacity(wanted.len());
        let mut bytes = 0;
        for wanted in wanted.chunks(KEYS_TOGETHER) {
            let lookups = self.reader.begin(wanted).await;
            let finished = lookups.into_iter().map(async |lookup| match lookup {
                Lookup::Hit(answer) => Ok(answer),
                Lookup::Miss(miss) => self.reader.finish(miss, deadline).await,
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

    /// Sets a key. `idempotency_key` is the hash of the write's idempotency key, if the door has
    /// one; otherwise the request's own id counts.
    ///
    /// # Errors
    /// `InvalidArgument`, `AlreadyExists` if the key was used for another write, or the errors of
    /// the tiers below. The same holds for every write below.
    pub(crate) async fn put(
        &self,
        request: PutRequest,
        idempotency_key: Option<[u8; 16]>,
        deadline: Instant,
    ) -> Result<PutResponse, Error> {
        let _timed = self.meters.puts.begin();
        let key = ItemKey::new(&request.namespace, &request.key)?;
        let put = convert::writes::put(request.value, request.ttl_ms)?;
        let naming = Naming::of(idempotency_key, request.request_id.as_ref());
        let (version, _) = self.writer.change(key, put, naming, deadline).await?;
        Ok(PutResponse { version })
    }

    /// Removes a key.
    ///
    /// # Errors
    /// `InvalidArgument`, or the errors of the tiers below.
    pub(crate) async fn delete(
        &self,
        request: DeleteRequest,
        idempotency_key: Option<[u8; 16]>,
        deadline: Instant,
    ) -> Result<DeleteResponse, Error> {
        let _timed = self.meters.deletes.begin();
        let key = ItemKey::new(&request.namespace, &request.key)?;
        let naming = Naming::of(idempotency_key, request.request_id.as_ref());
        let deletion = (self.writer).change(key, OperationKind::Delete, naming, deadline);
        let (version, result) = deletion.await?;
        Ok(DeleteResponse {
            existed: result.existed,
            version,
        })
    }

    /// Adds to a number.
    ///
    /// # Errors
    /// `InvalidArgument`, or the errors of the tiers below.
    pub(crate) async fn increment(
        &self,
        request: IncrementRequest,
        idempotency_key: Option<[u8; 16]>,
        deadline: Instant,
    ) -> Result<IncrementResponse, Error> {
        let _timed = self.meters.increments.begin();
        let key = ItemKey::new(&request.namespace, &request.key)?;
        let naming = Naming::of(idempotency_key, request.request_id.as_ref());
        let delta = request.delta;
        let increment = OperationKind::Increment { delta };
        let (version, result) = self.writer.change(key, increment, naming, deadline).await?;
        Ok(IncrementResponse {
            value: result.number,
            version,
        })
    }

    /// Sets when a key expires.
    ///
    /// # Errors
    /// `NotFound` if the key is absent, or those of a put.
    pub(crate) async fn touch(
        &self,
        request: TouchRequest,
        idempotency_key: Option<[u8; 16]>,
        deadline: Instant,
    ) -> Result<TouchResponse, Error> {
        let _timed = self.meters.touches.begin();
        let key = ItemKey::new(&request.namespace, &request.key)?;
        let touch = convert::writes::touch(request.ttl_ms)?;
        let naming = Naming::of(idempotency_key, request.request_id.as_ref());
        let (version, _) = self.writer.change(key, touch, naming, deadline).await?;
        Ok(TouchResponse { version })
    }

    /// Applies a batch of operations, all or none.
    ///
    /// # Errors
    /// `InvalidArgument`, `ConditionFailed`, or the errors of the tiers below.
    pub(crate) async fn write(
        &self,
        request: WriteRequest,
        idempotency_key: Option<[u8; 16]>,
        deadline: Instant,
    ) -> Result<WriteResponse, Error> {
        let _timed = self.meters.writes.begin();
        let id = request.request_id.clone();
        let naming = Naming::of(idempotency_key, id.as_ref());
        let slot = first_slot(&request);
        let name = self.writer.name(naming, slot, deadline).await?;
        let write = convert::writes::batch(request, name)?;
        let answer = self.writer.write(write, naming, deadline).await?;
        Ok(WriteResponse {
            version: answer.version,
            results: answer.results,
            replayed: answer.replayed,
        })
    }

    /// Streams the items of a prefix or range in key order, until `deadline`. There is at least one
    /// response. Each response but the last has a token from which a later scan goes on. The last
    /// one has a token only if the limit was reached and there are more items.
    ///
    /// # Errors
    /// `InvalidArgument`, `ResourceExhausted` if too many scans are open, or the errors of the
    /// tiers below. The stream may end with the same errors.
    pub(crate) async fn scan(
        &self,
        request: ScanRequest,
        deadline: Instant,
    ) -> Result<Answers<ScanResponse>, Error> {
        let timed = self.meters.scans.begin();
        let answers = self.scans.scan(request, deadline).await?;
        Ok(timed.until_dropped(answers).boxed())
    }

    /// Counts the items that a scan would return.
    ///
    /// # Errors
    /// Those of a scan.
    pub(crate) async fn count(
        &self,
        request: CountRequest,
        deadline: Instant,
    ) -> Result<CountResponse, Error> {
        let _timed = self.meters.counts.begin();
        self.scans.count(request, deadline).await
    }

    /// Streams the committed changes of a prefix until the caller drops the stream. This returns
    /// once the first answer is there, with the position where the watch begins.
    ///
    /// # Errors
    /// `InvalidArgument`, `TokenExpired`, `ResourceExhausted`, or the errors of the tiers below.
    /// The stream may end with the same errors.
    pub(crate) async fn watch(
        &self,
        request: WatchRequest,
    ) -> Result<Answers<WatchResponse>, Error> {
        let _timed = self.meters.watches.begin();
        self.watches.watch(request).await
    }

    /// The platform's time, in milliseconds since the Unix epoch; `None` before the first answer of
    /// a master. This machine's wall clock is not used.
    pub(crate) fn platform_time_ms(&self) -> Option<u64> {
        let platform_time = self.reader.views.platform_time(self.clock.boot_time());
        platform_time.map(Version::millis)
    }

    /// The first frame of a session.
    pub(crate) fn greeting(&self) -> SessionResponse {
        let limit = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
        let platform_time_ms = self.platform_time_ms().unwrap_or(0);
        let greeting = Greeting {
            platform_time_ms,
            max_in_flight: limit(MAX_SESSION_IN_FLIGHT),
            max_request_bytes: limit(MAX_REQUEST_BYTES),
            max_operations: limit(MAX_OPERATIONS),
        };
        SessionResponse {
            greeting: Some(greeting),
            answers: Vec::new(),
            platform_time_ms,
        }
    }
}

/// The slot of the first key that a batch changes; `None` if it is not valid, which is refused
/// later.
fn first_slot(request: &WriteRequest) -> Option<Slot> {
    let key = match request.operations.first()?.kind.as_ref()? {
        Kind::Put(put) => &put.key,
        Kind::Delete(delete) => &delete.key,
        Kind::Increment(increment) => &increment.key,
        Kind::Touch(touch) => &touch.key,
    };
    let key = ItemKey::new(&request.namespace, key).ok()?;
    Some(key.slot())
}
