//! Elections: at most one leader at a time, each with an epoch that fences earlier ones.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use tierkv_types::Epoch;
use tokio::sync::watch;

use crate::{
    error::CoordinationError,
    lease::{Held, Lease},
    watch::Watched,
};

/// Standing for election, and observing the leader.
///
/// Candidates lead in the order of their nomination. Election names follow the rules of
/// keys; a candidate's name has no `/`.
#[async_trait]
pub trait LeaderElection: Send + Sync {
    /// Stands for `election` under the name `candidate`. Once it leads, others can read `data` (an
    /// address, for example).
    ///
    /// # Errors
    /// `AlreadyExists` while a live candidate has this name: choose another, or wait until its
    /// lease expires. `InvalidArgument` for bad names or too much data. `Unavailable`, `Storage` or
    /// `Closed` if the store can't answer; then there is no candidacy, or its lease expires by
    /// itself.
    async fn nominate(
        &self,
        election: &str,
        candidate: &str,
        data: Bytes,
    ) -> Result<Candidacy, CoordinationError>;

    /// Follows the leader; `None` while there is none.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad name; `Unavailable` or `Closed` if the store can't answer.
    async fn observe_leader(
        &self,
        election: &str,
    ) -> Result<Watched<Option<Leader>>, CoordinationError>;
}

/// The leader of an election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The candidate's name.
    pub candidate: String,
    /// The candidate's data.
    pub data: Bytes,
    /// The epoch that it won: above that of every earlier leader of this election.
    pub epoch: Epoch,
}

/// The state of a candidacy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Another leads, or the election is still open.
    Waiting,
    /// This candidate leads; it must use this epoch in what it does.
    Leading(Epoch),
    /// This candidacy is over: stop acting as leader, then stand again.
    Lost,
}

/// A candidacy, held until it is resigned, dropped or lost.
///
/// **COORD-LEASE**: its loss is signalled here before another can lead. Dropping it resigns,
/// without waiting for the store.
#[must_use = "dropping a candidacy resigns it"]
pub struct Candidacy {
    standing: watch::Receiver<Standing>,
    held: Held,
}

impl Candidacy {
    /// `standing` only goes from waiting to leading to lost; a dropped sender means lost, too.
    pub(crate) fn new(standing: watch::Receiver<Standing>, lease: impl Lease + 'static) -> Self {
        Self {
            standing,
            held: Held::new(lease),
        }
    }

    /// The current state, by the clock of this moment: a process that was paused for longer than
    /// its lease does not see itself as the leader.
    #[must_use]
    pub fn standing(&self) -> Standing {
        if self.held.is_over() || self.standing.has_changed().is_err() {
            return Standing::Lost;
        }
        *self.standing.borrow()
    }

    /// Waits for a change of the state and returns the newest. A change since the last call (at
    /// first, since nomination) is returned at once; [`Standing::Lost`] is returned at once by
    /// every call. Cancelling it loses nothing.
    pub async fn changed(&mut self) -> Standing {
        if self.held.is_over() {
            return Standing::Lost;
        }
        match self.standing.changed().await {
            Ok(()) if !self.held.is_over() => *self.standing.borrow_and_update(),
            _ => Standing::Lost,
        }
    }

    /// Waits until this candidate leads; returns its epoch, or `None` if the candidacy is lost
    /// first. Cancelling it loses nothing.
    pub async fn leading(&mut self) -> Option<Epoch> {
        loop {
            match self.standing() {
                Standing::Leading(epoch) => return Some(epoch),
                Standing::Lost => return None,
                Standing::Waiting => self.changed().await,
            };
        }
    }

    /// Resigns; returns once the next can lead. Stop acting as leader before.
    ///
    /// # Errors
    /// `Unavailable` if the store can't be reached: the next leads once the lease has expired.
    pub async fn resign(self) -> Result<(), CoordinationError> {
        self.held.release().await
    }
}

impl fmt::Debug for Candidacy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidacy")
            .field("standing", &self.standing())
            .finish_non_exhaustive()
    }
}
