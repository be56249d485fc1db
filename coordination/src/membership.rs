//! Groups of live processes, with a few bytes about each.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    error::CoordinationError,
    lease::{Held, Lease},
    watch::Watched,
};

/// Joining groups, and observing their members.
///
/// A group need not be created: it consists of its members. Group names follow the rules of keys; a
/// member's name has no `/`. A process that dies leaves once its lease has expired.
#[async_trait]
pub trait GroupMembership: Send + Sync {
    /// Joins `group` under the name `member`, with `data` for others to read.
    ///
    /// # Errors
    /// `AlreadyExists` while a live member has this name: choose another, or wait until its lease
    /// expires. `InvalidArgument` for bad names or too much data. `Unavailable` or `Closed` if the
    /// store can't answer; then there is no membership, or its lease expires by itself.
    async fn join(
        &self,
        group: &str,
        member: &str,
        data: Bytes,
    ) -> Result<Membership, CoordinationError>;

    /// The current members, with their data.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad name; `Unavailable` or `Closed` if the store can't answer.
    async fn list(&self, group: &str) -> Result<BTreeMap<String, Bytes>, CoordinationError>;

    /// Follows the members.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    async fn observe(
        &self,
        group: &str,
    ) -> Result<Watched<BTreeMap<String, Bytes>>, CoordinationError>;

    /// A number that is higher once the store may have let all leases begin anew, those of dead
    /// processes among them, as of the last answer. For a store that never does, always 0.
    fn lease_restarts(&self) -> u64 {
        0
    }
}

/// A membership in a group, held until it is left, dropped or lost.
///
/// **COORD-LEASE**: its loss is signalled here before another can have the name. Dropping it
/// leaves, without waiting for the store.
#[must_use = "dropping a membership leaves the group"]
pub struct Membership {
    lost: watch::Receiver<bool>,
    held: Held,
}

impl Membership {
    /// `lost` becomes true, or its sender is dropped, when the membership is lost.
    pub(crate) fn new(lost: watch::Receiver<bool>, lease: impl Lease + 'static) -> Self {
        Self {
            lost,
            held: Held::new(lease),
        }
    }

    /// Whether the membership is lost, by the clock of this moment.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.held.is_over() || self.lost.has_changed().is_err() || *self.lost.borrow()
    }

    /// Waits until the membership is lost: then stop acting as a member, and join again. Cancelling
    /// it loses nothing.
    pub async fn lost(&mut self) {
        if self.held.is_over() {
            return;
        }
        // A dropped sender means that the store is gone, and the membership with it.
        let _ = self.lost.wait_for(|lost| *lost).await;
    }

    /// Leaves; returns once others can have the name. For a lost membership there is nothing to do.
    ///
    /// # Errors
    /// `Unavailable` if the store can't be reached: others see the member until its lease expires.
    pub async fn leave(self) -> Result<(), CoordinationError> {
        self.held.release().await
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership")
            .field("lost", &self.is_lost())
            .finish_non_exhaustive()
    }
}
