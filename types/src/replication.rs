//! The names and numbers of replication: nodes, clusters, epochs, positions.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::code::Error;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The number before the first.
            pub const ZERO: Self = Self(0);

            /// The next number.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number! {
    /// A term of mastership (or of the primary's office): at most one holder each (I2).
    Epoch
}
number! {
    /// A record's place in a cluster's log; the first record has index 1.
    Index
}
number! {
    /// The number of a heartbeat round of one master (REP-ROUND).
    Round
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }
    };
}

random_id! {
    /// A log's random name, made with the log (REP-LOGID).
    LogId
}
random_id! {
    /// One run of a process: acknowledgements count only for the run that sent them (REP-START).
    Incarnation
}

/// A platform's random name, made with its first coordination record: two platforms may use the
/// same addresses and the same names of nodes. As text, 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PlatformId(pub u128);

impl fmt::Display for PlatformId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for PlatformId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_hex
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten())
        .map(Self)
        .ok_or_else(|| Error::invalid("a platform's id is 32 hexadecimal digits"))
    }
}

impl TryFrom<String> for PlatformId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<PlatformId> for String {
    fn from(id: PlatformId) -> Self {
        id.to_string()
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Checks a name: 1 to 63 of `a-z`, `0-9`, `_` and `-`, a letter or digit first.
            ///
            /// # Errors
            /// `InvalidArgument` if it is not.
            pub fn new(name: &str) -> Result<Self, Error> {
                match crate::key::Namespace::new(name) {
                    Ok(_) if !name.is_empty() => Ok(Self(name.into())),
                    _ => Err(Error::invalid(concat!(
                        "the name of a ", $what, " is 1 to 63 of a-z, 0-9, _ and -"
                    ))),
                }
            }

            /// The name itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(name: String) -> Result<Self, Error> {
                Self::new(&name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A data cluster's name (`c1`).
    ClusterId, "cluster"
}
name! {
    /// A node's name, chosen by its operator and kept over restarts (`n1`).
    NodeId, "node"
}

/// The position of a record: its index and the epoch that wrote it.
///
/// Positions are ordered by epoch first; so are two logs of one cluster compared.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Position {
    /// The epoch of the master that appended the record.
    pub epoch: Epoch,
    /// The record's index.
    pub index: Index,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_name_is_refused_also_when_deserialised() {
        assert!(ClusterId::new("c1").is_ok());
        assert!(ClusterId::new("").is_err());
        assert!(ClusterId::new("C1").is_err());
    }

    #[test]
    fn a_later_epoch_outranks_a_longer_log() {
        let position = |epoch, index| Position {
            epoch: Epoch(epoch),
            index: Index(index),
        };
        assert!(position(2, 1) > position(1, 100));
    }
}
