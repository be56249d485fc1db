//! The server coordinator: knows where every slot lives and takes requests there.
//!
//! Any number may run; one is elected primary. The primary alone changes placement; any
//! of them routes, because safety never depends on who coordinates (TXN-ROUTE).
//!
//! Reading order: `routes` (which cluster, which node, which connection), `routing`
//! (a frame's way down and back), `scans` (ranges, over all clusters), `watches` (streams of
//! changes), `office` (election and what the primary does),
//! `service` (the gRPC door), [`ServerCoordinator`] (all of it together).

mod coordinator;
mod office;
mod routes;
mod routing;
mod scans;
mod service;
mod settings;
mod watches;

pub use coordinator::{ServerCoordinator, StartError};
pub use settings::ServerCoordinatorSettings;
