//! Operators' requests: the topology and its health, collected from the tiers; in `memory`,
//! settings that change at run time.

mod memory;

use std::{sync::Arc, time::Duration};

use tierkv_cache::Cache;
use tierkv_coordination::{
    Coordination,
    directory::{CLIENT_COORDINATORS, Presence},
};
use tierkv_rpc::{
    proto::{
        internal::{
            SurveyRequest, SurveyResponse, server_coordinator_client::ServerCoordinatorClient,
        },
        status::read_error,
        v1::{
            self, CacheStatus, CoordinatorStatus, GetClusterRequest, GetClusterResponse,
            GetMemoryRequest, MarkStatus, MemorySettings, SetMemoryRequest, admin_server,
        },
    },
    within,
};
use tierkv_types::{CacheHealth, Clock, CoordinatorRole, Error, Version};
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};

use crate::{below::Below, call_answer, views::SharedViews};

/// Timeout of the server coordinator's answer.
const SURVEY_TIMEOUT: Duration = Duration::from_secs(2);

/// Collects the answers for the whole platform.
pub(crate) struct Admin<C> {
    pub(crate) below: Below,
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
        let survey = self.survey().await?;
        Ok(GetClusterResponse {
            clusters: survey.clusters,
            server_coordinators: survey.server_coordinators,
            client_coordinators: self.client_coordinators().await?,
            cache: self.cache().await,
            placement: survey.placement,
            transactions: 0,
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

    async fn client_coordinators(&self) -> Result<Vec<CoordinatorStatus>, Error> {
        let members = self.coordination.list(CLIENT_COORDINATORS).await?;
        Ok((members.into_iter())
            .filter_map(|(node, data)| {
                let Presence { address, pid, .. } = Presence::decode(&data)?;
                Some(CoordinatorStatus {
                    node,
                    address,
                    pid,
                    role: v1::CoordinatorRole::from(CoordinatorRole::Serving).into(),
                    epoch: 0,
                })
            })
            .collect())
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
}
