//! The definition of a framed service: its operations and frames.

use std::{future::Future, time::Duration};

use tierkv_types::Error;
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use crate::process_name::AddressedChannel;

/// One framed service: its operations, its frames and how its stream is opened.
pub trait Exchange: Sized + Send + Sync + 'static {
    /// An operation without its id.
    type Request: Send + 'static;
    /// The answer to an operation.
    type Reply: Send + 'static;
    /// A frame of requests.
    type RequestFrame: Send + 'static;
    /// A frame of answers.
    type ReplyFrame: Send + 'static;
    /// What the peer sends beside its answers.
    type News: 'static;

    /// Opens a stream over `channel` that sends `requests`.
    fn open(
        channel: AddressedChannel,
        requests: impl Stream<Item = Self::RequestFrame> + Send + 'static,
    ) -> impl Future<Output = Result<Streaming<Self::ReplyFrame>, Status>> + Send;

    /// The approximate size of the operation in a frame, in bytes.
    fn weight(request: &Self::Request) -> usize;

    /// How many operations it counts as in a frame: a batch counts once per key.
    fn operations(_: &Self::Request) -> usize {
        1
    }

    /// An empty frame with room for `count` operations.
    fn empty(count: usize) -> Self::RequestFrame;

    /// Adds an operation with its id and its remaining time to a frame.
    fn push(frame: &mut Self::RequestFrame, id: u64, left: Duration, request: Self::Request);

    /// The news in this frame, if any.
    fn news(_: &Self::ReplyFrame) -> Option<Self::News> {
        None
    }

    /// The number of answers in a frame.
    fn answers(frame: &Self::ReplyFrame) -> usize;

    /// Passes each answer of a frame to `deliver`.
    fn unpack(frame: Self::ReplyFrame, deliver: impl FnMut(u64, Result<Self::Reply, Error>));
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The peer's own error: it carries a promise.
    Refused(Error),
    /// The operation never left this process, so it had no effect.
    Unsent(Error),
    /// It was sent; then the connection broke or the deadline passed.
    Lost(Error),
}

impl CallError {
    /// The error for a read: nothing was changed, however the call was lost.
    #[must_use]
    pub fn for_read(self) -> Error {
        match self {
            Self::Refused(error) | Self::Unsent(error) | Self::Lost(error) => error,
        }
    }

    /// The error for a write: a write sent without an answer may have happened.
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
