//! What each cluster's master said lately: which slots it owns, and how far the cache may
//! be believed (CACHE-MARK).

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tierkv_protocol::cache::{Entry, Freshness, Mark, ReadBound, Verdict, Vouched, judge};
use tierkv_types::{BootTime, ClusterId, Slot, Version};

/// The views of all clusters. Answers come a few times a second and reads all the time:
/// each answer makes a new snapshot, and a batch of reads takes one and locks nothing more.
#[derive(Default)]
pub(crate) struct Views {
    newest: RwLock<Arc<Snapshot>>,
}

/// What all masters said, at one moment; by cluster name.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    clusters: Vec<View>,
}

/// What one cluster's masters said.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) cluster: ClusterId,
    freshness: Freshness,
}

/// Where in the cache tier a slot's keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) slot: Slot,
    pub(crate) revision: u64,
    /// The place of its cluster within the snapshot that told it.
    pub(crate) cluster: usize,
}

impl Views {
    /// What the masters said so far.
    pub(crate) fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.newest.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes in a master's answer.
    pub(crate) fn learn(&self, cluster: &ClusterId, answer: Vouched) {
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        let clusters = &mut Arc::make_mut(&mut newest).clusters;
        let at = match clusters.binary_search_by(|view| view.cluster.cmp(cluster)) {
            Ok(at) => at,
            Err(at) => {
                let view = View {
                    cluster: cluster.clone(),
                    freshness: Freshness::new(),
                };
                clusters.insert(at, view);
                at
            }
        };
        clusters[at].freshness.learn(answer);
    }

    /// The platform's time, as far as this process knows it; `None` before the first answer.
    pub(crate) fn platform_time(&self, now: BootTime) -> Option<Version> {
        (self.now().clusters.iter())
            .filter(|view| view.freshness.newest().is_some())
            .map(|view| view.freshness.cluster_clock(now))
            .max()
    }

    /// How old a hit under each cluster's `mark` would be now.
    pub(crate) fn mark_age(
        &self,
        cluster: &ClusterId,
        mark: &Mark,
        now: BootTime,
    ) -> Option<Duration> {
        let snapshot = self.now();
        let view = (snapshot.clusters.iter()).find(|view| view.cluster == *cluster)?;
        let run = *view.freshness.newest()?.slots.runs().first()?;
        view.freshness
            .age(mark, now, Slot::new(run.first)?, run.revision)
    }

    /// Whether every cluster that ever answered did so within `bound`, and one did.
    pub(crate) fn are_fresh(&self, now: BootTime, bound: Duration) -> bool {
        let snapshot = self.now();
        !snapshot.clusters.is_empty()
            && snapshot.clusters.iter().all(|view| {
                view.freshness
                    .newest()
                    .is_some_and(|last| now.since(last.asked_at) <= bound)
            })
    }

    /// The clusters that ever answered.
    pub(crate) fn clusters(&self) -> Vec<ClusterId> {
        (self.now().clusters.iter())
            .map(|view| view.cluster.clone())
            .collect()
    }
}

impl Snapshot {
    /// The place of a slot in the cluster that said last that it owns it; `None` where
    /// none did: such keys pass the cache by.
    pub(crate) fn place(&self, slot: Slot) -> Option<Place> {
        (self.clusters.iter().enumerate())
            .filter_map(|(cluster, view)| {
                let revision = view.freshness.newest()?.slots.revision_of(slot)?;
                Some(Place {
                    slot,
                    revision,
                    cluster,
                })
            })
            // While a slot moves, two masters may both name it: the later revision is the
            // later owner.
            .max_by_key(|place| place.revision)
    }

    /// The views, with their place within the snapshot.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = (usize, &View)> {
        self.clusters.iter().enumerate()
    }

    /// The view that a place of this snapshot belongs to.
    pub(crate) fn view(&self, place: Place) -> &View {
        &self.clusters[place.cluster]
    }
}

impl View {
    /// The cluster clock at `now`.
    pub(crate) fn clock(&self, now: BootTime) -> Version {
        self.freshness.cluster_clock(now)
    }

    /// Whether an entry that was found at `place` counts for a read that arrived at
    /// `arrived`, when the cluster clock was `clock`; and how stale it may then have been.
    pub(crate) fn judge(
        &self,
        place: Place,
        mark: Option<&Mark>,
        entry: &Entry,
        bound: &ReadBound,
        arrived: BootTime,
        clock: Version,
    ) -> Verdict {
        judge(
            &self.freshness,
            mark,
            entry,
            place.slot,
            place.revision,
            bound,
            arrived,
            clock,
        )
    }
}

/// A shared handle on the views.
pub(crate) type SharedViews = Arc<Views>;
