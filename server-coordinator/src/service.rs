//! The gRPC door of a server coordinator.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use tierkv_rpc::{
    Answered, StatusStream, answer_frames, deadline_or,
    proto::{
        internal::{
            CountReply, CountRequest, InspectRequest, InspectResponse, ProbeRequest, ProbeResponse,
            RequestFrame, ScanReply, ScanRequest, SurveyRequest, SurveyResponse, WatchReply,
            WatchRequest, data_node_client::DataNodeClient, orders_server,
            server_coordinator_server,
        },
        status::to_status,
        v1::{
            self, ChangeClusterRequest, ChangeClusterResponse, ClusterStatus, HandOverRequest,
            HandOverResponse, MemberStatus,
        },
    },
    until_stopped,
};
use tierkv_types::{
    ClusterId, NodeRole,
    limits::{MAX_PEER_IN_FLIGHT, MAX_TIMEOUT},
};
use tokio::{sync::watch, time::timeout};
use tonic::{Response, Status, Streaming};

use crate::{
    routes::{Cluster, DataNode, Routes},
    routing::Router,
    times::ClusterTimes,
    watches,
};

/// Timeout of a data node's status report.
const INSPECT_TIMEOUT: Duration = Duration::from_millis(500);

/// The implementation of tonic's service trait.
pub(crate) struct Door {
    pub(crate) router: Arc<Router>,
    pub(crate) cluster_times: ClusterTimes,
    /// Ends the streams when it becomes true.
    pub(crate) stop: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl server_coordinator_server::ServerCoordinator for Door {
    type ExchangeStream = Answered<Router>;
    type ScanStream = StatusStream<ScanReply>;
    type WatchStream = StatusStream<WatchReply>;

    async fn exchange(
        &self,
        request: tonic::Request<Streaming<RequestFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let stream = answer_frames(
            request.into_inner(),
            Arc::clone(&self.router),
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
        let timed = self.router.times.scans.begin();
        let replies = self.router.scan(request.into_inner(), deadline).await;
        let replies = replies.map_err(|error| to_status(&error))?;
        let replies = timed.until_dropped(replies);
        Ok(Response::new(until_stopped(replies, self.stop.clone())))
    }

    async fn count(
        &self,
        request: tonic::Request<CountRequest>,
    ) -> Result<Response<CountReply>, Status> {
        let deadline = deadline_or(&request, MAX_TIMEOUT);
        let _timed = self.router.times.counts.begin();
        let counted = self.router.count(request.into_inner(), deadline).await;
        counted
            .map(Response::new)
            .map_err(|error| to_status(&error))
    }

    async fn watch(
        &self,
        request: tonic::Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let _timed = self.router.times.watches.begin();
        let replies = watches::watch(self.router.routes.clone(), request.get_ref());
        let replies = replies.map_err(|error| to_status(&error))?;
        Ok(Response::new(until_stopped(replies, self.stop.clone())))
    }

    async fn survey(
        &self,
        _: tonic::Request<SurveyRequest>,
    ) -> Result<Response<SurveyResponse>, Status> {
        let routes = Arc::clone(&self.router.routes.borrow());
        let ahead = self.cluster_times.ahead_millis();
        let clusters = routes.clusters.iter().map(|(id, cluster)| {
            let slots = routes
                .placement
                .as_ref()
                .map_or(0, |placement| placement.share(id));
            survey_cluster(id, cluster, slots, ahead.get(id).copied(), &routes)
        });
        Ok(Response::new(SurveyResponse {
            clusters: join_all(clusters).await,
            placement: routes
                .placement
                .as_ref()
                .map_or(0, |placement| placement.version),
        }))
    }

    async fn probe(
        &self,
        _: tonic::Request<ProbeRequest>,
    ) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse {}))
    }
}

#[tonic::async_trait]
impl orders_server::Orders for Door {
    async fn change_cluster(
        &self,
        request: tonic::Request<ChangeClusterRequest>,
    ) -> Result<Response<ChangeClusterResponse>, Status> {
        let deadline = deadline_or(&request, MAX_TIMEOUT);
        let changed = self.router.change_cluster(request.into_inner(), deadline);
        let changed = changed.await;
        changed
            .map(Response::new)
            .map_err(|error| to_status(&error))
    }

    async fn hand_over(
        &self,
        request: tonic::Request<HandOverRequest>,
    ) -> Result<Response<HandOverResponse>, Status> {
        let deadline = deadline_or(&request, MAX_TIMEOUT);
        let handed_over = self.router.hand_over(request.into_inner(), deadline);
        let handed_over = handed_over.await;
        handed_over
            .map(Response::new)
            .map_err(|error| to_status(&error))
    }
}

async fn survey_cluster(
    id: &ClusterId,
    cluster: &Cluster,
    slots: u32,
    time_ahead_ms: Option<i64>,
    routes: &Routes,
) -> ClusterStatus {
    let state = &cluster.state;
    let members = (state.members.iter().chain(&state.learners))
        .map(|node| survey_member(node.to_string(), routes.nodes.get(node.as_str())));
    ClusterStatus {
        id: id.to_string(),
        epoch: state.epoch.0,
        master: (state.master.as_ref()).map_or_else(String::new, ToString::to_string),
        in_sync: state
            .in_sync
            .iter()
            .map(|listed| listed.node.to_string())
            .collect(),
        slots,
        time_ahead_ms,
        min_in_sync: state.min_in_sync,
        failover_ms: state.f_ms,
        members: with_lags(join_all(members).await),
    }
}

/// Adds how far each member is behind the master.
fn with_lags(mut members: Vec<MemberStatus>) -> Vec<MemberStatus> {
    let of_master = |member: &&MemberStatus| member.role() == v1::NodeRole::Master;
    let newest = members
        .iter()
        .find(of_master)
        .map(|master| master.log_index);
    for member in members.iter_mut().filter(|member| member.reachable) {
        member.lag = newest.map_or(0, |newest| newest.saturating_sub(member.log_index));
    }
    members
}

async fn survey_member(node: String, known: Option<&DataNode>) -> MemberStatus {
    let report = match known {
        Some(node) => inspect(node).await,
        None => None,
    };
    let presence = known.map(|node| node.presence.clone());
    let address = presence
        .as_ref()
        .map(|presence| presence.address.clone())
        .unwrap_or_default();
    match report {
        Some(report) => MemberStatus {
            node,
            address,
            host: report.host,
            pid: report.pid,
            // The number unchanged: this coordinator may be older than the node.
            role: report.role,
            log_index: report.log_index,
            commit_index: report.commit_index,
            age_ms: report.age_ms,
            memory: report.memory,
            reachable: true,
            log_id: report.log_id,
            lag: 0,
        },
        None => MemberStatus {
            node,
            address,
            host: presence
                .as_ref()
                .map(|presence| presence.host.clone())
                .unwrap_or_default(),
            pid: presence.map_or(0, |presence| presence.pid),
            role: v1::NodeRole::from(NodeRole::Unreachable).into(),
            ..MemberStatus::default()
        },
    }
}

/// The report of a node; `None` if it does not answer, or if another process answers at its last
/// known address.
async fn inspect(node: &DataNode) -> Option<InspectResponse> {
    let mut client = DataNodeClient::new(node.peer.channel());
    let answer = timeout(INSPECT_TIMEOUT, client.inspect(InspectRequest {}))
        .await
        .ok()?;
    let report = answer.ok()?.into_inner();
    (report.incarnation == node.presence.incarnation).then_some(report)
}
