//! Operators' requests: the topology and its health, collected from the tiers; in `memory`,
//! settings that change at run time; in `membership`, orders to clusters.

mod membership;
mod memory;

use std::{sync::Arc, time::Duration};

use futures::{future::join_all, join};
use tierkv_cache::Cache;
use tierkv_coordination::{
    Coordination,
    directory::{PLATFORM, Presence},
};
use tierkv_rpc::{
    channel, deadline,
    proto::{
        internal::{
            ProbeRequest, SurveyRequest, SurveyResponse,
            server_coordinator_client::ServerCoordinatorClient,
        },
        status::read_error,
        v1::{
            self, CacheStatus, ChangeClusterRequest, ChangeClusterResponse, CoordinationStatus,
            CoordinatorStatus, GetClusterRequest, GetClusterResponse, GetMemoryRequest,
            HandOverRequest, HandOverResponse, MarkStatus, MemorySettings, SetMemoryRequest,
            admin_server,
        },
    },
    within,
};
use tierkv_types::{CacheHealth, Clock, CoordinationHealth, CoordinatorRole, Error, Version};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Request, Response, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    below::Below, call_answer, last_known::LastKnown, settings::CoordinationStore,
    views::SharedViews,
};

/// Timeout of the question whether a process answers.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// Timeout of the server coordinator's answer.
const SURVEY_TIMEOUT: Duration = Duration::from_secs(2);

/// Collects the answers for the whole platform.
pub(crate) struct Admin<C> {
    /// The name of this coordinator's node.
    pub(crate) node: String,
    /// The staleness bound of its reads.
    pub(crate) max_staleness: Duration,
    pub(crate) below: Below,
    pub(crate) client_coordinators: LastKnown,
    /// Which store `coordination` is.
    pub(crate) store: CoordinationStore,
    pub(crate) coordination: Arc<dyn Coordination>,
    pub(crate) cache: Arc<C>,
    pub(crate) views: SharedViews,
    pub(crate) clock: Arc<dyn Clock>,
}

impl<C: Cache> Admin<C> {
    /// The topology and its health.
    ///
    /// # Errors
    /// `Unavailable` if no server coordinator answers.
    pub(crate) async fn cluster(&self) -> Result<GetClusterResponse, Error> {
        let (survey, server_coordinators, client_coordinators, coordination) = join!(
            self.survey(),
            self.server_coordinators(),
            self.client_coordinators(),
            self.coordination(),
        );
        let survey = survey?;
        Ok(GetClusterResponse {
            clusters: survey.clusters,
            server_coordinators,
            client_coordinators,
            cache: self.cache().await,
            placement: survey.placement,
            transactions: 0,
            coordination: Some(coordination),
        })
    }

    /// The part that only server coordinators can see.
    async fn survey(&self) -> Result<SurveyResponse, Error> {
        let deadline = Instant::now() + SURVEY_TIMEOUT;
        let survey = self.below.each(deadline, move |peer| async move {
            let mut client = ServerCoordinatorClient::new(peer.channel());
            let survey = client.survey(within(SurveyRequest {}, deadline)).await;
            survey.map_err(|status| read_error(&status))
        });
        let survey = timeout_at(deadline, survey).await.map_err(|_| {
            Error::unavailable("no server coordinator answered in time; try again")
        })??;
        Ok(survey.into_inner())
    }

    /// The server coordinators, by name.
    async fn server_coordinators(&self) -> Vec<CoordinatorStatus> {
        let known = self.below.all();
        let asked = known.iter().map(|known| async {
            let mut client = ServerCoordinatorClient::new(known.peer.channel());
            let answer = timeout(PROBE_TIMEOUT, client.probe(ProbeRequest {})).await;
            let role = match known.epoch {
                Some(_) => CoordinatorRole::Primary,
                None => CoordinatorRole::Backup,
            };
            CoordinatorStatus {
                epoch: known.epoch.map_or(0, |epoch| epoch.0),
                ..status(
                    &known.node,
                    &known.presence,
                    role,
                    matches!(answer, Ok(Ok(_))),
                )
            }
        });
        let mut statuses = join_all(asked).await;
        statuses.sort_by(|one, other| one.node.cmp(&other.node));
        statuses
    }

    /// The client coordinators, by name.
    async fn client_coordinators(&self) -> Vec<CoordinatorStatus> {
        let known = self.client_coordinators.all();
        let asked = known.iter().map(|(node, presence)| async {
            let reachable = timeout(PROBE_TIMEOUT, is_serving(&presence.address)).await;
            let role = CoordinatorRole::Serving;
            status(node, presence, role, reachable == Ok(true))
        });
        join_all(asked).await
    }

