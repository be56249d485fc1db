//! The gRPC server of a data node.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tierkv_rpc::{
    Answered, StatusStream, answer_frames, deadline_or,
    proto::{
        internal::{
            CompareTimesReply, CompareTimesRequest, CountReply, CountRequest, InspectRequest,
            InspectResponse, RequestFrame, ScanReply, ScanRequest, WatchReply, WatchRequest,
            data_node_server,
        },
        status::to_status,
    },
    until_stopped,
};
use tierkv_types::limits::{MAX_PEER_IN_FLIGHT, MAX_TIMEOUT};
use tokio::sync::watch;
use tonic::{Response, Status, Streaming};

use crate::{service::Service, watches::Watches};

/// Implements tonic's service trait by calling [`Service`].
pub(crate) struct Door {
    pub(crate) service: Arc<Service>,
    pub(crate) watches: Watches,
    /// Ends the streams when the node stops.
    pub(crate) stop: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl data_node_server::DataNode for Door {
    type ExchangeStream = Answered<Service>;
    type ScanStream = StatusStream<ScanReply>;
    type WatchStream = StatusStream<WatchReply>;

    async fn exchange(
        &self,
        request: tonic::Request<Streaming<RequestFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let stream = answer_frames(
            request.into_inner(),
            Arc::clone(&self.service),
            None,
            MAX_PEER_IN_FLIGHT,
            None,
            self.stop.clone(),
        );
        Ok(Response::new(stream))
    }

    async fn scan(
        &self,
        request: tonic::Request<ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let deadline = deadline_or(&request, MAX_TIMEOUT);
        let (request, stop) = (request.into_inner(), self.stop.clone());
        let timed = self.service.times.scans.begin();
        let replies = self.service.scan(request, deadline, stop).await;
        let replies = replies.map_err(|error| to_status(&error))?;
        let replies = replies.map_err(|error| to_status(&error));
        Ok(Response::new(timed.until_dropped(replies).boxed()))
    }

    async fn count(
        &self,
        request: tonic::Request<CountRequest>,
    ) -> Result<Response<CountReply>, Status> {
        let deadline = deadline_or(&request, MAX_TIMEOUT);
        let _timed = self.service.times.counts.begin();
        let counted = self.service.count(request.into_inner(), deadline).await;
        counted
            .map(Response::new)
            .map_err(|error| to_status(&error))
    }

    async fn watch(
        &self,
        request: tonic::Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let _timed = self.service.times.watches.begin();
        let replies = self.watches.watch(request.into_inner()).await;
        let replies = replies.map_err(|error| to_status(&error))?;
        Ok(Response::new(until_stopped(replies, self.stop.clone())))
    }

    async fn inspect(
        &self,
        _: tonic::Request<InspectRequest>,
    ) -> Result<Response<InspectResponse>, Status> {
        Ok(Response::new(self.service.inspect()))
    }

    async fn compare_times(
        &self,
        request: tonic::Request<CompareTimesRequest>,
    ) -> Result<Response<CompareTimesReply>, Status> {
        let reply = self.service.compare_times(request.into_inner());
        reply.map(Response::new).map_err(|error| to_status(&error))
    }
}
