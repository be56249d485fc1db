//! Founds a platform: writes its first records into coordination.
//!
//! ```text
//!   platform (id, clusters) ──► one state a cluster, unfounded ──► placement map
//! ```
//!
//! Each record is created only if it is absent, in this order, and the placement map is the last: a
//! platform that has one is founded. A founding that was interrupted is completed by another one
//! with the same clusters; one with other clusters is refused. Nodes found nothing by themselves:
//! a member of a cluster that finds its unfounded state asks the others, and founds the cluster with
//! those that answer, once they are enough to commit (REP-MIN).

use std::collections::BTreeSet;

use bytes::Bytes;
use tierkv_coordination::{
    Coordination, CoordinationError, Swap,
    directory::{self, FoundingCluster, Platform},
};
use tierkv_protocol::{
    placement::{PlacementError, PlacementMap, WeightedCluster},
    replication::{ClusterState, F_MS_BOUNDS, MAX_MEMBERS},
};
use tierkv_types::{NodeId, PlatformId};

/// How often a record of unknown outcome is written again.
pub(crate) const MAX_ATTEMPTS: usize = 10;

/// What a platform is founded with.
#[derive(Clone, Debug)]
pub struct Founding {
    /// Its id, if coordination has none yet: a random number.
    pub platform: PlatformId,
    /// Its clusters.
    pub clusters: Vec<FoundingCluster>,
    /// The silence after which a master is suspected, in milliseconds (REP-TIMES).
    pub f_ms: u32,
}

/// Why a platform was not founded.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// There is one.
    #[error(
        "coordination has the platform {0} already; nothing was changed. Use another prefix or \
         another coordination store for a new platform"
    )]
    Exists(PlatformId),
    /// Another founding was begun with other clusters, and not completed.
    #[error(
        "the founding of platform {0} with other clusters was begun and not completed; found it \
         with the same clusters ({1}), or use another prefix"
    )]
    OtherClusters(PlatformId, String),
    /// The clusters can't be used.
    #[error("{0}")]
    Unsound(String),
    /// The platform's record can't be read.
    #[error("the platform's record is not readable: {0}; restore the coordination store")]
    Unreadable(String),
    /// The placement map can't be made.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// From the coordination store.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
}

impl Founding {
    /// Founds the platform.
    ///
    /// # Errors
    /// [`FoundingError::Exists`] if coordination has a founded platform; the others if it can't be
    /// founded, or only in part: found it again with the same clusters.
    pub async fn carry_out(
        &self,
        coordination: &dyn Coordination,
    ) -> Result<PlatformId, FoundingError> {
        match self.complete(coordination).await? {
            (id, true) => Ok(id),
            (id, false) => Err(FoundingError::Exists(id)),
        }
    }

    /// The platform in coordination; founds it if there is none.
    ///
    /// # Errors
    /// As [`Self::carry_out`], but for an existing platform.
    pub async fn ensure(
        &self,
        coordination: &dyn Coordination,
    ) -> Result<PlatformId, FoundingError> {
        Ok(self.complete(coordination).await?.0)
    }

    /// As [`Self::ensure`]; returns also whether this founded it, or completed its founding.
    ///
    /// # Errors
    /// As [`Self::ensure`].
    pub async fn complete(
        &self,
        coordination: &dyn Coordination,
    ) -> Result<(PlatformId, bool), FoundingError> {
        let map = self.placement()?;
        let is_founded = coordination.get(directory::PLACEMENT).await?.is_some();
        let platform = Platform::new(self.platform, self.clusters.clone());
        let stored = create(coordination, directory::PLATFORM, platform.encode()).await?;
        let platform = Platform::decode(&stored).map_err(FoundingError::Unreadable)?;
        if is_founded {
            return Ok((platform.id, false));
        }
        if platform.founding != self.clusters {
            let clusters = platform.founding.iter().map(described);
            let clusters = clusters.collect::<Vec<_>>().join(" ");
            return Err(FoundingError::OtherClusters(platform.id, clusters));
        }
        for cluster in &self.clusters {
            let state = ClusterState::unfounded(cluster.members.clone(), self.f_ms);
            create(
                coordination,
                &directory::cluster_state(&cluster.id),
                state.encode(),
            )
            .await?;
        }
        create(coordination, directory::PLACEMENT, map.encode()).await?;
        Ok((platform.id, true))
    }

    /// Checks the clusters, and places the slots.
    fn placement(&self) -> Result<PlacementMap, FoundingError> {
        check(&self.clusters, self.f_ms).map_err(FoundingError::Unsound)?;
        let clusters = self.clusters.iter().map(|cluster| WeightedCluster {
            id: cluster.id.clone(),
            weight: cluster.weight,
        });
        Ok(PlacementMap::initial(clusters.collect())?)
    }
}

/// Checks clusters that are founded together, with this failover time.
///
/// # Errors
/// What can't be used, in words.
pub(crate) fn check(clusters: &[FoundingCluster], f_ms: u32) -> Result<(), String> {
    if !F_MS_BOUNDS.contains(&f_ms) {
        return Err(format!(
            "failover-ms is {f_ms}; it is at least {} and at most {}",
            F_MS_BOUNDS.start(),
            F_MS_BOUNDS.end()
        ));
    }
    let (mut ids, mut nodes) = (BTreeSet::new(), BTreeSet::new());
    for cluster in clusters {
        if !ids.insert(&cluster.id) {
            return Err(format!("the cluster {} is named twice", cluster.id));
        }
        if cluster.members.is_empty() {
            return Err(format!("the cluster {} has no node", cluster.id));
        }
        if cluster.members.len() > MAX_MEMBERS {
            return Err(format!(
                "the cluster {} has {} nodes; the limit max_members is {MAX_MEMBERS}",
                cluster.id,
                cluster.members.len()
            ));
        }
        for node in &cluster.members {
            if !nodes.insert(node) {
                return Err(format!(
                    "the node {node} is named twice; a node belongs to one cluster"
                ));
            }
        }
    }
    Ok(())
}

