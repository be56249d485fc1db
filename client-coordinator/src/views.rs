//! What each cluster's master said lately: which slots it owns, and how far the cache may
//! be believed (CACHE-MARK).

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tierkv_protocol::cache::{Entry, Freshness, Mark, ReadBound, Verdict, Vouched, judge};
use tierkv_types::{BootTime, ClusterId, Slot, Version};

/// The views of all clusters, shared by every read.
#[derive(Default)]
pub(crate) struct Views {
    clusters: RwLock<BTreeMap<ClusterId, View>>,
}

#[derive(Default)]
struct View {
    freshness: Freshness,
}

/// Where in the cache tier a slot's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) cluster: ClusterId,
    pub(crate) slot: Slot,
    pub(crate) revision: u64,
}

impl Views {
    fn read<T>(&self, look: impl FnOnce(&BTreeMap<ClusterId, View>) -> T) -> T {
        look(&self.clusters.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes in a master's answer.
    pub(crate) fn learn(&self, cluster: &ClusterId, answer: Vouched) {
        let mut clusters = self
            .clusters
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        clusters
            .entry(cluster.clone())
            .or_default()
            .freshness
            .learn(answer);
    }

    /// The cluster that said last that it owns each slot, and since when; `None` where
    /// none did: such keys pass the cache by.
    pub(crate) fn places(&self, slots: impl Iterator<Item = Slot>) -> Vec<Option<Place>> {
        self.read(|clusters| {
            slots
                .map(|slot| {
                    (clusters.iter())
                        .filter_map(|(cluster, view)| {
                            let newest = view.freshness.newest()?;
                            let revision = newest.slots.revision_of(slot)?;
                            Some(Place {
                                cluster: cluster.clone(),
                                slot,
                                revision,
                            })
                        })
                        // While a slot moves, two masters may both name it: the later
                        // revision is the later owner.
                        .max_by_key(|place| place.revision)
                })
                .collect()
        })
    }

    /// Whether an entry that was found counts, and how stale it may be.
    pub(crate) fn judge(
        &self,
        place: &Place,
        mark: Option<&Mark>,
        entry: &Entry,
        bound: &ReadBound,
        now: BootTime,
    ) -> Verdict {
        self.read(|clusters| match clusters.get(&place.cluster) {
            None => Verdict::Stale,
            Some(View { freshness }) => judge(
                freshness,
                mark,
                entry,
                place.slot,
                place.revision,
                bound,
                now,
                freshness.cluster_clock(now),
            ),
        })
    }

    /// The platform's time, as far as this process knows it; `None` before the first answer.
    pub(crate) fn platform_time(&self, now: BootTime) -> Option<Version> {
        self.read(|clusters| {
            (clusters.values())
                .filter(|view| view.freshness.newest().is_some())
                .map(|view| view.freshness.cluster_clock(now))
                .max()
        })
    }

    /// How old a hit under each cluster's `mark` would be now.
    pub(crate) fn mark_age(
        &self,
        cluster: &ClusterId,
        mark: &Mark,
        now: BootTime,
    ) -> Option<Duration> {
        self.read(|clusters| {
            let freshness = &clusters.get(cluster)?.freshness;
            let run = *freshness.newest()?.slots.runs().first()?;
            freshness.age(mark, now, Slot::new(run.first)?, run.revision)
        })
    }

    /// Whether every cluster that ever answered did so within `bound`, and one did.
    pub(crate) fn are_fresh(&self, now: BootTime, bound: Duration) -> bool {
        self.read(|clusters| {
            !clusters.is_empty()
                && clusters.values().all(|view| {
                    view.freshness
                        .newest()
                        .is_some_and(|last| now.since(last.asked_at) <= bound)
                })
        })
    }

    /// The clusters that ever answered.
    pub(crate) fn clusters(&self) -> Vec<ClusterId> {
        self.read(|clusters| clusters.keys().cloned().collect())
    }
}

/// A shared handle on the views.
pub(crate) type SharedViews = Arc<Views>;
