//! Communication between tiers and with the SDK: channels with keepalive, and framed streams.
//!
//! A *frame* carries all operations that were waiting when it was sent, over one long-lived stream.
//! Answers carry their operation's id and come in any order. [`Multiplexer`] is the asking end,
//! [`answer_frames`] the answering one. [`Exchange`] defines the frames of a service ([`session`],
//! [`tiers`]).
//!
//! The parts that every server needs are here, too: [`listen`], [`Acceptor`] and [`drain`] for its
//! doors, [`Counted`] for answers that wait for their clients, [`Background`] for its background
//! tasks, [`OperationTimes`] for how long operations take.
//!
//! This crate does not interpret operations. The caller decides whether a lost answer is an
//! `Unavailable` read or an `OutcomeUnknown` write ([`CallError`]).

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
mod process_name;
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
    deadline, deadline_or, last_attempt, late_scan, named_timeout, on_demand_until, until_deadline,
    until_over, within,
};
pub use exchange::{CallError, Exchange};
pub use multiplexer::Multiplexer;
pub use operation_times::{OperationTimes, TierTimes, Timed};
pub use platform_time::{add_platform_time, platform_time};
pub use process_name::{Addressed, AddressedChannel};
pub use serving::{ListenError, StatusStream, drain, listen, stopped, stopping, until_stopped};
pub use stream_bytes::{ConnectionShares, HeldBytes, StreamShare};
pub use tierkv_proto as proto;
pub use tierkv_types::ProcessName;
