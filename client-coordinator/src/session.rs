//! The session stream: frames of operations in, frames of answers out.
//!
//! The single reads of a frame are looked up in the cache together, and the hits are answered at
//! once. Everything else goes below and is answered when it is done.
//!
//! A frame is begun in parts. The answers to a part have no more values than fit into the room for
//! unsent answers, or [`LEAST_PART`]. So a frame of [`MAX_OPERATIONS`] reads of cached large values
//! exceeds `limits.stream_bytes` by one such part at most. Operations that already were in progress
//! when the limit was reached come on top of it, at most [`SESSION_PLACES`] values.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use tierkv_cache::Cache;
use tierkv_rpc::{
    Exchange, FrameHandler, Replies, StreamShare,
    proto::{
        convert,
        status::to_wire,
        v1::{
            SessionAnswer, SessionOperation, SessionRequest, SessionResponse,
            session_answer::Answer, session_operation::Operation,
        },
    },
    session as wire,
};
use tierkv_types::{
    Error, ItemKey,
    limits::{
        MAX_ANSWER_BYTES, MAX_FRAME_OPERATIONS, MAX_OPERATIONS, MAX_SESSION_IN_FLIGHT,
        MAX_VALUE_BYTES,
    },
};
use tokio::time::Instant;

use crate::{
    operations::Operations,
    places::{Place, PlacesFor},
    read_options::CheckedOptions,
    reader::{Lookup, Miss},
};

/// Maximum number of answers sent in one frame.
const ANSWERS_TOGETHER: usize = 128;

/// Places of an operation on one key among those in progress. An operation on many keys takes one
/// place per key, if that is more: its answer may hold as many values.
const PLACES_AN_OPERATION: usize = 4;
/// The places of a session.
pub(crate) const SESSION_PLACES: usize = PLACES_AN_OPERATION * MAX_SESSION_IN_FLIGHT;
/// The values of operations of a frame that are begun together without room for all streams:
/// together they are at most as large as the largest answer.
const LEAST_PART: usize = MAX_ANSWER_BYTES / MAX_VALUE_BYTES;
/// The limit and gauges of sessions.
pub(crate) const SESSIONS: PlacesFor = PlacesFor {
    what: "sessions",
    limit: "max_sessions",
    gauge: "tierkv_sessions",
    limit_gauge: "tierkv_sessions_limit",
};

/// One session.
pub(crate) struct Session<C> {
    operations: Arc<Operations<C>>,
    share: StreamShare,
    _place: Place,
}

/// An answer in progress, with the places that it occupies.
type Pending = Pin<Box<dyn Future<Output = (usize, SessionAnswer)> + Send>>;

impl<C: Cache> FrameHandler for Session<C> {
    type RequestFrame = SessionRequest;
    type Reply = SessionAnswer;
    type ReplyFrame = SessionResponse;

    async fn frame(self: &Arc<Self>, frame: SessionRequest, replies: &Replies<SessionAnswer>) {
        let arrived = Instant::now();
        let mut left = MAX_OPERATIONS;
        let mut operations = frame.operations.into_iter().peekable();
        while operations.len() > 0 {
            // Until there is room, nothing more is read of the session: backpressure to its client.
            let most = self.room(replies).await;
            let mut part = Part::new(most, operations.len());
            while let Some(next) = operations.next_if(|next| part.takes(next)) {
                let SessionOperation {
                    id,
                    timeout_ms,
                    operation,
                } = next;
                let deadline = arrived + convert::timeout(timeout_ms);
                let count = operation.as_ref().map_or(1, wire::Session::operations);
                // Only an operation that is by itself too large for a frame is refused by itself.
                if count.min(MAX_OPERATIONS) > left {
                    part.answers.push(self.answer(id, Err(too_many())));
                    continue;
                }
                left -= count.min(MAX_OPERATIONS);
                match operation {
                    Some(Operation::Get(get)) => {
                        let wanted = self.operations.wanted(&get);
                        part.reads.push(id, deadline, wanted);
                    }
                    Some(operation) => part.others.push((id, deadline, operation)),
                    None => part.answers.push(self.answer(id, Err(unknown()))),
                }
            }
            let misses = self.read(part.reads, arrived, &mut part.answers).await;
            replies.send(part.answers).await;
            self.answer_later(misses, part.others, arrived, replies)
                .await;
        }
    }

