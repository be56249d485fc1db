//! The server coordinator: has the routes to all slots and sends requests there.
//!
//! Any number may run; one is elected primary. Only the primary changes placement. Every one of
//! them routes, because safety never depends on who coordinates (TXN-ROUTE).
//!
//! Reading order: `routes` (the cluster, node and connection of a slot), `routing` (the path of a
//! frame down and back), `balanced_read` (reads that any member in sync may answer; `load`, `choice`
//! and `hedging` decide whom to ask), `doubt` (writes whose master was lost), `scans` (ranges, over
//! all clusters), `watches` (streams of changes), `office` (the election of the primary), `orders`
//! (operators' orders to the masters), `times` (carries the clusters' times between their
//! masters), `service` (the gRPC door), [`ServerCoordinator`] (all of it together), and beside them
//! [`Founding`] (the first records of a platform), [`AddedCluster`] (a later cluster) and
//! [`ClusterRecovery`] (a cluster whose logs in sync are lost).

mod added_cluster;
mod balanced_read;
mod choice;
mod cluster_clock;
mod cluster_recovery;
mod coordinator;
mod doubt;
mod founding;
mod hedging;
mod load;
mod office;
mod orders;
mod routes;
mod routing;
mod scans;
mod service;
mod settings;
mod target;
mod times;
mod watches;

pub use added_cluster::{AddError, AddedCluster};
pub use cluster_recovery::{ClusterRecovery, ClusterRecoveryError, LogReport, NodeFinding};
pub use coordinator::{Readiness, ServerCoordinator, StartError};
pub use founding::{Founding, FoundingError};
pub use settings::ServerCoordinatorSettings;
