//! Replication in a cluster: primary copy with an external configuration authority
//! (`PacificA`, Lin et al., 2008).
//!
//! [`ClusterState`] is the one record in coordination that says who is master and whose
//! logs count. [`Replica`] is one node's machine: it is told what it observes, what
//! became durable and what time it is ([`Event`]), and answers with [`Command`]s that
//! its driver carries out. Today it runs clusters of one member; replicas join behind
//! the same events.

mod cluster_state;
mod command;
mod mastership;
mod replica;

pub use cluster_state::{ClusterState, Listed, StateError};
pub use command::{Choice, Command, CommandQueue, Condition};
pub use mastership::Mastership;
pub use replica::{
    Event, Founding, HEARTBEAT_INTERVAL, Refusal, Replica, Restored, SwapOutcome, TAKEOVER_WAIT,
};
