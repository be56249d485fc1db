//! A node's directory: its lock, and how its log is synced.

use std::{path::Path, sync::Arc};

use tierkv_types::PlatformId;

use crate::{
    Disk, StorageError, StorageSettings, WalSync, disk::DiskLock, log::LogPlace,
    node_state::NodeState,
};

/// Makes the directories, locks them, reads the node state, and checks whether they are of the
/// platform of `settings` and whether the log may lack acknowledged writes. Blocks.
pub(crate) fn enter(
    settings: &StorageSettings,
    disk: Arc<dyn Disk>,
) -> Result<(Arc<dyn DiskLock>, NodeState), StorageError> {
    let dir = &settings.dir;
    let boot = disk.boot_id();
    let boot = boot.map_err(|error| StorageError::io("learn the boot of", dir, error))?;
    disk.create_dir(&dir.join("log"))
        .and_then(|()| disk.sync_dir(dir))
        .map_err(|error| StorageError::io("make", dir, error))?;
    let lock = lock(dir, &*disk)?;
    let node_state = NodeState::open(disk, dir)?;
    let facts = node_state.facts();
    if let Some(expected) = settings.platform {
        check_platform(
            dir,
            facts.as_ref().and_then(|facts| facts.platform),
            expected,
        )?;
    }
    let unsynced = facts.and_then(|facts| facts.unsynced_boot);
    if unsynced.is_some_and(|unsynced| unsynced != boot) {
        return Err(StorageError::Unsynced { dir: dir.clone() });
    }
    Ok((Arc::from(lock), node_state))
}

/// The platform that the node of this directory belongs to, if it is known. Blocks.
///
/// # Errors
/// If the directory can't be read, or its node state is damaged or of a newer release.
pub fn platform_of(disk: Arc<dyn Disk>, dir: &Path) -> Result<Option<PlatformId>, StorageError> {
    let node_state = NodeState::open(disk, dir)?;
    Ok(node_state.facts().and_then(|facts| facts.platform))
}

/// Checks that the node of a directory belongs to the `expected` platform, or to none yet.
///
/// # Errors
/// [`StorageError::OtherPlatform`].
pub fn check_platform(
    dir: &Path,
    found: Option<PlatformId>,
    expected: PlatformId,
) -> Result<(), StorageError> {
    match found {
        Some(found) if found != expected => Err(StorageError::OtherPlatform {
            dir: dir.to_owned(),
            found,
            expected,
        }),
        Some(_) | None => Ok(()),
    }
}

/// Takes the lock of a node's directory. Blocks.
pub(crate) fn lock(dir: &Path, disk: &dyn Disk) -> Result<Box<dyn DiskLock>, StorageError> {
    let locked = disk.lock(&dir.join("lock"));
    let locked = locked.map_err(|error| StorageError::io("lock", dir, error))?;
    locked.ok_or_else(|| StorageError::Locked {
        dir: dir.to_owned(),
    })
}

/// Records in the node state how the log will be synced. If every record is to be durable from
/// now on, first syncs what an earlier process of this boot wrote. Blocks.
pub(crate) fn enter_sync_mode(place: &LogPlace, state: &NodeState) -> Result<(), StorageError> {
    let fail = |error| StorageError::io("learn the boot of", &place.dir, error);
    match place.sync {
        WalSync::Interval(_) => state.set_unsynced_boot(Some(place.disk.boot_id().map_err(fail)?)),
        WalSync::Always | WalSync::Never => {
            // What an earlier process wrote without a sync may be only in the page cache, and can't
            // be distinguished from the rest by reading.
            place.sync_all()?;
            state.set_unsynced_boot(None)
        }
    }
}
