//! The node state: log id, promise, cluster state and platform, in one file that is replaced
//! atomically.
//!
//! The file `node-state` (numbers little-endian):
//!
//! ```text
//! at  bytes
//!  0      8  the letters TIERKVNS
//!  8      4  format version: 3
//! 12      4  CRC-32C of the file without these four bytes
//! 16      8  log id
//! 24      8  highest promised epoch (REP-PROMISE)
//! 32      1  sum of: 1 if there is a cluster state, 2 if there is a boot id, 4 if there is a
//!            platform id
//!     0, 16  the boot of the machine in which the log was last written without a sync
//!            for each record (REP-LOGID); cleared once all of it is synced
//!     0, 16  the id of the platform that the node belongs to
//!         …  the highest cluster state seen (COORD-BACK), opaque here
//! ```
//!
//! Format versions 1 and 2, of earlier releases, are still read; the first has no boot id, and both
//! have no platform id.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use tierkv_types::{Epoch, LogId, PlatformId};

use crate::{
    StorageError,
    disk::{BootId, Disk},
    locked, small_file,
};

const MAGIC: [u8; 8] = *b"TIERKVNS";
const FORMAT: u32 = 3;
const HEADER_BYTES: usize = 33;
const HAS_CLUSTER_STATE: u8 = 1;
const HAS_BOOT: u8 = 2;
const HAS_PLATFORM: u8 = 4;
const FILE: &str = "node-state";

/// The content of the node state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    pub(crate) log_id: LogId,
    pub(crate) promised: Epoch,
    pub(crate) cluster_state: Option<Bytes>,
    /// The boot in which the log was last written without a sync for each record.
    pub(crate) unsynced_boot: Option<BootId>,
    /// The platform that the node belongs to.
    pub(crate) platform: Option<PlatformId>,
}

/// The file and its content.
#[derive(Debug)]
pub(crate) struct NodeState {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    facts: Mutex<Option<NodeFacts>>,
}

impl NodeState {
    /// Reads the file in `dir`, if there is one.
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, StorageError> {
        let path = dir.join(FILE);
        let content = small_file::read(&*disk, &path)?;
        let facts = content.map(|content| NodeFacts::from_bytes(&path, &content));
        let facts = facts.transpose()?;
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            facts: Mutex::new(facts),
        })
    }

    /// Adds `ending` to the name of a damaged file, so that the node has no node state; durable on
    /// return. Replaces a file of that name. Returns the new name, if there was a file. Blocks.
    pub(crate) fn set_aside(
        disk: &dyn Disk,
        dir: &Path,
        ending: &str,
    ) -> Result<Option<PathBuf>, StorageError> {
        let path = dir.join(FILE);
        let failed = |error| StorageError::io("set aside", &path, error);
        let names = disk.list(dir).map_err(failed)?;
        if !names.iter().any(|name| name == FILE) {
            return Ok(None);
        }
        let aside = dir.join(format!("{FILE}{ending}"));
        disk.rename(&path, &aside)
            .and_then(|()| disk.sync_dir(dir))
            .map_err(failed)?;
        Ok(Some(aside))
    }

    /// Replaces the whole content; durable on return. Blocks.
    pub(crate) fn restore(&self, restored: NodeFacts) -> Result<(), StorageError> {
        self.change(|facts| *facts = restored)
    }

    pub(crate) fn facts(&self) -> Option<NodeFacts> {
        locked(&self.facts).clone()
    }

    /// The node's directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Gives the node's log another id; durable on return. Blocks.
    pub(crate) fn set_log_id(&self, log_id: LogId) -> Result<(), StorageError> {
        self.change(|facts| facts.log_id = log_id)
    }

    /// Records in which boot of the machine unsynced records may have been written to the log;
    /// `None`: all are synced. Durable on return. Blocks.
    pub(crate) fn set_unsynced_boot(&self, boot: Option<BootId>) -> Result<(), StorageError> {
        self.change(|facts| facts.unsynced_boot = boot)
    }

    /// Records the platform that the node belongs to; durable on return. Blocks.
    pub(crate) fn set_platform(&self, platform: PlatformId) -> Result<(), StorageError> {
        self.change(|facts| facts.platform = Some(platform))
    }

    /// Raises the promised epoch, and stores the cluster state if there is one; durable on
    /// return. A lower epoch than the promised one does not lower it. Blocks.
    pub(crate) fn promise(
        &self,
        epoch: Epoch,
        cluster_state: Option<Bytes>,
    ) -> Result<(), StorageError> {
        self.change(|facts| {
            facts.promised = facts.promised.max(epoch);
            if cluster_state.is_some() {
                facts.cluster_state = cluster_state;
            }
        })
    }

    fn change(&self, change: impl FnOnce(&mut NodeFacts)) -> Result<(), StorageError> {
        let mut current = locked(&self.facts);
        let mut facts = current.clone().unwrap_or_default();
        change(&mut facts);
        if current.as_ref() != Some(&facts) {
            self.replace(&facts)?;
            *current = Some(facts);
        }
        Ok(())
    }

    fn replace(&self, facts: &NodeFacts) -> Result<(), StorageError> {
        small_file::replace(&*self.disk, &self.path(), &facts.to_bytes())
    }
}