/// As it is written on the command line.
fn described(cluster: &FoundingCluster) -> String {
    format!("--cluster {}={}", cluster.id, names(&cluster.members))
}

/// Nodes, as they are written on the command line.
pub(crate) fn names(nodes: &[NodeId]) -> String {
    let nodes: Vec<&str> = nodes.iter().map(NodeId::as_str).collect();
    nodes.join(",")
}

/// Creates a record unless it exists; returns its value then.
pub(crate) async fn create(
    coordination: &dyn Coordination,
    key: &str,
    value: Bytes,
) -> Result<Bytes, CoordinationError> {
    let mut attempt = 1;
    loop {
        match coordination.put_if_absent(key, value.clone()).await {
            Ok(Swap::Won(_)) => return Ok(value),
            Ok(Swap::Lost) => match coordination.get(key).await? {
                Some(stored) => return Ok(stored.value),
                // It was deleted in between.
                None if attempt < MAX_ATTEMPTS => {}
                None => {
                    return Err(CoordinationError::Unavailable(format!(
                        "the record {key} is being changed by others"
                    )));
                }
            },
            // Another attempt settles it: if this one was made, that one loses (COORD-CAS).
            Err(CoordinationError::OutcomeUnknown(_)) if attempt < MAX_ATTEMPTS => {}
            Err(error) => return Err(error),
        }
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use tierkv_coordination::{ConfigStore, MemoryCoordination};
    use tierkv_types::ClusterId;

    use super::*;

    fn founding(platform: u128, clusters: &[(&str, &[&str])]) -> Founding {
        let clusters = clusters.iter().map(|(id, members)| FoundingCluster {
            id: ClusterId::new(id).unwrap(),
            weight: 1,
            members: members.iter().map(|it| NodeId::new(it).unwrap()).collect(),
        });
        Founding {
            platform: PlatformId(platform),
            clusters: clusters.collect(),
            f_ms: 1_000,
        }
    }

    #[tokio::test]
    async fn a_platform_is_founded_once() {
        let coordination = MemoryCoordination::ephemeral();
        let two: &[(&str, &[&str])] = &[("c1", &["n1"]), ("c2", &["n2", "n3"])];
        let first = founding(1, two);
        assert_eq!(
            first.carry_out(&*coordination).await.unwrap(),
            PlatformId(1)
        );
        let second = founding(2, two).carry_out(&*coordination).await;
        assert!(matches!(second, Err(FoundingError::Exists(PlatformId(1)))));
        let again = founding(3, two).ensure(&*coordination).await;
        assert_eq!(again.unwrap(), PlatformId(1));
        let state = coordination.get("clusters/c2/state").await.unwrap();
        let state = ClusterState::decode(&state.unwrap().value).unwrap();
        assert!(state.is_unfounded() && state.min_in_sync() == 2);
        let map = coordination.get(directory::PLACEMENT).await.unwrap();
        let map = PlacementMap::decode(&map.unwrap().value).unwrap();
        assert!(map.share(&ClusterId::new("c2").unwrap()) > 1_000);
    }

    #[tokio::test]
    async fn an_interrupted_founding_is_completed_by_the_same_clusters_only() {
        let coordination = MemoryCoordination::ephemeral();
        let first = founding(1, &[("c1", &["n1"])]);
        let record = Platform::new(first.platform, first.clusters.clone());
        let put = coordination.put_if_absent(directory::PLATFORM, record.encode());
        assert!(put.await.unwrap().won().is_some());
        let other = founding(2, &[("c9", &["n1"])])
            .carry_out(&*coordination)
            .await;
        let words = other.unwrap_err().to_string();
        assert!(words.contains("--cluster c1=n1"), "{words}");
        let same = founding(3, &[("c1", &["n1"])]);
        let completed = same.complete(&*coordination).await.unwrap();
        assert_eq!(completed, (PlatformId(1), true));
        let again = same.complete(&*coordination).await.unwrap();
        assert_eq!(again, (PlatformId(1), false));
    }

    #[tokio::test]
    async fn clusters_that_contradict_themselves_are_refused() {
        let coordination = MemoryCoordination::ephemeral();
        let ten: &[&str] = &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        let twice: [&[(&str, &[&str])]; 5] = [
            &[],
            &[("c1", &[])],
            &[("c1", &["n1"]), ("c1", &["n2"])],
            &[("c1", &["n1"]), ("c2", &["n1"])],
            &[("c1", ten)],
        ];
        for clusters in twice {
            let refused = founding(1, clusters).carry_out(&*coordination).await;
            assert!(refused.is_err(), "{clusters:?}");
        }
        let mut hasty = founding(1, &[("c1", &["n1"])]);
        hasty.f_ms = 100;
        let words = hasty.carry_out(&*coordination).await.unwrap_err();
        assert!(words.to_string().contains("at least 200"), "{words}");
        assert_eq!(coordination.get(directory::PLATFORM).await.unwrap(), None);
    }
}
