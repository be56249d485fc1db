//! The data node: the only tier that holds data.
//!
//! ```text
//!  server coordinator ──frames──► service ──reads──► storage (memory tier, store)
//!                                    │ writes             ▲ apply
//!                                    ▼                    │
//!                                sequencer ──log──► driver (durable → commit)
//!                                 (machine)               │ keys
//!                                                         ▼
//!                                                    invalidator ──► cache tier
//! ```
//!
//! Reading order: `judgement` says what a write does; `sequencer` gives every write its
//! place, version and answer; `driver` carries out what the replication machine commands;
//! `invalidator` deletes changed keys from the cache and writes the marks;
//! `ownership` knows which slots are the cluster's; `memory_settings` follows what
//! operators change while it runs, and `gauges` shows how full everything is; `service`
//! is the gRPC door, `reads` and `scans` what it reads, `watches` what it tells of every change; [`DataNode`] puts them together.
//! [`Recovery`] is for where it refuses to start.

mod driver;
mod gauges;
mod invalidator;
mod judgement;
mod memory_settings;
mod node;
mod ownership;
mod reads;
mod reclaimer;
mod recover;
mod scans;
mod scrubber;
mod sequencer;
mod service;
mod settings;
#[cfg(test)]
mod simulation;
mod watches;

pub use node::{DataNode, StartError};
pub use recover::{Finding, GivenUp, RecoverError, Recovery, RecoveryDone};
pub use settings::DataNodeSettings;
