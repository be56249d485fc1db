//! The conditions of a write: absent, present, or of a version. Only a put makes sense for an
//! absent key.

use clap::Args;
use tierkv::Condition;

use crate::number;

/// At most one condition on the key that is set.
#[derive(Args)]
#[group(multiple = false)]
pub(super) struct ConditionArguments {
    /// Only if the key is absent; exits 1 otherwise.
    #[arg(long)]
    if_absent: bool,
    /// Only if the key is there; exits 1 otherwise.
    #[arg(long)]
    if_present: bool,
    /// Only if the key has this version; exits 1 otherwise.
    #[arg(long, value_name = "VERSION", value_parser = number::unsigned)]
    if_version: Option<u64>,
}

/// At most one condition on a key that must be there.
#[derive(Args)]
#[group(multiple = false)]
pub(super) struct PresenceArguments {
    /// Only if the key is there; exits 1 otherwise.
    #[arg(long)]
    if_present: bool,
    /// Only if the key has this version; exits 1 otherwise.
    #[arg(long, value_name = "VERSION", value_parser = number::unsigned)]
    if_version: Option<u64>,
}

impl PresenceArguments {
    pub(super) const fn condition(&self) -> Option<Condition> {
        match self.if_version {
            Some(version) => Some(Condition::Version(version)),
            None if self.if_present => Some(Condition::Present),
            None => None,
        }
    }
}

impl ConditionArguments {
    pub(super) const fn condition(&self) -> Option<Condition> {
        match self.if_version {
            Some(version) => Some(Condition::Version(version)),
            None if self.if_absent => Some(Condition::Absent),
            None if self.if_present => Some(Condition::Present),
            None => None,
        }
    }
}
