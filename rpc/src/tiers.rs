//! The frames between tiers: one format for both hops.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use tierkv_proto::{
    convert::timeout_ms,
    internal::{
        InspectRequest, InspectResponse, Reply, ReplyFrame, Request, RequestFrame,
        data_node_client::DataNodeClient, reply, request,
        server_coordinator_client::ServerCoordinatorClient,
    },
    status::{from_wire, read_error, to_wire},
};
use tierkv_types::{
    Code, Error, ProcessName,
    limits::{FRAME_BYTES, MAX_ANSWER_BYTES, MAX_PEER_IN_FLIGHT, MAX_REQUEST_BYTES},
};
use tokio::time::{Instant, timeout};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use crate::{
    channel::{channel, unhurried_channel},
    exchange::{CallError, Exchange},
    multiplexer::Multiplexer,
    process_name::AddressedChannel,
    session::FRAME_SLACK,
};

/// Largest frame between tiers, in bytes: one frame's worth of small operations, or one
/// operation of limit size.
pub const MAX_TIER_FRAME_BYTES: usize = if FRAME_BYTES > MAX_REQUEST_BYTES {
    FRAME_BYTES + FRAME_SLACK
} else {
    MAX_REQUEST_BYTES + FRAME_SLACK
};

/// From a client coordinator to a server coordinator.
pub struct ToServerCoordinator;

/// From a server coordinator to a data node.
pub struct ToDataNode;

macro_rules! tier_exchange {
    ($name:ident, $client:ident) => {
        impl Exchange for $name {
            type Request = request::Kind;
            type Reply = reply::Kind;
            type RequestFrame = RequestFrame;
            type ReplyFrame = ReplyFrame;
            // Tiers send nothing beside their answers.
            type News = Infallible;

            async fn open(
                channel: AddressedChannel,
                requests: impl Stream<Item = RequestFrame> + Send + 'static,
            ) -> Result<Streaming<ReplyFrame>, Status> {
                let mut client = $client::new(channel)
                    .max_decoding_message_size(MAX_ANSWER_BYTES + FRAME_SLACK)
                    .max_encoding_message_size(MAX_TIER_FRAME_BYTES);
                Ok(client.exchange(requests).await?.into_inner())
            }

            fn weight(request: &request::Kind) -> usize {
                request_weight(request)
            }

            fn empty(count: usize) -> RequestFrame {
                RequestFrame {
                    requests: Vec::with_capacity(count),
                }
            }

            fn push(frame: &mut RequestFrame, id: u64, left: Duration, kind: request::Kind) {
                let timeout_ms = timeout_ms(left);
                frame.requests.push(Request {
                    id,
                    timeout_ms,
                    kind: Some(kind),
                });
            }

            fn answers(frame: &ReplyFrame) -> usize {
                frame.replies.len()
            }

            fn unpack(frame: ReplyFrame, deliver: impl FnMut(u64, Result<reply::Kind, Error>)) {
                unpack(frame, deliver);
            }
        }
    };
}

tier_exchange!(ToServerCoordinator, ServerCoordinatorClient);
tier_exchange!(ToDataNode, DataNodeClient);

fn request_weight(request: &request::Kind) -> usize {
    const FIXED: usize = 64;
    FIXED
        + match request {
            request::Kind::Read(read) => read.item_key.len(),
            request::Kind::Write(write) => prost::Message::encoded_len(write),
            request::Kind::Vouch(vouch) => vouch.cluster.len(),
        }
}

/// The connections from one tier to one peer of the next. Reads, writes and questions have their
/// own, so that writes waiting for a disk do not delay reads, and neither delays the questions on
/// which cache hits depend. Cheap to clone.
pub struct Peer<X: Exchange> {
    reads: Multiplexer<X>,
    writes: Multiplexer<X>,
    questions: Multiplexer<X>,
    channel: AddressedChannel,
    unhurried: AddressedChannel,
}

