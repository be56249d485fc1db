//! Groups: who is here, with a few bytes about each.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    error::CoordinationError,
    lease::{Held, Lease},
    watch::Watched,
};

/// Joining groups and seeing who is in them.
///
/// A group needs no creation: it is its members. Group names follow the rules of keys;
/// a member's name has no `/`. A process that dies leaves once its lease ran out.
#[async_trait]
pub trait GroupMembership: Send + Sync {
    /// Joins `group` under the name `member`, with `data` for others to read.
    ///
    /// # Errors
    /// `AlreadyExists` while a living member has this name: choose another, or wait for
    /// the end of its lease. `InvalidArgument` for bad names or too much data.
    /// `Unavailable` or `Closed` if the store can't be asked; then nobody joined, or its
    /// lease runs out unheld.
    async fn join(
        &self,
        group: &str,
        member: &str,
        data: Bytes,
    ) -> Result<Membership, CoordinationError>;

    /// The members now, with their data.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad name; `Unavailable` or `Closed` if it can't be asked.
    async fn list(&self, group: &str) -> Result<BTreeMap<String, Bytes>, CoordinationError>;

    /// Follows the members.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    async fn observe(
        &self,
        group: &str,
    ) -> Result<Watched<BTreeMap<String, Bytes>>, CoordinationError>;
}

/// A place in a group, held until it is left, dropped or lost.
///
/// **COORD-LEASE**: its loss is signalled here before another can have the name.
/// Dropping it leaves as well as that can be done without waiting.
#[must_use = "dropping a membership leaves the group"]
pub struct Membership {
    lost: watch::Receiver<bool>,
    held: Held,
}

impl Membership {
    /// `lost` turns true, or its sender goes, when the place is lost.
    pub(crate) fn new(lost: watch::Receiver<bool>, lease: impl Lease + 'static) -> Self {
        Self {
            lost,
            held: Held::new(lease),
        }
    }

    /// Whether the place is lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.has_changed().is_err() || *self.lost.borrow()
    }

    /// Waits until the place is lost: then stop acting as a member, and join again.
    /// Cancelling it loses nothing.
    pub async fn lost(&mut self) {
        // A sender that is gone means that the store is: the place went with it.
        let _ = self.lost.wait_for(|lost| *lost).await;
    }

    /// Leaves, and returns when others can have the name. A lost place is left already.
    ///
    /// # Errors
    /// `Unavailable` if the store can't be told: others see the member until its lease
    /// runs out.
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
