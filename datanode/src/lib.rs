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
//! Reading order: `judgement` says what a write does; `proposal` and `sequencer` give every
//! write its place, version and answer; `write_path` is a frame's writes from room in memory
//! to their answers, with `prior_rows` where the store must be asked; `driver` carries out
//! what the replication machine commands;
//! `invalidator` deletes changed keys from the cache and writes the marks;
//! `ownership` knows which slots are the cluster's; `memory_settings` follows what
//! operators change while it runs; `platform_clock` is the time by which writes get their
//! versions; `gauges` shows how full everything is, `timekeeper` stores the time, `reclaimer`
//! gives space back and `scrubber` looks for damage, each a worker in the background; `door` is the
//! gRPC door, `service` what becomes of a frame, `reads` and `scans` what is read, `watches`
//! what is told of every change, `inspection` what the node says of itself; [`DataNode`] puts
//! them together. `rules` are those that a simulation switches off.
//! [`Recovery`] is for where it refuses to start.

mod door;
mod driver;
mod gauges;
mod inspection;
mod invalidator;
mod judgement;
mod memory_settings;
mod node;
mod ownership;
mod platform_clock;
mod prior_rows;
mod proposal;
mod reads;
mod reclaimer;
mod recover;
mod rules;
mod scans;
mod scrubber;
mod sequencer;
mod service;
mod settings;
#[cfg(test)]
mod simulation;
mod timekeeper;
mod watches;
mod write_path;

pub use node::{DataNode, StartError};
pub use recover::{Finding, GivenUp, RecoverError, Recovery, RecoveryDone};
pub use settings::DataNodeSettings;
