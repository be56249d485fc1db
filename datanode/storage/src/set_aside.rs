//! Sets data aside that a node can't use, when its cluster has all of it elsewhere (REP-LOGID).
//!
//! A single node refuses to start on damaged data, because only an operator can decide what may be
//! lost. A node of a cluster in which another log is in sync loses nothing: it sets the data aside,
//! starts with a new log, and gets everything from its master. Which of the two holds is the
//! caller's to know.
//!
//! ```text
//!   1  a damaged node state is set aside               (else it keeps promise, cluster state, platform)
//!   2  the node state gets a log id that no file has   (a start refuses the old log from now)
//!   3  the segments of the log are set aside, newest first
//!   4  the store is set aside                          (only if it can't be used itself)
//! ```
//!
//! After a crash between two steps, a start refuses the log, finds none and begins one with a new
//! id, or finds nothing at all. A file that is set aside gets an ending to its name; it replaces
//! the one that was set aside before, so that at most one copy of the data is kept.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tierkv_types::LogId;

use crate::{
    Disk, StorageError, StorageSettings,
    blocking::blocking,
    directory::lock,
    log::LogPlace,
    node_state::{NodeFacts, NodeState},
    recovery, store,
};

/// The ending of files that are set aside.
pub(crate) const ENDING: &str = ".before-rejoin";

/// Which part of a node's data can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The log or the node state: both are set aside as far as they are damaged, and the store is
    /// kept. It has committed records only.
    Log,
    /// The store: it is set aside with the log.
    Store,
}

impl StorageError {
    /// Which part of the node's data is not usable as it is; `None` if the error has another cause:
    /// then nothing may be set aside.
    #[must_use]
    pub fn unusable(&self) -> Option<Unusable> {
        match self {
            Self::Damaged { file, .. } | Self::Unrecoverable { file, .. } => {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                Some(match name.starts_with(recovery::STORE_FILE) {
                    true => Unusable::Store,
                    false => Unusable::Log,
                })
            }
            Self::Unsynced { .. } => Some(Unusable::Log),
            _ => None,
        }
    }
}

/// Sets data aside in the directory of a node that does not run. Returns the new names of the
/// files. After a failure it may be repeated.
///
/// # Errors
/// `Locked` while its storage is open; `OtherPlatform` if the directory belongs to another
/// platform; `Newer` if a newer release wrote the node state; failures of the disk.
pub async fn set_aside(
    settings: StorageSettings,
    disk: Arc<dyn Disk>,
    unusable: Unusable,
) -> Result<Vec<PathBuf>, StorageError> {
    blocking(move || carry_out(&settings, &disk, unusable)).await
}

fn carry_out(
    settings: &StorageSettings,
    disk: &Arc<dyn Disk>,
    unusable: Unusable,
) -> Result<Vec<PathBuf>, StorageError> {
    let dir = &settings.dir;
    let _lock = lock(dir, &**disk)?;
    let place = recovery::place(disk, settings);
    let mut set_aside = Vec::new();
    let state = match NodeState::open(Arc::clone(disk), dir) {
        Err(StorageError::Damaged { .. }) => {
            set_aside.extend(NodeState::set_aside(&**disk, dir, ENDING)?);
            NodeState::open(Arc::clone(disk), dir)?
        }
        opened => opened?,
    };
    let facts = state.facts().unwrap_or_default();
    if let Some(expected) = settings.platform {
        crate::check_platform(dir, facts.platform, expected)?;
    }
    state.restore(NodeFacts {
        log_id: LogId(rand::random::<u64>().max(1)),
        unsynced_boot: None,
        ..facts
    })?;
    set_aside.extend(log(&place)?);
    if unusable == Unusable::Store {
        let path = dir.join(recovery::STORE_FILE);
        let is_there = exists(&**disk, &path)?;
        if is_there {
            remove_earlier(&**disk, dir, recovery::STORE_FILE)?;
        }
        set_aside.extend(store::set_aside(&**disk, &path, ENDING, settings.sync)?);
    }
    for file in &set_aside {
        tracing::warn!(file = %file.display(), "set aside a file; it is not read any more");
    }
    Ok(set_aside)
}

/// Renames every segment of the log, newest first, and removes those that were set aside before;
/// durable on return.
fn log(place: &LogPlace) -> Result<Vec<PathBuf>, StorageError> {
    let mut numbers = place.numbers()?;
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    remove_earlier(&*place.disk, &place.dir, "")?;
    let mut set_aside = Vec::new();
    numbers.reverse();
    for number in numbers {
        let path = place.path(number);
        let mut aside = path.clone().into_os_string();
        aside.push(ENDING);
        let renamed = place.disk.rename(&path, aside.as_ref());
        renamed.map_err(|error| StorageError::io("set aside", &path, error))?;
        set_aside.push(aside.into());
    }
    place.flush_names()?;
    Ok(set_aside)
}

/// Removes the files that were set aside before and whose names begin with `begin`.
fn remove_earlier(disk: &dyn Disk, dir: &Path, begin: &str) -> Result<(), StorageError> {
    for name in names(disk, dir)? {
        if name.starts_with(begin) && name.contains(ENDING) {
            let path = dir.join(name);
            let removed = disk.remove(&path);
            removed.map_err(|error| StorageError::io("remove", &path, error))?;
        }
    }
    Ok(())
}

fn exists(disk: &dyn Disk, path: &Path) -> Result<bool, StorageError> {
    let names = names(disk, path.parent().unwrap_or(path))?;
    Ok(names.iter().any(|name| {
        path.file_name()
            .is_some_and(|wanted| wanted == name.as_str())
    }))
}

fn names(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, StorageError> {
    match disk.list(dir) {
        Ok(names) => Ok(names),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(StorageError::io("list", dir, error)),
    }
}
