//! Asks every cluster's master at intervals for its mark: how far the cache may be trusted.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tierkv_coordination::{Coordination, CoordinationError, Versioned, Watched, directory};
use tierkv_protocol::{
    cache::{OwnedRun, SlotTable, Vouched},
    placement::PlacementMap,
};
use tierkv_rpc::{
    Background, Follower, Pace, Worker,
    proto::internal::{Vouch, VouchReply, reply, request},
};
use tierkv_types::{BootTime, Clock, ClusterId, Epoch, Round, Version};
use tokio::{task::JoinSet, time::Instant};

use crate::{below::Below, views::SharedViews};

/// Timeout of a question. The next one is sent meanwhile, so a lost one costs little.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// Maximum number of questions in flight to one master.
const MAX_QUESTIONS: usize = 8;

/// The questions of one client coordinator to the masters.
pub(crate) struct Inquiry {
    pub(crate) below: Below,
    pub(crate) views: SharedViews,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) interval: Duration,
}

impl Inquiry {
    /// Asks the masters of all clusters in the placement map, in the background.
    pub(crate) async fn start(
        self,
        coordination: &dyn Coordination,
        background: &mut Background,
    ) -> Result<(), CoordinationError> {
        let follower = ClustersFollower {
            inquiry: Arc::new(self),
            placement: coordination.watch(directory::PLACEMENT).await?,
            asked: HashSet::new(),
            askers: Background::new(),
        };
        background.follow(follower).await;
        Ok(())
    }

    async fn question(self: Arc<Self>, cluster: ClusterId) {
        // Ages count from before the sending (CACHE-MARK).
        let asked_at = self.clock.boot_time();
        let vouch = request::Kind::Vouch(Vouch {
            cluster: cluster.to_string(),
        });
        match self.below.ask(vouch, Instant::now() + ANSWER_TIME).await {
            Ok(reply::Kind::Vouch(answer)) => match vouched(&answer, asked_at) {
                Some(answer) => self.views.learn(&cluster, answer),
                None => tracing::error!(%cluster, "a master answered with invalid slots"),
            },
            Ok(_) => tracing::error!(%cluster, "a master's answer belongs to another question"),
            Err(error) => tracing::debug!(%cluster, %error, "a master did not answer"),
        }
    }
}

/// Runs an asker for every cluster of the placement map; they end with it.
struct ClustersFollower {
    inquiry: Arc<Inquiry>,
    placement: Watched<Option<Versioned>>,
    asked: HashSet<ClusterId>,
    askers: Background,
}

impl Follower for ClustersFollower {
    type Error = CoordinationError;

    fn name(&self) -> &'static str {
        "clusters to ask"
    }

    async fn apply(&mut self) {
        for cluster in clusters(&self.placement) {
            if self.asked.insert(cluster.clone()) {
                self.askers.run(Asker {
                    inquiry: Arc::clone(&self.inquiry),
                    cluster,
                    questions: JoinSet::new(),
                });
            }
        }
    }

    async fn changed(&mut self) -> Result<(), CoordinationError> {
        self.placement.changed().await
    }
}

/// Asks one cluster's master. An unanswered question does not delay the next one.
struct Asker {
    inquiry: Arc<Inquiry>,
    cluster: ClusterId,
    questions: JoinSet<()>,
}

impl Worker for Asker {
    fn name(&self) -> &'static str {
        "inquiry"
    }

    async fn work(&mut self) -> Pace {
        while self.questions.try_join_next().is_some() {}
        if self.questions.len() < MAX_QUESTIONS {
            let inquiry = Arc::clone(&self.inquiry);
            self.questions.spawn(inquiry.question(self.cluster.clone()));
        }
        Pace::Idle(self.inquiry.interval)
    }
}

fn clusters(placement: &Watched<Option<Versioned>>) -> Vec<ClusterId> {
    let stored = placement.current();
    let map = stored
        .as_ref()
        .as_ref()
        .and_then(|stored| PlacementMap::decode(&stored.value).ok());
    map.map(|map| map.clusters.into_iter().map(|cluster| cluster.id).collect())
        .unwrap_or_default()
}

fn vouched(answer: &VouchReply, asked_at: BootTime) -> Option<Vouched> {
    let run = |run: &tierkv_rpc::proto::internal::SlotRun| {
        Some(OwnedRun {
            first: u16::try_from(run.first).ok()?,
            count: u16::try_from(run.count).ok()?,
            revision: run.revision,
        })
    };
    let runs: Option<Vec<OwnedRun>> = answer.slots.iter().map(run).collect();
    Some(Vouched {
        asked_at,
        epoch: Epoch(answer.epoch),
        round: Round(answer.round),
        clock: Version::from_bits(answer.clock),
        slots: Arc::new(SlotTable::from_runs(runs?).ok()?),
    })
}
