//! Replication in a cluster: primary copy with an external configuration authority
//! (`PacificA`, Lin et al., 2008).
//!
//! [`ClusterState`] is the record in coordination that names the master and the logs in sync.
//! [`Replica`] is one node's state machine: it takes [`Event`]s (records observed, messages of
//! other members, the time) and returns [`Command`]s that its driver carries out.
//!
//! Reading order: `cluster_state` and `seen` (the record), `note` (a node's
//! log), `message` (between members), `replica`
//! (one node); of its parts `own_log` (its log), `following` and `freshness` (as a replica),
//! `mastership` with `sets`, `follower`, `rounds`, `change` and `handover` (as the master);
//! `command` (what the driver does); `simulation` (all of it together, under faults).

mod change;
mod cluster_state;
mod command;
mod follower;
mod following;
mod freshness;
mod handover;
mod mastership;
mod message;
mod note;
mod own_log;
mod replica;
mod rounds;
mod rules;
mod seen;
mod sets;
#[cfg(test)]
mod simulation;

pub use change::{Change, ChangeError, MAX_MEMBERS};
pub use cluster_state::{
    ClusterState, DEFAULT_F_MS, F_MS_BOUNDS, Listed, StateError, least_staleness,
};
pub use command::{Choice, Command, CommandQueue, Condition};
pub use handover::HandoverError;
pub use mastership::Mastership;
pub use message::{Acknowledge, Append, Ask, Confirm, Echo, Message, Offer, Process};
pub use note::{Note, UnreadableNote};
pub use replica::{Event, HEARTBEAT_INTERVAL, Moment, Refusal, Replica, Restored, SwapOutcome};
pub use seen::Seen;
