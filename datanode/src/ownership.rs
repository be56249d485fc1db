//! Which slots the node's cluster owns (PLACE-OWN).
//!
//! Ownership is a part of the replicated state: it changes where a record of the log is applied,
//! so it changes at the same place of the log on every member. The placement map in coordination
//! is what the master logs:
//!
//! ```text
//! map ─(watch)─► mapped ─(master appends)─► log ─(every member applies)─► now ─► requests
//! ```

use std::{
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tierkv_coordination::{Coordination, CoordinationError, Versioned, Watched, directory};
use tierkv_protocol::placement::PlacementMap;
use tierkv_rpc::{Follower, proto::internal};
use tierkv_types::{ClusterId, Code, Error, OwnedSlots, Slot, SlotRun, SlotTable, SlotTableError};

/// The slots that the cluster owns by one version of the placement map.
#[derive(Clone)]
pub(crate) struct Ownership {
    version: u64,
    /// The oldest and the newest version that are known to give the cluster the same slots. So do
    /// all between them, as a slot that came back would have a later revision.
    same: RangeInclusive<u64>,
    slots: SlotTable,
    /// For each slot the revision at which it last moved here; 0: not owned.
    revisions: Box<[u64]>,
    runs: Vec<internal::SlotRun>,
}

impl Ownership {
    pub(crate) fn of(owned: &OwnedSlots) -> Self {
        let runs = owned.slots.runs().iter().map(|run| internal::SlotRun {
            first: run.first.into(),
            count: run.count.into(),
            revision: run.revision,
        });
        Self {
            version: owned.version,
            same: owned.version..=owned.version,
            slots: owned.slots.clone(),
            revisions: owned.slots.revisions(),
            runs: runs.collect(),
        }
    }

    /// Also by another map, if that gives the cluster the same slots.
    fn also_of(mut self, mapped: &OwnedSlots) -> Self {
        if mapped.version > 0 && mapped.slots == self.slots {
            let (from, until) = self.same.into_inner();
            self.same = from.min(mapped.version)..=until.max(mapped.version);
        }
        self
    }

    /// The version of the placement map.
    pub(crate) const fn version(&self) -> u64 {
        self.version
    }

    /// The owned slots as runs, for the answer to a vouch request.
    pub(crate) fn runs(&self) -> &[internal::SlotRun] {
        &self.runs
    }

    /// The revision at which an owned slot last moved.
    ///
    /// # Errors
    /// `WrongOwner` if the cluster does not own it, or if the sender routed by a newer map than
    /// this node has applied, in which the slot may have moved.
    pub(crate) fn check(&self, slot: Slot, routed_by: u64) -> Result<u64, Error> {
        match self.revisions[slot.index()] {
            _ if routed_by > *self.same.end() => Err(Error::new(
                Code::WrongOwner,
                "the request was routed by a newer placement map than this node has applied",
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
            version if self.same.contains(&version) => Ok(()),
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

    /// The revision under which the cache keeps a slot's keys; 0 if it is not owned.
    pub(crate) fn revision(&self, slot: Slot) -> u64 {
        self.revisions[slot.index()]
    }
}

/// The applied ownership, read by every request, and the one that the newest map asks for.
pub(crate) struct Owned {
    cluster: ClusterId,
    now: RwLock<Arc<Ownership>>,
    mapped: Mutex<OwnedSlots>,
    /// The versions of `now` and `mapped`, to compare them without a lock.
    applied_version: AtomicU64,
    mapped_version: AtomicU64,
}

impl Owned {
    /// `applied`: the ownership as of the last applied record.
    pub(crate) fn new(cluster: ClusterId, applied: &OwnedSlots) -> Self {
        Self {
            cluster,
            now: RwLock::new(Arc::new(Ownership::of(applied))),
            mapped: Mutex::new(OwnedSlots::default()),
            applied_version: AtomicU64::new(applied.version),
            mapped_version: AtomicU64::new(0),
        }
    }

    pub(crate) fn now(&self) -> Arc<Ownership> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the ownership, once its record is applied.
    pub(crate) fn apply(&self, owned: &OwnedSlots) {
        let mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        self.publish(Ownership::of(owned).also_of(&mapped));
        self.applied_version.store(owned.version, Ordering::Release);
    }

    /// Called with `mapped` locked.
    fn publish(&self, ownership: Ownership) {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        *now = Arc::new(ownership);
    }

    /// Takes what the newest map gives the cluster.
    ///
    /// # Errors
    /// [`SlotTableError`] if the map has impossible runs.
    pub(crate) fn learn(&self, map: &PlacementMap) -> Result<(), SlotTableError> {
        let ours = map.runs().iter().filter(|run| run.cluster == self.cluster);
        let runs = ours.map(|run| SlotRun {
            first: run.first,
            count: run.count,
            revision: run.revision,
        });
        self.ask(OwnedSlots {
            version: map.version,
            slots: SlotTable::from_runs(runs.collect())?,
        });
        Ok(())
    }

    /// Has the master log these slots, unless a newer map's are asked for.
    pub(crate) fn ask(&self, owned: OwnedSlots) {
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        // Also with an older one, as of coordination that was restored from a backup.
        self.publish(Ownership::clone(&self.now()).also_of(&owned));
        if owned.version > mapped.version {
            self.mapped_version.store(owned.version, Ordering::Release);
            *mapped = owned;
        }
    }

    /// What the master has to log: the newest map's slots, unless that map, or a newer one, is
    /// applied or `appended`. Takes no lock if there is nothing to log.
    pub(crate) fn unlogged(&self, appended: Option<u64>) -> Option<OwnedSlots> {
        let applied = self.applied_version.load(Ordering::Acquire);
        let logged = applied.max(appended.unwrap_or_default());
        if self.mapped_version.load(Ordering::Acquire) <= logged {
            return None;
        }
        let mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        Some(mapped.clone())
    }

    /// Whether a map is applied that gives the cluster the slots of the newest one that this node
    /// has seen.
    pub(crate) fn is_settled(&self) -> bool {
        let now = self.now();
        now.version > 0 && *now.same.end() >= self.mapped_version.load(Ordering::Acquire)
    }
}

/// Keeps the newest placement map (COORD-WATCH).
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
        let Some(stored) = self.record.current().as_ref().clone() else {
            return;
        };
        match PlacementMap::decode(&stored.value) {
            Ok(map) => {
                if let Err(error) = self.owned.learn(&map) {
                    tracing::error!(%error, "the placement map can't be used");
                }
            }
            Err(error) => tracing::error!(%error, "the placement map can't be read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tierkv_protocol::placement::WeightedCluster;

    use super::*;

    fn id(name: &str) -> ClusterId {
        ClusterId::new(name).unwrap()
    }

    fn map() -> PlacementMap {
        let clusters = ["c1", "c2"].map(|name| WeightedCluster {
            id: id(name),
            weight: 1,
        });
        PlacementMap::initial(clusters.into()).unwrap()
    }

    #[test]
    fn only_owned_slots_are_served_and_only_by_a_map_as_new_as_the_senders() {
        let map = map();
        let owned = Owned::new(id("c1"), &OwnedSlots::default());
        let any = Slot::of(b"x");
        assert_eq!(
            owned.now().check(any, 0).unwrap_err().code,
            Code::WrongOwner
        );
        assert!(owned.now().check_map(0).is_ok() && owned.now().check_map(1).is_err());
        owned.learn(&map).unwrap();
        owned.apply(&owned.unlogged(None).unwrap());
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

    /// A log that is full must not stop reads only because the platform got another cluster.
    #[test]
    fn a_newer_map_with_the_same_slots_counts_before_it_is_logged() {
        let owned = Owned::new(id("c1"), &OwnedSlots::default());
        owned.learn(&map()).unwrap();
        let slots = owned.unlogged(None).unwrap();
        owned.apply(&slots);
        let own = Slot::all().find(|slot| owned.now().owns(*slot)).unwrap();
        assert!(owned.now().check(own, 2).is_err());
        let added = map().with_cluster(WeightedCluster {
            id: id("c3"),
            weight: 1,
        });
        owned.learn(&added).unwrap();
        let now = owned.now();
        assert_eq!((now.version(), owned.is_settled()), (1, true));
        assert!(now.check(own, 2).is_ok() && now.check_map(2).is_ok() && now.check_map(1).is_ok());
        assert!(now.check(own, 3).is_err() && now.check_map(3).is_err());
        assert_eq!(
            owned.unlogged(None).unwrap().version,
            2,
            "it is logged all the same"
        );

        // Other slots count only where they are applied.
        let mut fewer = slots.slots.runs().to_vec();
        let moved = fewer.pop().unwrap();
        owned.ask(OwnedSlots {
            version: 3,
            slots: SlotTable::from_runs(fewer).unwrap(),
        });
        let still = Slot::new(moved.first).unwrap();
        assert!(owned.now().check(still, 2).is_ok() && owned.now().check(still, 3).is_err());
        assert!(!owned.is_settled());
        owned.apply(&owned.unlogged(None).unwrap());
        assert!(owned.now().check(still, 2).is_err() && owned.now().check_map(2).is_err());
        assert!(owned.is_settled());
    }

    #[test]
    fn a_map_changes_nothing_until_its_record_is_applied_and_is_logged_once() {
        let owned = Owned::new(id("c1"), &OwnedSlots::default());
        assert!(owned.unlogged(None).is_none() && !owned.is_settled());
        owned.learn(&map()).unwrap();
        let slots = owned.unlogged(None).unwrap();
        assert_eq!(slots.version, 1);
        assert_eq!(owned.now().version(), 0);
        assert!(owned.unlogged(Some(1)).is_none(), "it is appended");
        assert!(!owned.is_settled());
        owned.apply(&slots);
        assert!(owned.unlogged(None).is_none() && owned.is_settled());
        // An older map, read late.
        let newer = OwnedSlots {
            version: 2,
            ..slots
        };
        let ahead = Owned::new(id("c1"), &newer);
        ahead.learn(&map()).unwrap();
        assert!(ahead.unlogged(None).is_none() && ahead.is_settled());
        let now = ahead.now();
        assert!(now.check_map(1).is_ok() && now.check_map(2).is_ok() && now.check_map(3).is_err());
    }
}
