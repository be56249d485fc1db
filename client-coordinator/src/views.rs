//! The latest answers of each cluster's master: which slots it owns, and how far the cache may be
//! trusted (CACHE-MARK).

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tierkv_protocol::cache::{Entry, Freshness, Mark, ReadBound, Verdict, Vouched, judge};
use tierkv_types::{BootTime, ClusterId, Slot, Version};

/// The views of all clusters. Answers come a few times a second, reads all the time. So each answer
/// makes a new snapshot, and a batch of reads takes one without further locks.
#[derive(Default)]
pub(crate) struct Views {
    newest: RwLock<Arc<Snapshot>>,
}

/// The answers of all masters at one moment, by cluster name.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    clusters: Vec<View>,
}

/// The answers of one cluster's masters.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) cluster: ClusterId,
    freshness: Freshness,
}

/// A slot's place in the cache tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) slot: Slot,
    pub(crate) revision: u64,
    /// The index of its cluster in the snapshot that it is from.
    pub(crate) cluster: usize,
}

impl Views {
    /// The current answers.
    pub(crate) fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.newest.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records a master's answer.
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

    /// The platform's time as this process estimates it; `None` before the first answer.
    pub(crate) fn platform_time(&self, now: BootTime) -> Option<Version> {
        (self.now().clusters.iter())
            .filter(|view| view.freshness.newest().is_some())
            .map(|view| view.freshness.cluster_clock(now))
            .max()
    }

    /// The age that a hit under each cluster's `mark` would have now.
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

    /// Whether all clusters that ever answered did so within `bound`; false before the first
    /// answer.
    pub(crate) fn are_fresh(&self, now: BootTime, bound: Duration) -> bool {
        let snapshot = self.now();
        !snapshot.clusters.is_empty()
            && snapshot.clusters.iter().all(|view| {
                view.freshness
                    .newest()
                    .is_some_and(|last| now.since(last.asked_at) <= bound)
            })
    }

    /// The clusters that have answered.
    pub(crate) fn clusters(&self) -> Vec<ClusterId> {
        (self.now().clusters.iter())
            .map(|view| view.cluster.clone())
            .collect()
    }
}

impl Snapshot {
    /// The place of a slot in the cluster whose answer last claimed it; `None` if none did: such
    /// keys bypass the cache.
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
            // While a slot moves, two masters may both claim it: the later revision is the later
            // owner.
            .max_by_key(|place| place.revision)
    }

    /// The views with their indexes in the snapshot.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = (usize, &View)> {
        self.clusters.iter().enumerate()
    }

    /// The view of a place of this snapshot.
    pub(crate) fn view(&self, place: Place) -> &View {
        &self.clusters[place.cluster]
    }
}

impl View {
    /// The cluster clock at `now`.
    pub(crate) fn clock(&self, now: BootTime) -> Version {
        self.freshness.cluster_clock(now)
    }

    /// Whether an entry found at `place` is a hit for a read that arrived at `arrived`, when the
    /// cluster clock was `clock`; and how stale it may then have been.
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
