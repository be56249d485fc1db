//! [`StorageError`]: the errors of a node's storage.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::io::Errno;
use tierkv_types::{Code, Error, PlatformId};

/// An error of a node's storage. It is cheap to clone, because a failure of the log is
/// returned to every caller that waits for it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// Another process uses the directory.
    #[error("{} is in use by another process; stop that one, or choose another directory", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// Data on disk is not what was written. It is never served and never cut off.
    #[error(
        "{} is damaged at {place}: {what}; `tierkv admin recover --data-dir DIR` shows what can \
         be kept", file.display()
    )]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// The place in the file: a byte offset or a row.
        place: String,
        /// The damage.
        what: String,
    },
    /// The directory belongs to another platform.
    #[error(
        "{} belongs to platform {found}, but coordination has platform {expected}: set \
         coordination.url to that of the directory's platform, or choose another directory",
        dir.display()
    )]
    OtherPlatform {
        /// The node's directory.
        dir: PathBuf,
        /// The platform of the directory.
        found: PlatformId,
        /// The platform in coordination.
        expected: PlatformId,
    },
    /// The log was written without a sync for each record, and the machine was restarted
    /// since: the last acknowledged writes may be missing (REP-LOGID).
    #[error(
        "the log in {} was written with wal.sync = interval, and the machine was restarted \
         since without a clean stop: acknowledged writes may be missing; to continue without \
         them, run `tierkv admin recover --data-dir DIR`", dir.display()
    )]
    Unsynced {
        /// The node's directory.
        dir: PathBuf,
    },
    /// The directory lacks data, and no part of it can be given up to make it consistent.
    #[error(
        "{} can't be recovered from its directory: {what}; restore a backup of the whole \
         directory, or start with an empty one", file.display()
    )]
    Unrecoverable {
        /// The incomplete file.
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
    /// The disk is full. Nothing was done; the node keeps running.
    #[error("no disk space left for {}; free some", file.display())]
    NoSpace {
        /// The file that could not grow.
        file: PathBuf,
    },
    /// All file descriptors of the process or the machine are in use. Nothing was done; the
    /// node keeps running.
    #[error(
        "{} can't be opened: all file descriptors are in use; close connections, or raise the \
         limit (ulimit -n)", file.display()
    )]
    NoDescriptors {
        /// The file that could not be opened.
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
    /// A named limit of things open at once is reached. Nothing was done.
    #[error("the limit {limit} of {count} is reached; wait until one of them ends")]
    TooManyOpen {
        /// The limit's name.
        limit: &'static str,
        /// Its value.
        count: usize,
    },
    /// Open snapshots have kept the store from truncating its write-ahead file for too long. No
    /// new snapshot is opened until it has done so. Nothing was done.
    #[error("the store must truncate its write-ahead file before the next snapshot; retry")]
    Untidy,
    /// The snapshot that is being installed is not whole, or its parts do not fit each other. The
    /// node is empty; the installation can begin anew.
    #[error("the snapshot can't be installed: {what}; install another one")]
    UnsoundSnapshot {
        /// What is missing or does not fit.
        what: String,
    },
    /// The log's next file is being allocated, which takes a moment. Nothing was done.
    #[error("the log's next file is being allocated; wait for room, then retry")]
    Growing,
    /// The end of the log is being cut off, which takes a moment. Nothing was done.
    #[error("the end of the log is being cut off; retry when that is done")]
    Truncating,
    /// Storage is closing or closed. Nothing was done.
    #[error("storage is closed; retry when the node is back")]
    Closed,
    /// The store is locked, or checkpoints ended during each try of a read.
    #[error("the store is busy; retry")]
    Busy,
    /// A newer process has claimed the store: this one must stop.
    #[error("a newer process has taken over {}; this one must stop", dir.display())]
    Superseded {
        /// The node's directory.
        dir: PathBuf,
    },
    /// The operating system failed a file operation.
    #[error("could not {action} {}: {source}; check the disk, then restart the node", path.display())]
    Io {
        /// The operation that failed.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The SQL store failed.
    #[error(
        "the store {} could not {action}: {source}; check the disk, then restart the node",
        path.display()
    )]
    Sql {
        /// The operation that failed.
        action: &'static str,
        /// The store's file.
        path: PathBuf,
        /// The driver's error.
        source: Arc<sqlx::Error>,
    },
}

impl StorageError {
    /// The error of `action` on `path`. A shortage of space or descriptors has its own variant,
    /// apart from a broken disk.
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

    /// Whether disk space or descriptors are short: writes are refused, and the operation is
    /// retried until there are some (LOG-SPACE).
    #[must_use]
    pub const fn is_shortage(&self) -> bool {
        matches!(self, Self::NoSpace { .. } | Self::NoDescriptors { .. })
    }

    /// Whether the node keeps running and may retry later.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::NoSpace { .. }
                | Self::NoDescriptors { .. }
                | Self::Exhausted { .. }
                | Self::TooManyOpen { .. }
                | Self::Untidy
                | Self::UnsoundSnapshot { .. }
                | Self::Growing
                | Self::Truncating
                | Self::Busy
        )
    }

    /// The error sent to other tiers; details of this machine stay in its log.
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
                "the data node's store must truncate its write-ahead file before a new scan; retry",
            ),
            Self::NoSpace { .. } => {
                Error::exhausted("the data node has no disk space left; free some, then retry")
            }
            Self::NoDescriptors { .. } => Error::exhausted(
                "the data node can't open another file: all file descriptors are in use; close \
                 connections or raise the limit (ulimit -n), then retry",
            ),
            Self::Closed
            | Self::Locked { .. }
            | Self::Superseded { .. }
            | Self::Unsynced { .. }
            | Self::OtherPlatform { .. } => {
                Error::unavailable("the data node's storage is closed; retry")
            }
            Self::UnsoundSnapshot { .. } => {
                Error::unavailable("the data node is installing a snapshot; retry")
            }
            Self::Busy => Error::unavailable("the data node's store is busy; retry"),
            Self::Growing => {
                Error::unavailable("the data node allocates the next file of its log; retry")
            }
            Self::Truncating => {
                Error::unavailable("the data node cuts off the end of its log; retry")
            }
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

/// Whether a file can't be opened because all descriptors are in use.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}
