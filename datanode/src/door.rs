//! The gRPC server of a data node.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tierkv_coordination::directory::Presence;
use tierkv_rpc::{
    Answered, StatusStream, answer_frames, deadline, deadline_or, on_demand_until,
    proto::{
        internal::{
            CommitIndexReply, CommitIndexRequest, CompareTimesReply, CompareTimesRequest,
            CountReply, CountRequest, InspectRequest, InspectResponse, RequestFrame, ScanReply,
            ScanRequest, WatchReply, WatchRequest, commit_index_server, data_node_server,
            orders_server,
        },
        status::to_status,
        v1::{ChangeClusterRequest, ChangeClusterResponse, HandOverRequest, HandOverResponse},
    },
    stopped, stopping,
};
use tierkv_types::{
    Error,
    limits::{MAX_PEER_IN_FLIGHT, MAX_TIMEOUT},
};
use tokio::time::timeout_at;
use tonic::{Response, Status, Streaming};

use crate::{
    inspection::without_engine,
    interface::{Current, Held, Interface},
    service::Service,
};

/// Implements tonic's service traits by calling the [`Service`] of the engine that runs.
pub(crate) struct Door {
    current: Current,
    /// This process.
    presence: Presence,
}

impl Door {
    pub(crate) const fn new(current: Current, presence: Presence) -> Self {
        Self { current, presence }
    }

    fn interface(&self) -> Result<Arc<Interface>, Status> {
        self.current.now().map_err(|error| to_status(&error))
    }
}

#[tonic::async_trait]
impl data_node_server::DataNode for Door {
    type ExchangeStream = Held<Answered<Service>>;
    type ScanStream = StatusStream<ScanReply>;
    type WatchStream = StatusStream<WatchReply>;

    async fn exchange(
        &self,
        request: tonic::Request<Streaming<RequestFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let interface = self.interface()?;
        let stream = answer_frames(
            request.into_inner(),
            Arc::clone(&interface.service),
            None,
            MAX_PEER_IN_FLIGHT,
            None,
            interface.stopping(),
        );
        Ok(Response::new(interface.hold(stream)))
    }

    async fn scan(
        &self,
        request: tonic::Request<ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let interface = self.interface()?;
        let deadline = deadline_or(&request, MAX_TIMEOUT);
        let (request, stop) = (request.into_inner(), interface.stopping());
        let timed = interface.service.times.scans.begin();
        let replies = interface.service.scan(request, deadline, stop).await;
        let replies = replies.map_err(|error| to_status(&error))?;
        let replies = replies.map_err(|error| to_status(&error));
        Ok(Response::new(timed.until_dropped(replies).boxed()))
    }

    async fn count(
        &self,
        request: tonic::Request<CountRequest>,
    ) -> Result<Response<CountReply>, Status> {
        let interface = self.interface()?;
        let service = &interface.service;
        let deadline = deadline_or(&request, MAX_TIMEOUT);
        let _timed = service.times.counts.begin();
        let stop = interface.stopping();
        let counted = service.count(request.into_inner(), deadline, stop).await;
        counted
            .map(Response::new)
            .map_err(|error| to_status(&error))
    }

    async fn watch(
        &self,
        request: tonic::Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let interface = self.interface()?;
        let _timed = interface.service.times.watches.begin();
        let replies = interface.watches.watch(request.into_inner()).await;
        let replies = replies.map_err(|error| to_status(&error))?;
        let stop = interface.stopping();
        // A reader may pause for hours. It must not hold the state of an engine that is replaced.
        let replies = on_demand_until(replies, async move {
            stopped(stop).await;
            stopping()
        });
        let replies = replies.map_err(|error| to_status(&error));
        Ok(Response::new(replies.boxed()))
    }

    async fn inspect(
        &self,
        _: tonic::Request<InspectRequest>,
    ) -> Result<Response<InspectResponse>, Status> {
        Ok(Response::new(match self.current.now() {
            Ok(interface) => interface.service.inspect(),
            Err(_) => without_engine(&self.presence),
        }))
    }

    async fn compare_times(
        &self,
        request: tonic::Request<CompareTimesRequest>,
    ) -> Result<Response<CompareTimesReply>, Status> {
        let service = &self.interface()?.service;
        let reply = service.compare_times(request.into_inner());
        reply.map(Response::new).map_err(|error| to_status(&error))
    }
}

#[tonic::async_trait]
impl commit_index_server::CommitIndex for Door {
    async fn ask(
        &self,
        request: tonic::Request<CommitIndexRequest>,
    ) -> Result<Response<CommitIndexReply>, Status> {
        let interface = self.interface()?;
        let answered = timeout_at(deadline(&request), interface.service.commit_index()).await;
        let answer = answered.unwrap_or_else(|_| {
            Err(Error::unavailable(
                "the cluster's other members did not confirm in time that this node is its master",
            ))
        });
        answer.map(Response::new).map_err(|error| to_status(&error))
    }
}

#[tonic::async_trait]
impl orders_server::Orders for Door {
    async fn change_cluster(
        &self,
        request: tonic::Request<ChangeClusterRequest>,
    ) -> Result<Response<ChangeClusterResponse>, Status> {
        let deadline = deadline_or(&request, MAX_TIMEOUT);
        let service = Arc::clone(&self.interface()?.service);
        let reply = service.change_cluster(request.into_inner(), deadline).await;
        reply.map(Response::new).map_err(|error| to_status(&error))
    }

    async fn hand_over(
        &self,
        request: tonic::Request<HandOverRequest>,
    ) -> Result<Response<HandOverResponse>, Status> {
        let deadline = deadline_or(&request, MAX_TIMEOUT);
        let service = Arc::clone(&self.interface()?.service);
        let reply = service.hand_over(request.into_inner(), deadline).await;
        reply.map(Response::new).map_err(|error| to_status(&error))
    }
}
