//! [`StartError`]: why a data node did not start.

use tierkv_coordination::CoordinationError;
use tierkv_protocol::replication::StateError;
use tierkv_rpc::ListenError;
use tierkv_storage::StorageError;

/// Why a data node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory can't be used: the disk failed, or its data is damaged or not readable by
    /// this release.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The data directory's copy of the cluster state can't be decoded.
    #[error("the cluster state in the data directory: {0}")]
    State(#[from] StateError),
    /// The coordination store failed or refused a request of the start.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
    /// The node can't listen on its address.
    #[error(transparent)]
    Listen(#[from] ListenError),
}