    fn weight(answer: &SessionAnswer) -> usize {
        const FIXED: usize = 48;
        FIXED
            + match &answer.answer {
                Some(Answer::Get(get)) => get.value.len(),
                Some(Answer::BatchGet(batch)) => batch
                    .answers
                    .iter()
                    .map(|get| get.value.len() + FIXED)
                    .sum(),
                Some(Answer::Write(write)) => (write.results.iter())
                    .map(|result| result.previous_value.as_ref().map_or(0, Bytes::len) + FIXED)
                    .sum(),
                Some(Answer::Error(error)) => error.message.len(),
                Some(
                    Answer::Put(_) | Answer::Delete(_) | Answer::Increment(_) | Answer::Touch(_),
                )
                | None => 0,
            }
    }

    fn pack(&self, answers: Vec<SessionAnswer>) -> SessionResponse {
        SessionResponse {
            greeting: None,
            answers,
            platform_time_ms: self.operations.platform_time_ms().unwrap_or(0),
        }
    }
}

/// The places of an operation among those in progress.
fn places(operation: &Operation) -> usize {
    let keys = match operation {
        Operation::BatchGet(batch) => batch.keys.len(),
        Operation::Write(write) => write.operations.len(),
        _ => 0,
    };
    keys.max(PLACES_AN_OPERATION)
}

/// How many values the answer to an operation may have.
fn values(operation: &Operation) -> usize {
    match operation {
        Operation::Get(_) => 1,
        Operation::BatchGet(batch) => batch.keys.len(),
        Operation::Write(write) => write.operations.len(),
        Operation::Put(_)
        | Operation::Delete(_)
        | Operation::Increment(_)
        | Operation::Touch(_) => 0,
    }
}

fn too_many() -> Error {
    Error::exhausted(format!(
        "the frame has more operations, keys of batches counted, than the limit \
         max_operations, {MAX_OPERATIONS}: send it in several"
    ))
}

fn unknown() -> Error {
    Error::invalid("the operation is empty, or of a kind that this release does not support")
}

/// Operations of a frame that are begun together.
struct Part {
    /// How many values more its answers may have.
    room: usize,
    is_empty: bool,
    answers: Vec<SessionAnswer>,
    reads: Reads,
    others: Vec<(u64, Instant, Operation)>,
}

impl Part {
    /// A part of at least one of `capacity` operations, whose answers have up to `most` values.
    fn new(most: usize, capacity: usize) -> Self {
        Self {
            room: most,
            is_empty: true,
            answers: Vec::with_capacity(capacity),
            reads: Reads::with_capacity(capacity),
            others: Vec::new(),
        }
    }

    /// Whether it takes this operation.
    fn takes(&mut self, next: &SessionOperation) -> bool {
        let values = next.operation.as_ref().map_or(0, values);
        let takes = self.is_empty || values <= self.room;
        self.is_empty = false;
        self.room = self.room.saturating_sub(values);
        takes
    }
}

/// The single reads of a part of a frame.
struct Reads {
    wanted: Vec<(ItemKey, CheckedOptions)>,
    names: Vec<(u64, Instant)>,
    /// Those that ask for what can't be.
    refused: Vec<(u64, Error)>,
}

impl Reads {
    fn with_capacity(capacity: usize) -> Self {
        let capacity = capacity.min(MAX_FRAME_OPERATIONS);
        Self {
            wanted: Vec::with_capacity(capacity),
            names: Vec::with_capacity(capacity),
            refused: Vec::new(),
        }
    }

    fn push(
        &mut self,
        id: u64,
        deadline: Instant,
        wanted: Result<(ItemKey, CheckedOptions), Error>,
    ) {
        match wanted {
            Ok(wanted) => {
                self.wanted.push(wanted);
                self.names.push((id, deadline));
            }
            Err(error) => self.refused.push((id, error)),
        }
    }
}

impl<C: Cache> Session<C> {
    /// A session that waits while there is no room for its answers (see [`StreamShare`]).
    pub(crate) fn new(operations: Arc<Operations<C>>, share: StreamShare, place: Place) -> Self {
        Self {
            operations,
            share,
            _place: place,
        }
    }

    /// Waits until the session may begin operations. Returns how many values their answers may have,
    /// so that they fit into the room for answers.
    ///
    /// Without room for all streams, a session that has unsent answers or operations in progress
    /// waits for them. It then begins a small part of a frame, so that it continues as fast as its
    /// own client reads.
    async fn room(&self, replies: &Replies<SessionAnswer>) -> usize {
        if self.share.free_bytes() == 0 {
            let own = async {
                replies.idle().await;
                self.share.room().await;
            };
            tokio::select! {
                () = self.share.room_for_all() => {}
                () = own => {}
            }
        }
        (self.share.free_bytes() / MAX_VALUE_BYTES).max(LEAST_PART)
    }

