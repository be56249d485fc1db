//! [`SnapshotDoor`]: the gRPC service with which other nodes of the cluster fetch a master's state.

use futures::{StreamExt, TryStreamExt};
use tierkv_rpc::{
    StatusStream,
    proto::{
        internal::{FetchSnapshotRequest, SnapshotPart, node_snapshots_server},
        status::to_status,
    },
};
use tonic::{Response, Status};

use crate::interface::Current;

/// Implements tonic's service trait by calling the snapshot source of the engine that runs.
pub(crate) struct SnapshotDoor {
    current: Current,
}

impl SnapshotDoor {
    pub(crate) const fn new(current: Current) -> Self {
        Self { current }
    }
}

#[tonic::async_trait]
impl node_snapshots_server::NodeSnapshots for SnapshotDoor {
    type FetchStream = StatusStream<SnapshotPart>;

    async fn fetch(
        &self,
        request: tonic::Request<FetchSnapshotRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let interface = self.current.now().map_err(|error| to_status(&error))?;
        let source = &interface.snapshots;
        let parts = source
            .fetch(request.into_inner(), interface.stopping())
            .await;
        let parts = parts.map_err(|error| to_status(&error))?;
        Ok(Response::new(
            parts.map_err(|error| to_status(&error)).boxed(),
        ))
    }
}
