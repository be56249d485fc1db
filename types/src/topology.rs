//! The roles and health of processes, as operators see them: closed lists of names.
//!
//! A peer of a newer release may have a role that this release does not have. It is read as
//! `Unknown`, so that no status call fails because of it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Declares an enum whose variants have names. Its last variant is always `Unknown`.
macro_rules! named {
    (
        $(#[$about:meta])*
        $type:ident {
            $( $(#[$meaning:meta])+ $variant:ident = $name:literal, )+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $type {
            $( $(#[$meaning])+ #[serde(rename = $name)] $variant, )+
            /// A role of another release.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl $type {
            /// All variants, in the order of the declaration.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )+ Self::Unknown];

            /// The name in tables and in JSON.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $( Self::$variant => $name, )+
                    Self::Unknown => "unknown",
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

named! {
    /// The role of a data node in its cluster.
    NodeRole {
        /// Takes the cluster's writes.
        Master = "master",
        /// Follows the master's log, and is in sync.
        Replica = "replica",
        /// Holds the mastership and does not serve yet.
        TakingOver = "taking_over",
        /// Catches up with its master's log.
        Joining = "joining",
        /// Gets the log, and becomes a member once it has caught up.
        Learner = "learner",
        /// Has started, or lost its master, and hears none.
        Starting = "starting",
        /// Did not answer the coordinator that asked.
        Unreachable = "unreachable",
    }
}

named! {
    /// The role of a coordinator in its tier.
    CoordinatorRole {
        /// The elected server coordinator.
        Primary = "primary",
        /// A server coordinator that may succeed the primary.
        Backup = "backup",
        /// A client coordinator; all of them are equal.
        Serving = "serving",
    }
}

named! {
    /// Whether the store of the platform's metadata answers.
    CoordinationHealth {
        /// It answered a linearizable read.
        Up = "up",
        /// It did not answer.
        Down = "down",
    }
}

named! {
    /// Whether a cache node answers.
    CacheHealth {
        /// It answers.
        Up = "up",
        /// It does not answer.
        Down = "down",
    }
}
