//! Which slots the node's cluster owns by the placement map (PLACE-OWN).

use std::sync::{Arc, PoisonError, RwLock};

use tierkv_coordination::{Coordination, CoordinationError, Versioned, Watched, directory};
use tierkv_protocol::placement::PlacementMap;
use tierkv_rpc::{Follower, proto::internal::SlotRun};
use tierkv_types::{ClusterId, Code, Error, SLOT_COUNT, Slot};

/// The slots that the cluster owns by one version of the placement map.
pub(crate) struct Ownership {
    version: u64,
    /// For each slot the revision at which it last moved here; 0: not owned.
    revisions: Box<[u64]>,
    runs: Vec<SlotRun>,
}

impl Ownership {
    fn none() -> Self {
        Self {
            version: 0,
            revisions: vec![0; SLOT_COUNT.into()].into(),
            runs: Vec::new(),
        }
    }

    fn of(cluster: &ClusterId, map: &PlacementMap) -> Self {
        let mut owned = Self {
            version: map.version,
            ..Self::none()
        };
        for run in map.runs().iter().filter(|run| run.cluster == *cluster) {
            let first = usize::from(run.first);
            owned.revisions[first..first + usize::from(run.count)].fill(run.revision);
            owned.runs.push(SlotRun {
                first: run.first.into(),
                count: run.count.into(),
                revision: run.revision,
            });
        }
        owned
    }

    /// The version of the placement map.
    pub(crate) const fn version(&self) -> u64 {
        self.version
    }

    /// The owned slots as runs, for the answer to a vouch request.
    pub(crate) fn runs(&self) -> &[SlotRun] {
        &self.runs
    }

    /// The revision at which an owned slot last moved.
    ///
    /// # Errors
    /// `WrongOwner` if the cluster does not own it, or if the sender routed by a newer map than
    /// this node has seen, in which the slot may have moved.
    pub(crate) fn check(&self, slot: Slot, routed_by: u64) -> Result<u64, Error> {
        match self.revisions[slot.index()] {
            _ if routed_by > self.version => Err(Error::new(
                Code::WrongOwner,
                "the request was routed by a newer placement map than this node has seen",
            )),
            0 => Err(Error::new(
                Code::WrongOwner,
                "this cluster does not own the key's slot",
            )),
            revision => Ok(revision),
        }
    }

    /// Checks that a request to all clusters at once was routed by this map. With different
    /// maps, a slot could be read at two clusters, or at none. 0: the request was not routed.
    ///
    /// # Errors
    /// `WrongOwner` if it was routed by another map.
    pub(crate) fn check_map(&self, routed_by: u64) -> Result<(), Error> {
        match routed_by {
            0 => Ok(()),
            version if version == self.version => Ok(()),
            _ => Err(Error::new(
                Code::WrongOwner,
                "the request was routed by another placement map than this node's",
            )),
        }
    }

    /// Whether the cluster owns a slot.
    pub(crate) fn owns(&self, slot: Slot) -> bool {
        self.revisions[slot.index()] != 0
    }

    /// Whether the cluster owns every slot.
    pub(crate) fn owns_all(&self) -> bool {
        self.revisions.iter().all(|revision| *revision != 0)
    }

    /// The revision under which the cache keeps a slot's keys; 0 if it was never owned.
    pub(crate) fn revision(&self, slot: Slot) -> u64 {
        self.revisions[slot.index()]
    }
}

/// The newest ownership, read by every request.
pub(crate) struct Owned {
    cluster: ClusterId,
    now: RwLock<Arc<Ownership>>,
}

impl Owned {
    pub(crate) fn new(cluster: ClusterId) -> Self {
        Self {
            cluster,
            now: RwLock::new(Arc::new(Ownership::none())),
        }
    }

    pub(crate) fn now(&self) -> Arc<Ownership> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the map, unless it has a newer one.
    pub(crate) fn learn(&self, map: &PlacementMap) {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        if map.version > now.version {
            *now = Arc::new(Ownership::of(&self.cluster, map));
        }
    }
}

/// Keeps ownership at the newest placement map (COORD-WATCH).
pub(crate) struct PlacementFollower {
    record: Watched<Option<Versioned>>,
    owned: Arc<Owned>,
}

impl PlacementFollower {
    /// Watches the record of the placement map.
    ///
    /// # Errors
    /// Those of the watch's first state.
    pub(crate) async fn watch(
        coordination: &dyn Coordination,
        owned: Arc<Owned>,
    ) -> Result<Self, CoordinationError> {
        Ok(Self {
            record: coordination.watch(directory::PLACEMENT).await?,
            owned,
        })
    }
}

impl Follower for PlacementFollower {
    type Error = CoordinationError;

    fn name(&self) -> &'static str {
        "placement"
    }

    async fn changed(&mut self) -> Result<(), CoordinationError> {
        self.record.changed().await
    }

    async fn apply(&mut self) {
        if let Some(stored) = self.record.current().as_ref() {
            match PlacementMap::decode(&stored.value) {
                Ok(map) => self.owned.learn(&map),
                Err(error) => tracing::error!(%error, "the placement map can't be read"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tierkv_protocol::placement::WeightedCluster;

    use super::*;

    #[test]
    fn only_owned_slots_are_served_and_only_by_a_map_as_new_as_the_senders() {
        let id = |name| ClusterId::new(name).unwrap();
        let clusters = ["c1", "c2"].map(|name| WeightedCluster {
            id: id(name),
            weight: 1,
        });
        let map = PlacementMap::initial(clusters.into()).unwrap();
        let owned = Owned::new(id("c1"));
        let any = Slot::of(b"x");
        assert_eq!(
            owned.now().check(any, 0).unwrap_err().code,
            Code::WrongOwner
        );
        assert!(owned.now().check_map(0).is_ok() && owned.now().check_map(1).is_err());
        owned.learn(&map);
        let now = owned.now();
        assert!(now.check_map(0).is_ok() && now.check_map(1).is_ok());
        assert!(now.check_map(2).is_err());
        assert!(!now.owns_all());
        for slot in Slot::all() {
            let ours = map.owner(slot).0 == &id("c1");
            assert_eq!(now.check(slot, 1).is_ok(), ours);
            assert!(
                now.check(slot, 2).is_err(),
                "a newer map may have moved the slot"
            );
            assert_eq!(now.owns(slot), ours);
        }
    }
}
