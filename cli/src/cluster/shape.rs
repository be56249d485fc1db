//! What an operator chooses about a local platform.

use std::path::PathBuf;

/// The shape of a platform.
pub(super) struct Shape {
    /// Its folder.
    pub(super) dir: PathBuf,
    /// The number of its data clusters.
    pub(super) clusters: u16,
    /// The number of data nodes of each.
    pub(super) nodes: u16,
    /// The gRPC port of the first client coordinator.
    pub(super) first_grpc: u16,
    /// The REST port of the first client coordinator.
    pub(super) first_rest: u16,
}
