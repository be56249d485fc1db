//! The etcd backend against real servers: the conformance suite on one member and on three with
//! one killed or paused, and what only etcd can do.
//!
//! - `suite`: the conformance suite.
//! - `members`: members that die, are paused, and all stop and start again.
//! - `answers`: lost requests and answers, and how their outcomes are settled (COORD-CAS).
//! - `watches`: compaction, and the end of watches (COORD-WATCH).
//! - `holder`: a holder of a lease that is paused (COORD-LEASE).
//! - `identity`: another cluster, or an older state of it (COORD-BACK).
//! - `login` and `tls`: users, tokens and certificates.

mod answers;
mod holder;
mod identity;
mod login;
mod members;
mod servers;
mod suite;
mod tls;
mod watches;
