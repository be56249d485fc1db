//! The frames of the session stream between users and client coordinators.

use std::time::Duration;

use tierkv_proto::{
    convert::timeout_ms,
    status::from_wire,
    v1::{
        SessionOperation, SessionRequest, SessionResponse, kv_client::KvClient, session_answer,
        session_operation,
    },
};
use tierkv_types::{
    Code, Error,
    limits::{MAX_ANSWER_BYTES, MAX_REQUEST_BYTES},
};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use crate::{exchange::Exchange, process_name::AddressedChannel};

/// Bytes of framing in addition to a message of maximum size.
pub const FRAME_SLACK: usize = 1 << 16;

/// The session stream of `tierkv.v1.Kv`.
pub struct Session;

impl Exchange for Session {
    type Request = session_operation::Operation;
    type Reply = session_answer::Answer;
    type RequestFrame = SessionRequest;
    type ReplyFrame = SessionResponse;
    /// The platform's time, in milliseconds since the Unix epoch.
    type News = u64;

    async fn open(
        channel: AddressedChannel,
        requests: impl Stream<Item = SessionRequest> + Send + 'static,
    ) -> Result<Streaming<SessionResponse>, Status> {
        let mut client = KvClient::new(channel)
            .max_decoding_message_size(MAX_ANSWER_BYTES + FRAME_SLACK)
            .max_encoding_message_size(MAX_REQUEST_BYTES + FRAME_SLACK);
        Ok(client.session(requests).await?.into_inner())
    }

    fn weight(request: &Self::Request) -> usize {
        use session_operation::Operation;
        const FIXED: usize = 64;
        FIXED
            + match request {
                Operation::Get(get) => get.namespace.len() + get.key.len(),
                Operation::BatchGet(batch) => {
                    let keys = batch.keys.iter().map(|key| key.len() + 4);
                    batch.namespace.len() + keys.sum::<usize>()
                }
                Operation::Put(put) => put.namespace.len() + put.key.len() + put.value.len(),
                Operation::Delete(delete) => delete.namespace.len() + delete.key.len(),
                Operation::Increment(increment) => increment.namespace.len() + increment.key.len(),
                Operation::Touch(touch) => touch.namespace.len() + touch.key.len(),
                Operation::Write(write) => prost::Message::encoded_len(write),
            }
    }

    fn operations(request: &Self::Request) -> usize {
        use session_operation::Operation;
        match request {
            Operation::BatchGet(batch) => batch.keys.len().max(1),
            Operation::Write(write) => write.operations.len().max(1),
            Operation::Get(_)
            | Operation::Put(_)
            | Operation::Delete(_)
            | Operation::Increment(_)
            | Operation::Touch(_) => 1,
        }
    }

    fn empty(count: usize) -> SessionRequest {
        SessionRequest {
            operations: Vec::with_capacity(count),
        }
    }

    fn push(frame: &mut SessionRequest, id: u64, left: Duration, operation: Self::Request) {
        frame.operations.push(SessionOperation {
            id,
            timeout_ms: timeout_ms(left),
            operation: Some(operation),
        });
    }

    fn news(frame: &SessionResponse) -> Option<u64> {
        let greeted = frame
            .greeting
            .map_or(0, |greeting| greeting.platform_time_ms);
        [frame.platform_time_ms, greeted]
            .into_iter()
            .find(|millis| *millis > 0)
    }

    fn answers(frame: &SessionResponse) -> usize {
        frame.answers.len()
    }

    fn unpack(frame: SessionResponse, mut deliver: impl FnMut(u64, Result<Self::Reply, Error>)) {
        for answer in frame.answers {
            let outcome = match answer.answer {
                Some(session_answer::Answer::Error(error)) => {
                    Err(from_wire(error).unwrap_or_else(|| {
                        Error::new(
                            Code::OutcomeUnknown,
                            "the server answered with an unknown code",
                        )
                    }))
                }
                Some(reply) => Ok(reply),
                None => Err(Error::new(
                    Code::OutcomeUnknown,
                    "the server sent an answer that this client does not support; upgrade it",
                )),
            };
            deliver(answer.id, outcome);
        }
    }
}
