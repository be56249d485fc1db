//! Replication in a cluster: primary copy with an external configuration authority
//! (`PacificA`, Lin et al., 2008).
//!
//! [`ClusterState`] is the record in coordination that names the master and the logs in sync.
//! [`Replica`] is one node's state machine: it takes [`Event`]s (records observed, records
//! durable, the time) and returns [`Command`]s that its driver carries out. Today it runs
//! clusters of one member; replicas will use the same events.

mod cluster_state;
mod command;
mod mastership;
mod replica;

pub use cluster_state::{ClusterState, DEFAULT_F_MS, F_MS_BOUNDS, Listed, StateError};
pub use command::{Choice, Command, CommandQueue, Condition};
pub use mastership::Mastership;
pub use replica::{
    Event, HEARTBEAT_INTERVAL, Refusal, Replica, Restored, SwapOutcome, TAKEOVER_WAIT,
};
