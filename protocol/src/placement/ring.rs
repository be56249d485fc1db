//! The consistent-hash ring (Karger et al., 1997), over weighted virtual nodes.

use std::hash::{Hash, Hasher};

use hashring::HashRing;
use serde::{Deserialize, Serialize};
use tierkv_types::{ClusterId, Slot};
use xxhash_rust::xxh3::Xxh3Builder;

/// Virtual nodes of a cluster of weight 1: enough that shares differ by a few per cent.
pub const VIRTUAL_NODES_PER_WEIGHT: u32 = 160;

/// A cluster and its share of the slots, relative to the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightedCluster {
    /// The cluster.
    pub id: ClusterId,
    /// Its share; 0 owns nothing.
    pub weight: u32,
}

/// Computes which cluster should own a slot. The result is the same on every machine and in
/// every release: it hashes explicit bytes by XXH3 with seed 0.
pub struct Ring {
    clusters: Vec<ClusterId>,
    ring: HashRing<VirtualNode, Xxh3Builder>,
}

/// One of a cluster's points on the ring.
struct VirtualNode {
    cluster: usize,
    point: Vec<u8>,
}

impl Hash for VirtualNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // `write`, because `[u8]::hash` would add a length of the machine's word size.
        state.write(&self.point);
    }
}

struct SlotPoint(Slot);

impl Hash for SlotPoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(b"slot:");
        state.write(&self.0.number().to_be_bytes());
    }
}

impl Ring {
    /// The ring of these clusters.
    #[must_use]
    pub fn new(clusters: &[WeightedCluster]) -> Self {
        let mut ring = HashRing::with_hasher(Xxh3Builder::new());
        let mut points = Vec::new();
        for (cluster, WeightedCluster { id, weight }) in clusters.iter().enumerate() {
            for number in 0..weight * VIRTUAL_NODES_PER_WEIGHT {
                let mut point = b"cluster:".to_vec();
                point.extend_from_slice(id.as_str().as_bytes());
                point.push(0);
                point.extend_from_slice(&number.to_be_bytes());
                points.push(VirtualNode { cluster, point });
            }
        }
        ring.batch_add(points);
        Self {
            clusters: clusters.iter().map(|cluster| cluster.id.clone()).collect(),
            ring,
        }
    }

    /// The cluster that should own `slot`; `None` if no cluster has weight.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> Option<&ClusterId> {
        self.ring
            .get(&SlotPoint(slot))
            .map(|node| &self.clusters[node.cluster])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clusters(weights: &[u32]) -> Vec<WeightedCluster> {
        let id = |n: usize| ClusterId::new(&format!("c{n}")).unwrap();
        weights
            .iter()
            .enumerate()
            .map(|(n, w)| WeightedCluster {
                id: id(n + 1),
                weight: *w,
            })
            .collect()
    }

    fn owners(weights: &[u32]) -> Vec<String> {
        let ring = Ring::new(&clusters(weights));
        Slot::all()
            .map(|slot| ring.owner(slot).unwrap().to_string())
            .collect()
    }

    /// Golden vectors: a changed ring would move every slot of every platform.
    #[test]
    fn the_ring_never_changes() {
        let owners = owners(&[1, 1, 2]);
        let some: Vec<&str> = [0, 1, 2, 3, 1000, 2000, 3000, 4095]
            .map(|slot: usize| owners[slot].as_str())
            .into();
        assert_eq!(some, GOLDEN);
    }

    const GOLDEN: [&str; 8] = ["c3", "c1", "c2", "c2", "c3", "c3", "c3", "c3"];

    #[test]
    fn shares_follow_the_weights() {
        let owners = owners(&[1, 1, 2]);
        let share = |id: &str| owners.iter().filter(|owner| *owner == id).count();
        for (id, fair) in [("c1", 1024), ("c2", 1024), ("c3", 2048)] {
            assert!(
                share(id).abs_diff(fair) < fair / 4,
                "{id} has {} of {fair}",
                share(id)
            );
        }
    }

    #[test]
    fn a_new_cluster_takes_its_share_and_moves_nothing_else() {
        let (before, after) = (owners(&[1, 1, 1]), owners(&[1, 1, 1, 1]));
        let moved: Vec<_> = before
            .iter()
            .zip(&after)
            .filter(|(old, new)| old != new)
            .collect();
        assert!(moved.iter().all(|(_, new)| *new == "c4"));
        assert!(
            moved.len().abs_diff(1024) < 256,
            "{} slots moved",
            moved.len()
        );
    }

    #[test]
    fn without_weight_nobody_owns_anything() {
        assert!(Ring::new(&clusters(&[0])).owner(Slot::of(b"x")).is_none());
    }
}