impl NodeFacts {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.log_id.0.to_le_bytes());
        bytes.extend_from_slice(&self.promised.0.to_le_bytes());
        let mut parts = 0;
        if self.cluster_state.is_some() {
            parts |= HAS_CLUSTER_STATE;
        }
        if self.unsynced_boot.is_some() {
            parts |= HAS_BOOT;
        }
        if self.platform.is_some() {
            parts |= HAS_PLATFORM;
        }
        bytes.push(parts);
        bytes.extend_from_slice(self.unsynced_boot.as_ref().map_or(&[], |boot| &boot.0[..]));
        if let Some(platform) = self.platform {
            bytes.extend_from_slice(&platform.0.to_le_bytes());
        }
        bytes.extend_from_slice(self.cluster_state.as_deref().unwrap_or_default());
        let checksum = checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, StorageError> {
        let damaged = |what: &str| StorageError::damaged(path, 0, what);
        if bytes.len() < HEADER_BYTES || bytes[..8] != MAGIC {
            return Err(damaged("it is no node state"));
        }
        let number = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        if number(8) >> 32 != u64::from(checksum(bytes)) {
            return Err(damaged("its checksum does not match"));
        }
        let format = number(8) & u64::from(u32::MAX);
        if format > u64::from(FORMAT) {
            return Err(StorageError::Newer {
                file: path.to_owned(),
                found: format,
                known: u64::from(FORMAT),
            });
        }
        let parts = bytes[HEADER_BYTES - 1];
        let rest = &bytes[HEADER_BYTES..];
        let (unsynced_boot, rest) = match rest.split_first_chunk() {
            Some((boot, rest)) if parts & HAS_BOOT != 0 => (Some(BootId(*boot)), rest),
            _ => (None, rest),
        };
        let (platform, cluster_state) = match rest.split_first_chunk() {
            Some((platform, rest)) if parts & HAS_PLATFORM != 0 => {
                (Some(PlatformId(u128::from_le_bytes(*platform))), rest)
            }
            _ => (None, rest),
        };
        Ok(Self {
            log_id: LogId(number(16)),
            promised: Epoch(number(24)),
            cluster_state: (parts & HAS_CLUSTER_STATE != 0)
                .then(|| Bytes::copy_from_slice(cluster_state)),
            unsynced_boot,
            platform,
        })
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Tear, TestDisk};

    fn open(disk: &TestDisk) -> NodeState {
        NodeState::open(Arc::new(disk.clone()), Path::new("/n")).unwrap()
    }

    #[test]
    fn a_promise_is_never_lowered_nor_a_state_forgotten() {
        let disk = TestDisk::default();
        let state = open(&disk);
        assert_eq!(state.facts(), None);
        state.set_log_id(LogId(7)).unwrap();
        state
            .promise(Epoch(5), Some(Bytes::from_static(b"five")))
            .unwrap();
        state.set_unsynced_boot(Some(BootId([8; 16]))).unwrap();
        state.set_platform(PlatformId(9 << 100)).unwrap();
        state.promise(Epoch(4), None).unwrap();
        let expected = NodeFacts {
            log_id: LogId(7),
            promised: Epoch(5),
            cluster_state: Some(Bytes::from_static(b"five")),
            unsynced_boot: Some(BootId([8; 16])),
            platform: Some(PlatformId(9 << 100)),
        };
        assert_eq!(state.facts(), Some(expected.clone()));
        let again = open(&disk);
        assert_eq!(again.facts(), Some(expected.clone()));
        again.set_unsynced_boot(None).unwrap();
        let expected = NodeFacts {
            unsynced_boot: None,
            ..expected
        };
        assert_eq!(open(&disk).facts(), Some(expected));
    }

    #[test]
    fn a_promise_survives_a_crash_once_it_returned() {
        for seed in 0..200 {
            let mut disk = TestDisk::default();
            let mut promised = 0;
            for step in 1..6 {
                // Some syncs fail, so that a crash also meets a half-made change.
                disk.fail_syncs_after(seed % 3);
                let state = open(&disk);
                for epoch in [step * 10, step * 10 + 1, step * 10 + 2] {
                    let filling = vec![7; usize::try_from(epoch * 20).unwrap()];
                    if state.promise(Epoch(epoch), Some(filling.into())).is_err() {
                        break;
                    }
                    promised = epoch;
                }
                disk = disk.crash(seed * 10 + step, Tear::AnyOrder);
                let found = open(&disk).facts().unwrap_or_default();
                assert!(found.promised.0 >= promised, "seed {seed} lost a promise");
                let length = found.cluster_state.map_or(0, |state| state.len());
                assert_eq!(length as u64, found.promised.0 * 20);
                promised = found.promised.0;
            }
        }
    }

    #[test]
    fn damage_is_refused() {
        let disk = TestDisk::default();
        open(&disk).promise(Epoch(5), None).unwrap();
        disk.damage(Path::new("/n/node-state"), 25, &[1]);
        let refused = NodeState::open(Arc::new(disk), Path::new("/n"));
        assert!(matches!(refused, Err(StorageError::Damaged { .. })));
    }
}
