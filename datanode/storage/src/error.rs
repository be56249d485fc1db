//! Why storage could not do what it was asked.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::io::Errno;
use tierkv_types::{Code, Error};

/// A refusal or failure of a node's storage. It is cheap to clone, because a failure of
/// the log is told to everyone who waits for it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// Another process uses the directory.
    #[error("{} is in use by another process; stop that one, or choose another directory", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// What is on disk is not what was written there. It is never served nor cut off.
    #[error(
        "{} is damaged at {place}: {what}; `tierkv admin recover --data-dir DIR` says what can \
         be kept", file.display()
    )]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// Where in it: a byte offset, a row.
        place: String,
        /// What is wrong there.
        what: String,
    },
    /// The log was written without a sync a record, and the machine has been restarted
    /// since: what was acknowledged last may be missing (REP-LOGID).
    #[error(
        "the log in {} was written with wal.sync = interval, and the machine was restarted \
         since without a clean stop: acknowledged writes may be missing; to go on with what \
         is there, run `tierkv admin recover --data-dir DIR`", dir.display()
    )]
    Unsynced {
        /// The node's directory.
        dir: PathBuf,
    },
    /// What is there does not make a whole, and no part of it can be given up soundly.
    #[error(
        "{} can't be recovered from what is in its directory: {what}; bring a backup of the \
         whole directory back, or begin with an empty one", file.display()
    )]
    Unrecoverable {
        /// The file that misses something.
        file: PathBuf,
        /// What is missing.
        what: String,
    },
    /// A file was written by a newer release.
    #[error("{} has format {found}, this release knows formats up to {known}; run the newer release", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format version.
        found: u64,
        /// The newest format version that this release knows.
        known: u64,
    },
    /// The disk is full. Nothing was done, and the node lives.
    #[error("no space left for {}; free some", file.display())]
    NoSpace {
        /// What could not grow.
        file: PathBuf,
    },
    /// The process, or the machine, has as many files open as it may. Nothing was done, and
    /// the node lives.
    #[error(
        "{} can't be opened, for all file descriptors are in use; close connections, or raise \
         the limit (ulimit -n)", file.display()
    )]
    NoDescriptors {
        /// What could not be opened.
        file: PathBuf,
    },
    /// A named limit is reached. Nothing was done.
    #[error("the limit {limit} of {bytes} bytes is reached; wait for room, or send less")]
    Exhausted {
        /// The limit's name.
        limit: &'static str,
        /// Its value.
        bytes: u64,
    },
    /// A named limit of things that are open at once is reached. Nothing was done.
    #[error("the limit {limit} of {count} is reached; wait until one of them ends")]
    TooManyOpen {
        /// The limit's name.
        limit: &'static str,
        /// Its value.
        count: usize,
    },
    /// Snapshots have kept the store from tidying up for too long: none is opened until it
    /// has. Nothing was done.
    #[error("snapshots must pause until the store has tidied up; try again in a moment")]
    Untidy,
    /// Storage is closing or closed. Nothing was done.
    #[error("storage is closed; retry when the node is back")]
    Closed,
    /// Something else holds the store for the moment, or checkpoints outran a read.
    #[error("the store is busy; retry")]
    Busy,
    /// A newer process has taken the store over: this one must stop.
    #[error("a newer process has taken over {}; this one must stop", dir.display())]
    Superseded {
        /// The node's directory.
        dir: PathBuf,
    },
    /// The operating system failed a file operation.
    #[error("could not {action} {}: {source}; check the disk, then restart the node", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The SQL store failed.
    #[error(
        "the store {} could not {action}: {source}; check the disk, then restart the node",
        path.display()
    )]
    Sql {
        /// What was tried.
        action: &'static str,
        /// The store's file.
        path: PathBuf,
        /// What the driver said.
        source: Arc<sqlx::Error>,
    },
}

impl StorageError {
    /// The failure of `action` on `path`; what is short for the moment is told apart from a
    /// broken disk.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace {
                file: path.to_owned(),
            },
            _ if is_out_of_descriptors(&source) => Self::NoDescriptors {
                file: path.to_owned(),
            },
            _ => Self::Io {
                action,
                path: path.to_owned(),
                source: Arc::new(source),
            },
        }
    }

    pub(crate) fn damaged(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged {
            file: file.to_owned(),
            place: format!("offset {offset}"),
            what: what.into(),
        }
    }

    /// Whether disk space or descriptors are short: writes are refused, and it is tried
    /// again until there are some (LOG-SPACE).
    #[must_use]
    pub const fn is_shortage(&self) -> bool {
        matches!(self, Self::NoSpace { .. } | Self::NoDescriptors { .. })
    }

    /// Whether the node lives on and may try again later.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::NoSpace { .. }
                | Self::NoDescriptors { .. }
                | Self::Exhausted { .. }
                | Self::TooManyOpen { .. }
                | Self::Untidy
                | Self::Busy
        )
    }

    /// The error as other tiers see it; details of this machine stay in its log.
    #[must_use]
    pub fn to_error(&self) -> Error {
        match self {
            Self::Exhausted { limit, bytes } => Error::exhausted(format!(
                "the data node's limit {limit} of {bytes} bytes is reached; send less or retry later"
            )),
            Self::TooManyOpen { limit, count } => Error::exhausted(format!(
                "the data node's limit {limit} of {count} is reached; retry when one of them ended"
            )),
            Self::Untidy => Error::exhausted(
                "scans must pause until the data node's store has tidied up; try again in a moment",
            ),
            Self::NoSpace { .. } => {
                Error::exhausted("the data node has no disk space left; free some, then retry")
            }
            Self::NoDescriptors { .. } => Error::exhausted(
                "the data node can't open another file, for all file descriptors are in use; \
                 close connections or raise the limit (ulimit -n), then retry",
            ),
            Self::Closed
            | Self::Locked { .. }
            | Self::Superseded { .. }
            | Self::Unsynced { .. } => {
                Error::unavailable("the data node's storage is closed; retry")
            }
            Self::Busy => Error::unavailable("the data node's store is busy; retry"),
            Self::Damaged { .. } | Self::Unrecoverable { .. } => Error::new(
                Code::DataLoss,
                "stored data is damaged; see the data node's log and tell an operator",
            ),
            Self::Newer { .. } | Self::Io { .. } | Self::Sql { .. } => Error::new(
                Code::Internal,
                "the data node's storage has failed; see its log and tell an operator",
            ),
        }
    }
}

/// Whether a file can't be opened because too many are.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}
