//! The latest answers of each cluster's master: which slots it owns, and how far the cache may be
//! trusted (CACHE-MARK). A cluster that coordination no longer lists is forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tierkv_protocol::{
    cache::{Entry, Freshness, Mark, ReadBound, Verdict, Vouched, judge},
    placement::PlacementMap,
    platform_time::median::median,
};
use tierkv_types::{BootTime, ClusterId, Error, Slot, Version};

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
    listed: Arc<Listed>,
}

/// The platform's clusters, as coordination lists them.
#[derive(Default)]
struct Listed {
    /// Which cluster owns which slot; `None` before there is a map.
    placement: Option<PlacementMap>,
    /// Those that are asked, and since when.
    asked_since: BTreeMap<ClusterId, BootTime>,
}

/// That a cluster does not answer, and for how long; `None` if coordination does not list it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Silence {
    pub(crate) cluster: ClusterId,
    pub(crate) lasts: Option<Duration>,
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

    /// Takes over which clusters are `asked` from now on, and which cluster owns which slot. All
    /// others are forgotten.
    pub(crate) fn list(&self, placement: PlacementMap, asked: &BTreeSet<ClusterId>, now: BootTime) {
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        let snapshot = Arc::make_mut(&mut newest);
        let before = &snapshot.listed.asked_since;
        let asked_since = asked.iter().map(|cluster| {
            let since = before.get(cluster).copied();
            (cluster.clone(), since.unwrap_or(now))
        });
        let asked_since = asked_since.collect();
        snapshot
            .clusters
            .retain(|view| asked.contains(&view.cluster));
        snapshot.listed = Arc::new(Listed {
            placement: Some(placement),
            asked_since,
        });
    }

    /// Records a master's answer. One to a question from before its cluster was listed is dropped:
    /// it may be of an earlier cluster of the same name.
    pub(crate) fn learn(&self, cluster: &ClusterId, answer: Vouched) {
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        let since = newest.listed.asked_since.get(cluster);
        if since.is_none_or(|since| answer.asked_at < *since) {
            return;
        }
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

    /// The platform's time as this process estimates it: the median of the clusters' times
    /// (CLOCK-STEADY). `None` before the first answer. The clock of a cluster without slots does not
    /// count: it may still step.
    pub(crate) fn platform_time(&self, now: BootTime) -> Option<Version> {
        let snapshot = self.now();
        let owners = (snapshot.clusters.iter())
            .filter(|view| view.owns_slots())
            .map(|view| (&view.cluster, view.clock(now)));
        median(owners)
    }

    /// The time of the cluster that owns `slot`: a new request to its master is born in it. The
    /// platform's time, if that cluster has not answered yet.
    pub(crate) fn time_of(&self, slot: Slot, now: BootTime) -> Option<Version> {
        let snapshot = self.now();
        let owner = (snapshot.listed.placement.as_ref()).map(|placement| placement.owner(slot).0);
        let view = owner.and_then(|owner| snapshot.view_of(owner));
        let own = view.filter(|view| view.freshness.newest().is_some());
        own.map(|view| view.clock(now))
            .or_else(|| self.platform_time(now))
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

    /// Whether at least one cluster with slots answered within `bound`.
    pub(crate) fn is_one_fresh(&self, now: BootTime, bound: Duration) -> bool {
        let snapshot = self.now();
        let mut owners = snapshot.clusters.iter().filter(|view| view.owns_slots());
        owners.any(|view| {
            view.freshness
                .newest()
                .is_some_and(|last| now.since(last.asked_at) <= bound)
        })
    }

    /// The clusters with slots that have answered.
    pub(crate) fn clusters(&self) -> Vec<ClusterId> {
        (self.now().clusters.iter())
            .filter(|view| view.owns_slots())
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

    /// That the cluster which owns `slot` has not answered for longer than `bound`, if so.
    pub(crate) fn silence(&self, slot: Slot, now: BootTime, bound: Duration) -> Option<Silence> {
        let (owner, _) = self.listed.placement.as_ref()?.owner(slot);
        let lasts = match self.listed.asked_since.get(owner) {
            None => None,
            Some(asked_since) => {
                let last = self.view_of(owner).and_then(|view| view.freshness.newest());
                let lasts = now.since(last.map_or(*asked_since, |last| last.asked_at));
                if lasts <= bound {
                    return None;
                }
                Some(lasts)
            }
        };
        Some(Silence {
            cluster: owner.clone(),
            lasts,
        })
    }

    /// The views with their indexes in the snapshot.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = (usize, &View)> {
        self.clusters.iter().enumerate()
    }

    /// The view of a cluster, if it has answered.
    fn view_of(&self, cluster: &ClusterId) -> Option<&View> {
        self.clusters.iter().find(|view| view.cluster == *cluster)
    }

    /// The view of a place of this snapshot.
    pub(crate) fn view(&self, place: Place) -> &View {
        &self.clusters[place.cluster]
    }
}

impl View {
    /// Whether the cluster has answered, and owned slots then.
    fn owns_slots(&self) -> bool {
        let newest = self.freshness.newest();
        newest.is_some_and(|newest| !newest.slots.runs().is_empty())
    }

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

impl Silence {
    /// The error of an operation that had no effect because of it.
    pub(crate) fn error(&self) -> Error {
        let reason = self.reason();
        Error::unavailable(format!(
            "{reason}; its keys are unavailable until it answers, while those of other clusters \
             are served. Nothing was done; try again later"
        ))
    }

    /// The silence in words.
    pub(crate) fn reason(&self) -> String {
        let Self { cluster, lasts } = self;
        match lasts {
            Some(lasts) => format!(
                "cluster {cluster} has not answered for {} ms",
                lasts.as_millis()
            ),
            None => format!("cluster {cluster} was removed, or is not founded yet"),
        }
    }
}

/// A shared handle on the views.
pub(crate) type SharedViews = Arc<Views>;

#[cfg(test)]
mod tests;
