//! [`PlacementMap`]: the versioned value in coordination with the owner of each slot.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tierkv_types::{ClusterId, SLOT_COUNT, Slot};

use super::ring::{Ring, WeightedCluster};

/// The format that this code writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// The owner of each slot, and the version of this map at which the slot last moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementMap {
    format: u32,
    /// Grows by one with every change.
    pub version: u64,
    /// The clusters of the ring.
    pub clusters: Vec<WeightedCluster>,
    runs: Vec<PlacementRun>,
}

/// Neighbouring slots of one owner and one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementRun {
    /// The first slot's number.
    pub first: u16,
    /// The number of slots.
    pub count: u16,
    /// Their owner.
    pub cluster: ClusterId,
    /// The map's version at which they last moved.
    pub revision: u64,
}

/// Why a placement map could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// It can't be decoded.
    #[error("the placement map is not readable: {0}; restore the coordination store")]
    Unreadable(#[from] serde_json::Error),
    /// A newer release wrote it.
    #[error("the placement map has format {0}, this release reads up to {FORMAT}; upgrade")]
    Newer(u32),
    /// Its runs don't cover every slot once (I10).
    #[error("the placement map does not give every slot one owner; restore the coordination store")]
    Unsound,
    /// No cluster can own anything.
    #[error("a platform needs at least one cluster of weight 1 or more")]
    NoCluster,
}

impl PlacementMap {
    /// The first map of a platform, computed by the ring.
    ///
    /// # Errors
    /// [`PlacementError::NoCluster`] if no cluster has any weight.
    pub fn initial(clusters: Vec<WeightedCluster>) -> Result<Self, PlacementError> {
        let ring = Ring::new(&clusters);
        let mut runs: Vec<PlacementRun> = Vec::new();
        for slot in Slot::all() {
            let owner = ring.owner(slot).ok_or(PlacementError::NoCluster)?;
            match runs.last_mut() {
                Some(run) if run.cluster == *owner => run.count += 1,
                _ => runs.push(PlacementRun {
                    first: slot.number(),
                    count: 1,
                    cluster: owner.clone(),
                    revision: 1,
                }),
            }
        }
        Ok(Self {
            format: FORMAT,
            version: 1,
            clusters,
            runs,
        })
    }

    /// The next map, in which `cluster` belongs to the platform and owns no slot yet: every slot
    /// keeps its owner and its revision.
    #[must_use]
    pub fn with_cluster(&self, cluster: WeightedCluster) -> Self {
        let mut next = self.clone();
        next.version += 1;
        next.clusters.push(cluster);
        next
    }

    /// The next map, in which the slots of `cluster` have a new revision, as if they had just moved
    /// to it.
    #[must_use]
    pub fn with_new_revision(&self, cluster: &ClusterId) -> Self {
        let mut next = self.clone();
        next.version += 1;
        for run in next.runs.iter_mut().filter(|run| run.cluster == *cluster) {
            run.revision = next.version;
        }
        next
    }

    /// Whether the cluster belongs to the platform, with or without slots.
    #[must_use]
    pub fn has(&self, cluster: &ClusterId) -> bool {
        self.clusters.iter().any(|it| it.id == *cluster)
    }

    /// The map as it is stored.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        // Only maps with non-string keys or failing serializers can fail here.
        serde_json::to_vec(self)
            .map(Bytes::from)
            .unwrap_or_default()
    }

    /// Reads a stored map.
    ///
    /// # Errors
    /// [`PlacementError`] if it is not readable, newer than this release or unsound.
    pub fn decode(bytes: &[u8]) -> Result<Self, PlacementError> {
        let map: Self = serde_json::from_slice(bytes)?;
        if map.format > FORMAT {
            return Err(PlacementError::Newer(map.format));
        }
        let mut next = 0_u32;
        for run in &map.runs {
            if u32::from(run.first) != next || run.count == 0 {
                return Err(PlacementError::Unsound);
            }
            next += u32::from(run.count);
        }
        if next != u32::from(SLOT_COUNT) {
            return Err(PlacementError::Unsound);
        }
        Ok(map)
    }

    /// The slots in runs, in order.
    #[must_use]
    pub fn runs(&self) -> &[PlacementRun] {
        &self.runs
    }

    /// The owner of `slot`, and the revision since when.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> (&ClusterId, u64) {
        let at = self.runs.partition_point(|run| run.first <= slot.number());
        let run = &self.runs[at - 1];
        (&run.cluster, run.revision)
    }

    /// The number of slots that a cluster owns.
    #[must_use]
    pub fn share(&self, cluster: &ClusterId) -> u32 {
        self.runs
            .iter()
            .filter(|run| run.cluster == *cluster)
            .map(|run| u32::from(run.count))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> PlacementMap {
        let cluster = |id| WeightedCluster {
            id: ClusterId::new(id).unwrap(),
            weight: 1,
        };
        PlacementMap::initial(vec![cluster("c1"), cluster("c2")]).unwrap()
    }

    #[test]
    fn every_slot_has_the_owner_that_the_ring_names() {
        let map = map();
        let ring = Ring::new(&map.clusters);
        for slot in Slot::all() {
            assert_eq!(map.owner(slot), (ring.owner(slot).unwrap(), 1));
        }
        let share = |id| map.share(&ClusterId::new(id).unwrap());
        assert_eq!(share("c1") + share("c2"), 4096);
    }

    #[test]
    fn a_cluster_that_is_added_owns_nothing() {
        let map = map();
        let added = ClusterId::new("c3").unwrap();
        let next = map.with_cluster(WeightedCluster {
            id: added.clone(),
            weight: 1,
        });
        assert!(next.has(&added) && !map.has(&added));
        assert_eq!((next.version, next.share(&added)), (map.version + 1, 0));
        assert!(Slot::all().all(|slot| next.owner(slot) == map.owner(slot)));
        assert_eq!(PlacementMap::decode(&next.encode()).unwrap(), next);
    }

    #[test]
    fn a_new_revision_is_that_of_one_cluster() {
        let map = map();
        let renewed = ClusterId::new("c2").unwrap();
        let next = map.with_new_revision(&renewed);
        assert_eq!(next.version, map.version + 1);
        for slot in Slot::all() {
            let (owner, revision) = next.owner(slot);
            assert_eq!(owner, map.owner(slot).0);
            let expected = if *owner == renewed { next.version } else { 1 };
            assert_eq!(revision, expected);
        }
        assert_eq!(PlacementMap::decode(&next.encode()).unwrap(), next);
    }

    #[test]
    fn it_comes_back_as_it_was_written_and_nothing_else_does() {
        let map = map();
        assert_eq!(PlacementMap::decode(&map.encode()).unwrap(), map);
        let mut gap = map.clone();
        gap.runs.remove(1);
        assert!(matches!(
            PlacementMap::decode(&gap.encode()),
            Err(PlacementError::Unsound)
        ));
        let newer = PlacementMap {
            format: FORMAT + 1,
            ..map
        };
        assert!(matches!(
            PlacementMap::decode(&newer.encode()),
            Err(PlacementError::Newer(_))
        ));
        assert!(matches!(
            PlacementMap::initial(vec![]),
            Err(PlacementError::NoCluster)
        ));
    }
}
