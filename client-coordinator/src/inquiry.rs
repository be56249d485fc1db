//! Asks every cluster's master at intervals for its mark: how far the cache may be trusted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tierkv_coordination::{Coordination, CoordinationError, Versioned, Watched, directory};
use tierkv_protocol::{cache::Vouched, placement::PlacementMap};
use tierkv_rpc::{
    Background, Follower, Pace, Worker,
    proto::internal::{Vouch, VouchReply, reply, request},
};
use tierkv_types::{BootTime, Clock, ClusterId, Epoch, Round, SlotRun, SlotTable, Version};
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
    /// Asks the masters of all clusters that are in the placement map and have a state, in the
    /// background.
    pub(crate) async fn start(
        self,
        coordination: &dyn Coordination,
        background: &mut Background,
    ) -> Result<(), CoordinationError> {
        background.follow(self.follower(coordination).await?).await;
        Ok(())
    }

    async fn follower(
        self,
        coordination: &dyn Coordination,
    ) -> Result<ClustersFollower, CoordinationError> {
        Ok(ClustersFollower {
            inquiry: Arc::new(self),
            placement: coordination.watch(directory::PLACEMENT).await?,
            states: coordination.watch_prefix(directory::CLUSTERS).await?,
            askers: BTreeMap::new(),
        })
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

/// Runs an asker for every cluster that coordination lists; they end with it.
struct ClustersFollower {
    inquiry: Arc<Inquiry>,
    placement: Watched<Option<Versioned>>,
    states: Watched<BTreeMap<String, Versioned>>,
    /// The questions to each cluster, which end when they are dropped.
    askers: BTreeMap<ClusterId, Background>,
}

impl Follower for ClustersFollower {
    type Error = CoordinationError;

    fn name(&self) -> &'static str {
        "clusters to ask"
    }

    async fn apply(&mut self) {
        let Some(placement) = self.placement() else {
            return;
        };
        let clusters = self.clusters(&placement);
        let now = self.inquiry.clock.boot_time();
        self.inquiry.views.list(placement, &clusters, now);
        self.askers.retain(|cluster, _| clusters.contains(cluster));
        for cluster in clusters {
            let inquiry = Arc::clone(&self.inquiry);
            (self.askers.entry(cluster.clone())).or_insert_with(|| {
                let mut asking = Background::new();
                asking.run(Asker {
                    inquiry,
                    cluster,
                    questions: JoinSet::new(),
                });
                asking
            });
        }
    }

    async fn changed(&mut self) -> Result<(), CoordinationError> {
        tokio::select! {
            biased;
            changed = self.placement.changed() => changed,
            changed = self.states.changed() => changed,
        }
    }
}

impl ClustersFollower {
    /// The placement map; `None` if there is none, or none that this release can read.
    fn placement(&self) -> Option<PlacementMap> {
        let stored = self.placement.current();
        PlacementMap::decode(&stored.as_ref().as_ref()?.value)
            .inspect_err(|error| tracing::error!(%error, "the placement map is invalid"))
            .ok()
    }

    /// The clusters of the map, without those that were removed or are not founded yet: they have
    /// no state, and so no master.
    fn clusters(&self, placement: &PlacementMap) -> BTreeSet<ClusterId> {
        let states = self.states.current();
        (placement.clusters.iter())
            .filter(|cluster| states.contains_key(&directory::cluster_state(&cluster.id)))
            .map(|cluster| cluster.id.clone())
            .collect()
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

fn vouched(answer: &VouchReply, asked_at: BootTime) -> Option<Vouched> {
    let run = |run: &tierkv_rpc::proto::internal::SlotRun| {
        Some(SlotRun {
            first: u16::try_from(run.first).ok()?,
            count: u16::try_from(run.count).ok()?,
            revision: run.revision,
        })
    };
    let runs: Option<Vec<SlotRun>> = answer.slots.iter().map(run).collect();
    Some(Vouched {
        asked_at,
        epoch: Epoch(answer.epoch),
        round: Round(answer.round),
        clock: Version::from_bits(answer.clock),
        slots: Arc::new(SlotTable::from_runs(runs?).ok()?),
    })
}

#[cfg(test)]
mod tests;