    /// Answers in a task of its own what must go below, once there are places for it.
    async fn answer_later(
        self: &Arc<Self>,
        misses: Vec<(u64, Instant, Miss)>,
        others: Vec<(u64, Instant, Operation)>,
        arrived: Instant,
        replies: &Replies<SessionAnswer>,
    ) {
        if misses.is_empty() && others.is_empty() {
            return;
        }
        let others_places: usize = others.iter().map(|(.., other)| places(other)).sum();
        let Some(mut permits) = replies
            .admit(misses.len() * PLACES_AN_OPERATION + others_places)
            .await
        else {
            return;
        };
        let (session, replies) = (Arc::clone(self), replies.clone());
        tokio::spawn(async move {
            let misses = misses
                .into_iter()
                .map(|(id, deadline, miss)| session.miss(id, arrived, deadline, miss));
            let others = others
                .into_iter()
                .map(|(id, at, other)| session.other(id, at, other));
            let under_way: FuturesUnordered<Pending> = misses.chain(others).collect();
            let mut answered = under_way.ready_chunks(ANSWERS_TOGETHER);
            while let Some(chunk) = answered.next().await {
                let places = chunk.iter().map(|(places, _)| places).sum();
                let answers = chunk.into_iter().map(|(_, answer)| answer).collect();
                replies.send(answers).await;
                permits.answered(places);
            }
        });
    }

    /// Answers the hits and what is refused; returns the operations that must go below.
    async fn read(
        &self,
        reads: Reads,
        arrived: Instant,
        answers: &mut Vec<SessionAnswer>,
    ) -> Vec<(u64, Instant, Miss)> {
        let gets = reads.names.len() + reads.refused.len();
        if gets == 0 {
            return Vec::new();
        }
        let refused = reads.refused.into_iter();
        answers.extend(refused.map(|(id, error)| self.answer(id, Err(error))));
        let mut misses = Vec::new();
        let lookups = self.operations.reader.begin(&reads.wanted).await;
        for ((id, deadline), lookup) in reads.names.into_iter().zip(lookups) {
            match lookup {
                Lookup::Hit(hit) => {
                    answers.push(SessionAnswer {
                        id,
                        answer: Some(Answer::Get(hit)),
                    });
                }
                Lookup::Miss(miss) => misses.push((id, deadline, miss)),
            }
        }
        let meters = &self.operations.meters;
        meters.gets.ended(arrived, gets - misses.len());
        misses
    }

    fn miss(self: &Arc<Self>, id: u64, arrived: Instant, deadline: Instant, miss: Miss) -> Pending {
        let session = Arc::clone(self);
        Box::pin(async move {
            let outcome = session.operations.reader.finish(miss, deadline).await;
            session.operations.meters.gets.ended(arrived, 1);
            (
                PLACES_AN_OPERATION,
                session.answer(id, outcome.map(Answer::Get)),
            )
        })
    }

    fn other(self: &Arc<Self>, id: u64, deadline: Instant, operation: Operation) -> Pending {
        let session = Arc::clone(self);
        let places = places(&operation);
        Box::pin(async move {
            let operations = &session.operations;
            let outcome = match operation {
                Operation::Get(get) => operations.get(get, deadline).await.map(Answer::Get),
                Operation::BatchGet(batch) => operations
                    .batch_get(batch, deadline)
                    .await
                    .map(Answer::BatchGet),
                Operation::Put(put) => operations.put(put, None, deadline).await.map(Answer::Put),
                Operation::Delete(delete) => operations
                    .delete(delete, None, deadline)
                    .await
                    .map(Answer::Delete),
                Operation::Increment(increment) => operations
                    .increment(increment, None, deadline)
                    .await
                    .map(Answer::Increment),
                Operation::Touch(touch) => {
                    let touch = operations.touch(touch, None, deadline);
                    touch.await.map(Answer::Touch)
                }
                Operation::Write(write) => operations
                    .write(write, None, deadline)
                    .await
                    .map(Answer::Write),
            };
            (places, session.answer(id, outcome))
        })
    }

    fn answer(&self, id: u64, outcome: Result<Answer, Error>) -> SessionAnswer {
        let answer = outcome.unwrap_or_else(|error| {
            self.operations.meters.failed(&error);
            Answer::Error(to_wire(&error))
        });
        SessionAnswer {
            id,
            answer: Some(answer),
        }
    }
}