    async fn coordination(&self) -> CoordinationStatus {
        let read = timeout(PROBE_TIMEOUT, self.coordination.get(PLATFORM)).await;
        let health = match read {
            Ok(Ok(_)) => CoordinationHealth::Up,
            Ok(Err(_)) | Err(_) => CoordinationHealth::Down,
        };
        CoordinationStatus {
            kind: self.store.kind.to_owned(),
            endpoints: self.store.endpoints.clone(),
            health: v1::CoordinationHealth::from(health).into(),
        }
    }

    async fn cache(&self) -> Vec<CacheStatus> {
        let mut nodes: Vec<CacheStatus> = (self.cache.nodes().await.into_iter())
            .map(|report| CacheStatus {
                node: report.node,
                health: v1::CacheHealth::from(match report.up {
                    true => CacheHealth::Up,
                    false => CacheHealth::Down,
                })
                .into(),
                hit_ratio: ratio(report.hits, report.lookups),
                marks: Vec::new(),
            })
            .collect();
        let now = self.clock.boot_time();
        for cluster in self.views.clusters() {
            for (node, mark) in self.cache.read_marks(&cluster).await {
                let age = mark.and_then(|mark| self.views.mark_age(&cluster, &mark, now));
                let age_ms = age.map(|age| u32::try_from(age.as_millis()).unwrap_or(u32::MAX));
                if let Some(status) = nodes.iter_mut().find(|status| status.node == node) {
                    status.marks.push(MarkStatus {
                        cluster: cluster.to_string(),
                        age_ms,
                    });
                }
            }
        }
        nodes
    }
}

/// The status of a coordinator.
fn status(
    node: &str,
    presence: &Presence,
    role: CoordinatorRole,
    reachable: bool,
) -> CoordinatorStatus {
    CoordinatorStatus {
        node: node.to_owned(),
        address: presence.address.clone(),
        rest: presence.rest.clone().unwrap_or_default(),
        host: presence.host.clone(),
        pid: presence.pid,
        role: v1::CoordinatorRole::from(role).into(),
        reachable,
        epoch: 0,
    }
}

/// Whether a client coordinator answers at its gRPC address.
async fn is_serving(address: &str) -> bool {
    let Ok(channel) = channel(address) else {
        return false;
    };
    let request = HealthCheckRequest::default();
    HealthClient::new(channel).check(request).await.is_ok()
}

/// Hits per lookup; 0 before the first lookup.
#[allow(clippy::cast_precision_loss)] // 52 bits are enough for a ratio of counters.
fn ratio(hits: u64, lookups: u64) -> f64 {
    if lookups == 0 {
        0.0
    } else {
        hits as f64 / lookups as f64
    }
}

/// The implementation of tonic's service trait.
pub(crate) struct Door<C>(pub(crate) Arc<Admin<C>>);

impl<C: Cache> Door<C> {
    fn answer<T>(&self, outcome: Result<T, Error>) -> Result<Response<T>, Status> {
        let time = self.0.views.platform_time(self.0.clock.boot_time());
        call_answer::answer(outcome, time.map(Version::millis))
    }
}

#[tonic::async_trait]
impl<C: Cache> admin_server::Admin for Door<C> {
    async fn get_cluster(
        &self,
        _: Request<GetClusterRequest>,
    ) -> Result<Response<GetClusterResponse>, Status> {
        self.answer(self.0.cluster().await)
    }

    async fn get_memory(
        &self,
        _: Request<GetMemoryRequest>,
    ) -> Result<Response<MemorySettings>, Status> {
        self.answer(self.0.memory().await)
    }

    async fn set_memory(
        &self,
        request: Request<SetMemoryRequest>,
    ) -> Result<Response<MemorySettings>, Status> {
        self.answer(self.0.set_memory(request.into_inner()).await)
    }

    async fn change_cluster(
        &self,
        request: Request<ChangeClusterRequest>,
    ) -> Result<Response<ChangeClusterResponse>, Status> {
        let deadline = deadline(&request);
        let changed = self.0.change_cluster(request.into_inner(), deadline);
        self.answer(changed.await)
    }

    async fn hand_over(
        &self,
        request: Request<HandOverRequest>,
    ) -> Result<Response<HandOverResponse>, Status> {
        let deadline = deadline(&request);
        let handed_over = self.0.hand_over(request.into_inner(), deadline);
        self.answer(handed_over.await)
    }
}
