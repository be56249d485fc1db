//! Why a server could not be started, stopped or reached.

use std::{io, time::Duration};

/// A failure of the harness; its message names the server and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server's binary is not on this machine.
    #[error("{program} was not found; {remedy}")]
    Missing {
        /// The binary that was looked for.
        program: String,
        /// How to get it.
        remedy: String,
    },
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The error of the system.
        source: io::Error,
    },
    /// The server ended unexpectedly.
    #[error("{name} ended with {status}; its log ends:\n{log}")]
    Ended {
        /// The server's name.
        name: String,
        /// Its exit status.
        status: String,
        /// The last lines of its log.
        log: String,
    },
    /// A small disk could not be mounted.
    #[error(
        "a small disk can't be mounted: that needs user and mount namespaces for unprivileged \
         users (sysctl user.max_user_namespaces and user.max_mnt_namespaces over 0, \
         kernel.unprivileged_userns_clone = 1 and \
         kernel.apparmor_restrict_unprivileged_userns = 0 where they exist); the output:\n{log}"
    )]
    NoSmallDisk {
        /// What the attempt printed.
        log: String,
    },
    /// A network could not be made.
    #[error(
        "a network with lines to cut can't be made: that needs user, network, process and mount \
         namespaces for unprivileged users (sysctl user.max_user_namespaces and the like over 0, \
         kernel.unprivileged_userns_clone = 1 and \
         kernel.apparmor_restrict_unprivileged_userns = 0 where they exist), and the kernel's \
         bridge and veth; the output:\n{log}"
    )]
    NoNetwork {
        /// What the attempt printed.
        log: String,
    },
    /// A test that ran again in a namespace failed.
    #[error("the test {test} failed in a network namespace of its own; its output is above")]
    FailedInside {
        /// The test.
        test: String,
    },
    /// The server did not reach a state in time.
    #[error("{name} did not {what} within {waited:?}; its log ends:\n{log}")]
    TimedOut {
        /// The server's name.
        name: String,
        /// What it should have done, after "did not".
        what: &'static str,
        /// The timeout.
        waited: Duration,
        /// The last lines of its log.
        log: String,
    },
    /// The output of the server was not as expected.
    #[error("{name} {what}; its log ends:\n{log}")]
    Unexpected {
        /// The server's name.
        name: String,
        /// What was wrong.
        what: String,
        /// The last lines of its log.
        log: String,
    },
}

impl Error {
    /// Whether the server ended because another process took its port.
    pub(crate) fn is_port_race(&self) -> bool {
        let Self::Ended { log, .. } = self else {
            return false;
        };
        log.to_ascii_lowercase().contains("address already in use")
    }
}

/// Adds the attempted action to an I/O error.
pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}