impl<X: Exchange> Clone for Peer<X> {
    fn clone(&self) -> Self {
        Self {
            reads: self.reads.clone(),
            writes: self.writes.clone(),
            questions: self.questions.clone(),
            channel: self.channel.clone(),
            unhurried: self.unhurried.clone(),
        }
    }
}

impl<X: Exchange<Request = request::Kind>> Peer<X> {
    /// Connections to the process `name` at `address` (`host:port`); another one there refuses
    /// every call with `WrongNode`. Those for reads, writes and questions are opened at
    /// once, the others on first use. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `InvalidArgument` if the address is not `host:port`.
    pub fn new(address: &str, name: &ProcessName) -> Result<Self, Error> {
        let addressed = |channel| AddressedChannel::new(channel, name);
        let lane = || {
            let channel = addressed(channel(address)?);
            let lane = Multiplexer::new(vec![channel], MAX_PEER_IN_FLIGHT);
            Ok(lane.opened())
        };
        Ok(Self {
            reads: lane()?,
            writes: lane()?,
            questions: lane()?,
            channel: addressed(channel(address)?),
            unhurried: addressed(unhurried_channel(address)?),
        })
    }

    /// Sends a request over the connections of its kind and waits for its answer.
    ///
    /// # Errors
    /// [`CallError`]: whether the request may have had an effect.
    pub async fn call(
        &self,
        request: request::Kind,
        deadline: Instant,
    ) -> Result<X::Reply, CallError> {
        let lane = match &request {
            request::Kind::Read(_) => &self.reads,
            request::Kind::Write(_) => &self.writes,
            request::Kind::Vouch(_) => &self.questions,
        };
        lane.call(request, deadline).await
    }

    /// A channel for unary calls.
    #[must_use]
    pub fn channel(&self) -> AddressedChannel {
        self.channel.clone()
    }

    /// A channel for calls whose readers may pause for long.
    #[must_use]
    pub fn unhurried_channel(&self) -> AddressedChannel {
        self.unhurried.clone()
    }
}

/// Asks a data node for its log and its role.
///
/// # Errors
/// `Unavailable` if it does not answer within `limit`; otherwise that of the call.
pub async fn inspect(node: AddressedChannel, limit: Duration) -> Result<InspectResponse, Error> {
    let mut client = DataNodeClient::new(node);
    match timeout(limit, client.inspect(InspectRequest {})).await {
        Ok(answered) => Ok(answered.map_err(|status| read_error(&status))?.into_inner()),
        Err(_) => Err(Error::unavailable("the data node does not answer")),
    }
}

/// The approximate size of an answer in a frame, in bytes.
#[must_use]
pub fn reply_weight(reply: &Reply) -> usize {
    const FIXED: usize = 64;
    FIXED
        + match &reply.kind {
            Some(reply::Kind::Read(read)) => read.value.len(),
            Some(reply::Kind::Vouch(vouch)) => vouch.slots.len() * 16,
            Some(reply::Kind::Write(write)) => (write.results.iter())
                .map(|result| result.previous_value.as_ref().map_or(0, Bytes::len) + FIXED)
                .sum(),
            Some(reply::Kind::Error(error)) => error.message.len(),
            None => 0,
        }
}

/// An answer with its id; a failure is sent as an error.
#[must_use]
pub fn reply(id: u64, outcome: Result<reply::Kind, Error>) -> Reply {
    let kind = outcome.unwrap_or_else(|error| reply::Kind::Error(to_wire(&error)));
    Reply {
        id,
        kind: Some(kind),
    }
}

fn unpack(frame: ReplyFrame, mut deliver: impl FnMut(u64, Result<reply::Kind, Error>)) {
    for reply in frame.replies {
        let outcome = match reply.kind {
            Some(reply::Kind::Error(error)) => Err(from_wire(error).unwrap_or_else(unknown)),
            Some(kind) => Ok(kind),
            None => Err(unknown()),
        };
        deliver(reply.id, outcome);
    }
}

/// The error of an unreadable answer: a write's outcome is then unknown.
fn unknown() -> Error {
    Error::new(
        Code::OutcomeUnknown,
        "the answer of a tier of another release can't be read",
    )
}
