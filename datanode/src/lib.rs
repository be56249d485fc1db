//! The data node: the only tier that holds data.
//!
//! ```text
//!  server coordinator ──frames──► service ──reads──► storage (memory tier, store)
//!                                    │ writes             ▲ apply
//!                                    ▼                    │
//!                                sequencer             applier ──keys──► invalidator ──► cache tier
//!                                 (machine)               ▲ commit
//!                                    │                    │
//!                                    └───log (durable)─► driver
//! ```
//!
//! Reading order:
//!
//! - Writes: `judgement` decides what a write does; `proposal` and `sequencer` give it its
//!   index, version and answer; `write_path` takes a frame's writes from the wait for room in
//!   memory to their answers, with `prior_rows` where the store must be read.
//! - Commits: `driver` carries out the replication machine's commands and starts the heartbeat
//!   rounds; `applier` applies what is committed; `invalidator` deletes changed keys from the
//!   cache and writes the marks. Each is a task, and the driver waits for neither of the others.
//! - State: `ownership` is the slots of the cluster; `memory_settings` applies changes that
//!   operators make at run time; `platform_clock` is the time that versions are made from.
//! - Background workers: `gauges` sets the metrics of the storage and `standing` those of the node's
//!   place in its cluster, `timekeeper` stores the time, `noter` notes the log in coordination,
//!   `reclaimer` frees space, `scrubber` looks for damage.
//! - Reads at a member of several: `freshness` is how old the applied state may be, `steadiness`
//!   notices that the machine was paused, `confirming` waits for proofs that a read is the latest,
//!   for which a replica asks its master for the `commit_index`.
//! - Requests: `door` is the gRPC server, `service` handles a frame, `reads` and `scans` read,
//!   `watches` streams changes, `snapshot_door` and `transfer` send the whole state to a node that
//!   joins, `inspection` reports the node's state, `comparison` its time.
//! - Operators: `membership` takes their orders, `orders` carries them to the driver; `leaving`
//!   hands mastership over before a stop.
//! - `engine` is all of that: it is made from the data directory, and `engine_keeper` replaces it
//!   as a whole.
//!   `interface` is what requests use of it. [`DataNode`] is the shell around it, which stays, and
//!   reports the `failure` of a task that it can't do without. `rejoining` is a start with
//!   data that can't be used, in a cluster that has it elsewhere; [`Recovery`] is for a node that
//!   refuses to start. `rules` are the rules that a
//!   simulation switches off.

mod applier;
mod commit_index;
mod comparison;
mod confirming;
mod door;
mod driver;
mod engine;
mod engine_keeper;
mod failure;
mod freshness;
mod gauges;
mod inspection;
mod interface;
mod invalidator;
mod judgement;
mod leaving;
mod log_work;
mod members;
mod membership;
mod memory_settings;
mod node;
mod noter;
mod orders;
mod ownership;
mod platform_clock;
mod prior_rows;
mod proposal;
mod reads;
mod reclaimer;
mod recover;
mod rejoining;
mod rules;
mod scans;
mod scrubber;
mod sequencer;
mod service;
mod settings;
#[cfg(test)]
mod simulation;
mod snapshot_door;
mod standing;
mod start_error;
mod steadiness;
mod timekeeper;
mod transfer;
mod watches;
mod write_path;

pub use node::DataNode;
pub use recover::{Finding, GivenUp, RecoverError, Recovery, RecoveryDone};
pub use settings::DataNodeSettings;
pub use start_error::StartError;
