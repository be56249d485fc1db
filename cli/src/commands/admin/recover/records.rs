//! The coordination store of a recovery: the one in the data directory, as `tierkv dev` keeps it, or
//! one that other processes use meanwhile.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tierkv_coordination::{
    Coordination, GroupMembership, Location, MemoryCoordination, Offline, OfflineImage,
    PRESENCE_TTL, Versioned,
    directory::{self, Presence},
};
use tierkv_datanode::{Finding, Recovery, RecoveryDone};
use tierkv_types::{ClusterId, NodeId, PlatformId};

use crate::{configuration::CoordinationKeys, roles::metadata};

type Failure = Box<dyn std::error::Error>;

/// The records of coordination.
pub(super) enum Records {
    /// In a folder that no process uses; it is locked.
    Folder {
        folder: PathBuf,
        offline: Offline,
        records: Vec<(String, Versioned)>,
    },
    /// In a store that runs.
    Running {
        store: Arc<dyn Coordination>,
        platform: PlatformId,
    },
}

impl Records {
    /// Opens the store of the configuration.
    ///
    /// # Errors
    /// If it is in use alone by a process, can't be reached, or has no platform.
    pub(super) async fn open(keys: &CoordinationKeys, data_dir: &Path) -> Result<Self, Failure> {
        if let Location::Memory = keys.url {
            let folder = data_dir.join("coordination");
            let (offline, records) = Offline::open(&folder)?;
            return Ok(Self::Folder {
                folder,
                offline,
                records,
            });
        }
        let store = metadata::connect(keys).await?;
        let record = store.get(directory::PLATFORM).await?;
        let record = record.ok_or("coordination has no platform; check coordination.url")?;
        let platform = metadata::platform_id(&record)?;
        Ok(Self::Running { store, platform })
    }

    /// The platform of the store, if it is one that runs.
    pub(super) const fn platform(&self) -> Option<PlatformId> {
        match self {
            Self::Folder { .. } => None,
            Self::Running { platform, .. } => Some(*platform),
        }
    }

    /// The record of a cluster.
    pub(super) async fn of_cluster(
        &self,
        cluster: &ClusterId,
    ) -> Result<Option<Versioned>, Failure> {
        self.get(&directory::cluster_state(cluster)).await
    }

    /// What a node noted of its log.
    pub(super) async fn note_of(
        &self,
        cluster: &ClusterId,
        node: &NodeId,
    ) -> Result<Option<Versioned>, Failure> {
        self.get(&directory::log_note(cluster, node)).await
    }

    async fn get(&self, key: &str) -> Result<Option<Versioned>, Failure> {
        match self {
            Self::Folder { records, .. } => {
                let record = records.iter().find(|(name, _)| *name == key);
                Ok(record.map(|(_, record)| record.clone()))
            }
            Self::Running { store, .. } => Ok(store.get(key).await?),
        }
    }

    /// Checks that no process runs under the node's name: it may have the log that is listed, and
    /// acknowledge writes.
    ///
    /// # Errors
    /// If one runs; the message says where.
    pub(super) async fn check_stopped(&self, node: &NodeId) -> Result<(), Failure> {
        match self {
            // Only the process that keeps its directory locked could use it.
            Self::Folder { .. } => Ok(()),
            Self::Running { store, .. } => check_stopped(&**store, node).await,
        }
    }

    /// What is wrong with the store itself.
    pub(super) fn finding(&self) -> Option<Finding> {
        let Self::Folder { offline, .. } = self else {
            return None;
        };
        let OfflineImage::Damaged(what) = offline.image() else {
            return None;
        };
        Some(Finding {
            problem: "coordination-damaged",
            what: what.clone(),
            remedy: Some("set it aside, and start an empty one with this cluster".to_owned()),
            loss: "no data; settings made with `tierkv admin` must be made again".to_owned(),
        })
    }

    /// That there is no store at all, with how to name another one.
    pub(super) fn absence(&self) -> Option<String> {
        match self {
            Self::Folder {
                folder, offline, ..
            } if *offline.image() == OfflineImage::Missing => Some(format!(
                "there is no coordination store in {}; if the node's platform has its coordination \
                 in an etcd, name that one with --coordination-url",
                folder.display()
            )),
            Self::Folder { .. } | Self::Running { .. } => None,
        }
    }

    /// Carries the recovery out.
    pub(super) async fn carry_out(
        self,
        recovery: &mut Recovery,
        node: &NodeId,
    ) -> Result<RecoveryDone, Failure> {
        match self {
            Self::Folder {
                folder, offline, ..
            } => {
                let aside = offline.set_damaged_aside()?;
                // This unlocks the coordination directory. The node's own directory is still locked,
                // so no node can start on it.
                drop(offline);
                let store = MemoryCoordination::open(&folder)?;
                let mut done = recovery.carry_out(&*store).await?;
                done.set_aside.extend(aside);
                Ok(done)
            }
            Self::Running { store, .. } => {
                // The examination may have taken long. A node that starts after this check changes
                // the record, if it is master, and the swap is then lost.
                check_stopped(&*store, node).await?;
                Ok(recovery.carry_out(&*store).await?)
            }
        }
    }
}

async fn check_stopped(store: &dyn GroupMembership, node: &NodeId) -> Result<(), Failure> {
    let listed = store.list(directory::DATA_NODES).await?;
    let Some(data) = listed.get(node.as_str()) else {
        return Ok(());
    };
    let process = Presence::decode(data).map_or_else(String::new, |it| {
        format!(" (pid {} on host '{}', at {})", it.pid, it.host, it.address)
    });
    Err(format!(
        "a process runs as node {node}{process}: stop it first, its log may have what this \
         directory lacks. One that was killed stays listed for {} s",
        PRESENCE_TTL.as_secs()
    )
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_that_runs_is_not_recovered() {
        let store = MemoryCoordination::ephemeral();
        let node = NodeId::new("n3").unwrap();
        check_stopped(&*store, &node).await.unwrap();
        let data = Presence::of_this_process("127.0.0.1:7600".to_owned()).encode();
        let joined = store.join(directory::DATA_NODES, "n3", data).await.unwrap();
        let refused = check_stopped(&*store, &node).await.unwrap_err().to_string();
        assert!(refused.contains("at 127.0.0.1:7600): stop it"), "{refused}");
        joined.leave().await.unwrap();
        check_stopped(&*store, &node).await.unwrap();
    }
}
