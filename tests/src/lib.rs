//! Helpers for the tests of the whole platform with real processes, which are in `tests/`.
//!
//! - Platforms: [`binary`] (the built `tierkv`), [`ephemeral`] (`tierkv dev --ephemeral`),
//!   [`many_processes`] (clients of a platform of many processes), [`trial`] (a cluster of three
//!   nodes, and everything that was written to it).
//! - Requests: [`http`] (sent byte for byte), [`named`] (writes with chosen request ids),
//!   [`outside`] (clients that share no code with the platform).
//! - Proxies, besides that of the harness: [`cutter`] (cuts connections during requests),
//!   [`slow_line`] (forwards answers slowly).
//! - Checks of promises: [`ledger`] (one key that is written again and again), [`flood`] (many
//!   new keys), [`history`] (operations under faults, checked for linearizability),
//!   [`freshness`] (the ages of answers), [`watcher`] (every change of a prefix).
//! - Measurements: [`metrics`], [`disk_work`] (log and checkpoints), [`resident`] (memory and
//!   processor time).
//! - Others: [`choices`] (random choices that can be repeated), [`imports`] (circles of imports
//!   between source files).

pub mod binary;
pub mod choices;
pub mod cutter;
pub mod disk_work;
pub mod ephemeral;
pub mod flood;
pub mod freshness;
pub mod history;
pub mod http;
pub mod imports;
pub mod ledger;
pub mod many_processes;
pub mod metrics;
pub mod named;
pub mod operator;
pub mod outside;
pub mod resident;
pub mod slow_line;
pub mod trial;
pub mod watcher;
