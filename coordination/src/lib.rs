//! Membership, election, configuration and watches behind four traits, with their backends: no
//! other crate depends on where the platform's metadata is stored.
//!
//! Only metadata is stored here: nothing per key, nothing per write. The ephemeral parts (members,
//! candidates) show which processes are alive and elect the primary server coordinator. They never
//! decide alone who is master of a data cluster.
//!
//! Reading order: [`config`] (records and compare-and-swap, COORD-CAS), [`watch`](mod@watch)
//! (notification of changes, COORD-WATCH), [`membership`] and [`election`] (live processes and
//! leaders, COORD-LEASE), [`presence`] (a process stays listed, COORD-PRESENCE), [`error`] and
//! [`limits`], then the backends [`memory`] and [`etcd`], and [`location`], which names one. The
//! conformance suite of the backends is the module `conformance`, behind the feature of that name.

pub mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod directory;
pub mod election;
pub mod error;
pub mod etcd;
mod lease;
pub mod limits;
pub mod location;
pub mod membership;
pub mod memory;
pub mod presence;
pub mod watch;

pub use config::{ConfigStore, Revision, Swap, Versioned};
pub use election::{Candidacy, Leader, LeaderElection, Standing};
pub use error::CoordinationError;
pub use etcd::{EtcdCoordination, EtcdOptions};
pub use location::{EtcdLocation, Location};
pub use membership::{GroupMembership, Membership};
pub use memory::{MemoryCoordination, Offline, OfflineImage};
pub use presence::{PRESENCE_TTL, PresenceKeeper};
pub use watch::{Watch, Watched};

/// The four traits together, as the tiers carry them: `Arc<dyn Coordination>`.
pub trait Coordination:
    ConfigStore + Watch + GroupMembership + LeaderElection + Send + Sync
{
}

impl<T> Coordination for T where
    T: ConfigStore + Watch + GroupMembership + LeaderElection + Send + Sync + ?Sized
{
}
