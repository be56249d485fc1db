//! What the frames of a service look like.

use std::{future::Future, time::Duration};

use tierkv_types::Error;
use tokio_stream::Stream;
use tonic::{Status, Streaming, transport::Channel};

/// One framed service: its operations, its frames and how its stream is opened.
pub trait Exchange: Sized + Send + Sync + 'static {
    /// An operation without its id.
    type Request: Send + 'static;
    /// The answer to one.
    type Reply: Send + 'static;
    /// What goes out.
    type RequestFrame: Send + 'static;
    /// What comes back.
    type ReplyFrame: Send + 'static;
    /// What the peer tells beside its answers.
    type News: 'static;

    /// Opens a stream over `channel`, on which `requests` go out.
    fn open(
        channel: Channel,
        requests: impl Stream<Item = Self::RequestFrame> + Send + 'static,
    ) -> impl Future<Output = Result<Streaming<Self::ReplyFrame>, Status>> + Send;

    /// About how many bytes the operation takes in a frame.
    fn weight(request: &Self::Request) -> usize;

    /// How many operations it counts as in a frame: a batch, one for each of its keys.
    fn operations(_: &Self::Request) -> usize {
        1
    }

    /// An empty frame with room for `count` operations.
    fn empty(count: usize) -> Self::RequestFrame;

    /// Adds an operation, its id and what is left of its time to a frame.
    fn push(frame: &mut Self::RequestFrame, id: u64, left: Duration, request: Self::Request);

    /// The news, if this frame brings any.
    fn news(_: &Self::ReplyFrame) -> Option<Self::News> {
        None
    }

    /// How many answers a frame holds.
    fn answers(frame: &Self::ReplyFrame) -> usize;

    /// Hands each answer of a frame to `deliver`.
    fn unpack(frame: Self::ReplyFrame, deliver: impl FnMut(u64, Result<Self::Reply, Error>));
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The peer's own word: it carries a promise.
    Refused(Error),
    /// It never left this process, so it had no effect.
    Unsent(Error),
    /// It was sent, and then the connection or the time ran out.
    Lost(Error),
}

impl CallError {
    /// The error for an operation that changes nothing, for which every loss is harmless.
    #[must_use]
    pub fn for_read(self) -> Error {
        match self {
            Self::Refused(error) | Self::Unsent(error) | Self::Lost(error) => error,
        }
    }

    /// The error for a write: what was sent and not answered may have happened.
    #[must_use]
    pub fn for_write(self) -> Error {
        match self {
            Self::Refused(error) | Self::Unsent(error) => error,
            Self::Lost(error) => Error::outcome_unknown(format!(
                "the write was sent and its outcome never arrived ({}); read the key, or send \
                 it again with the same request id",
                error.message
            )),
        }
    }
}
