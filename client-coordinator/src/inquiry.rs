//! Asks every cluster's master now and then how far the cache may be believed.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tierkv_coordination::{Coordination, CoordinationError, Versioned, Watched, directory};
use tierkv_protocol::{
    cache::{OwnedRun, SlotTable, Vouched},
    placement::PlacementMap,
};
use tierkv_rpc::proto::internal::{Vouch, VouchReply, reply, request};
use tierkv_types::{BootTime, Clock, ClusterId, Epoch, Round, Version};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{below::Below, views::SharedViews};

/// How long a question may be under way. Asked again meanwhile, so a lost one costs little.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// Questions to one master that may be under way at once.
const MAX_QUESTIONS: usize = 8;

/// The inquirer of one client coordinator.
pub(crate) struct Inquiry {
    pub(crate) below: Below,
    pub(crate) views: SharedViews,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) interval: Duration,
}

impl Inquiry {
    /// Starts asking the masters of all clusters that the placement map names.
    pub(crate) async fn start(
        self,
        coordination: &dyn Coordination,
        stop: watch::Receiver<bool>,
    ) -> Result<(), CoordinationError> {
        let placement = coordination.watch(directory::PLACEMENT).await?;
        tokio::spawn(Arc::new(self).run(placement, stop));
        Ok(())
    }

    async fn run(
        self: Arc<Self>,
        mut placement: Watched<Option<Versioned>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut asked = HashSet::new();
        let mut inquiries = JoinSet::new();
        loop {
            for cluster in clusters(&placement) {
                if asked.insert(cluster.clone()) {
                    inquiries.spawn(Arc::clone(&self).ask_one(cluster));
                }
            }
            tokio::select! {
                changed = placement.changed() => if changed.is_err() { return },
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Asks one cluster's master for ever. A question that is not answered does not hold
    /// the next one up.
    async fn ask_one(self: Arc<Self>, cluster: ClusterId) {
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut questions = JoinSet::new();
        loop {
            ticks.tick().await;
            while questions.try_join_next().is_some() {}
            if questions.len() < MAX_QUESTIONS {
                questions.spawn(Arc::clone(&self).question(cluster.clone()));
            }
        }
    }

    async fn question(self: Arc<Self>, cluster: ClusterId) {
        // Ages run from before the sending (CACHE-MARK).
        let asked_at = self.clock.boot_time();
        let vouch = request::Kind::Vouch(Vouch {
            cluster: cluster.to_string(),
        });
        match self.below.ask(vouch, Instant::now() + ANSWER_TIME).await {
            Ok(reply::Kind::Vouch(answer)) => match vouched(&answer, asked_at) {
                Some(answer) => self.views.learn(&cluster, answer),
                None => tracing::error!(%cluster, "a master named slots that can't be"),
            },
            Ok(_) => tracing::error!(%cluster, "a master answered another question"),
            Err(error) => tracing::debug!(%cluster, %error, "a master did not answer"),
        }
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
