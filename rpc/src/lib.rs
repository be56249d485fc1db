//! How tiers and SDK talk: channels that notice a dead peer, and frames.
//!
//! A *frame* carries as many operations as were waiting when it was sent, over one
//! long-lived stream; answers come back by id, in any order. [`Multiplexer`] is the
//! asking end, [`answer_frames`] the answering one; [`Exchange`] says what a frame of a
//! particular service looks like ([`session`], [`tiers`]).
//!
//! How a tier lives is here, too, because all of them share it: [`listen`], [`Acceptor`] and
//! [`drain`] for its door, [`Counted`] for the answers that wait for clients there,
//! [`Background`] for what it does beside its requests, [`OperationTimes`] for how long these
//! take.
//!
//! Nothing here knows what an operation means: whether a lost answer is an
//! `Unavailable` read or an `OutcomeUnknown` write is the caller's to say ([`CallError`]).

mod acceptor;
mod answer;
mod background;
mod channel;
mod connection;
mod connections;
mod counted;
mod deadline;
mod exchange;
mod lane;
mod multiplexer;
mod operation_times;
mod platform_time;
mod serving;
pub mod session;
mod stream_bytes;
pub mod tiers;

pub use acceptor::{Acceptor, incoming};
pub use answer::{Answered, FrameHandler, OperationPermits, Replies, answer_frames};
pub use background::{Background, Follower, Pace, Worker};
pub use channel::{channel, serve_builder, unhurried_channel};
pub use connection::Connection;
pub use connections::{Connections, connection_timeouts};
pub use counted::{Answering, Counted, CountedBody, stream_share};
pub use deadline::{
    deadline, deadline_or, last_attempt, late_scan, named_timeout, until_deadline, until_over,
    within,
};
pub use exchange::{CallError, Exchange};
pub use multiplexer::Multiplexer;
pub use operation_times::{OperationTimes, TierTimes, Timed};
pub use platform_time::{add_platform_time, platform_time};
pub use serving::{ListenError, StatusStream, drain, listen, stopped, stopping, until_stopped};
pub use stream_bytes::{ConnectionShares, HeldBytes, StreamShare};
pub use tierkv_proto as proto;
