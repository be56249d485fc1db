//! Elections: at most one leader at a time, each with an epoch that fences the earlier.

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

/// Standing for election and seeing who leads.
///
/// Candidates lead in the order of their nomination. Election names follow the rules of
/// keys; a candidate's name has no `/`.
#[async_trait]
pub trait LeaderElection: Send + Sync {
    /// Stands for `election` under the name `candidate`, with `data` for others to read
    /// once it leads (an address, say).
    ///
    /// # Errors
    /// `AlreadyExists` while a living candidate has this name: choose another, or wait for
    /// the end of its lease. `InvalidArgument` for bad names or too much data.
    /// `Unavailable`, `Storage` or `Closed` if the store can't take it; then nobody stands,
    /// or its lease runs out unheld.
    async fn nominate(
        &self,
        election: &str,
        candidate: &str,
        data: Bytes,
    ) -> Result<Candidacy, CoordinationError>;

    /// Follows who leads; `None` while nobody does.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad name; `Unavailable` or `Closed` if it can't be asked.
    async fn observe_leader(
        &self,
        election: &str,
    ) -> Result<Watched<Option<Leader>>, CoordinationError>;
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The candidate's name.
    pub candidate: String,
    /// What it told about itself.
    pub data: Bytes,
    /// The epoch that it won: above that of every leader before it, of this election.
    pub epoch: Epoch,
}

/// How a candidate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Another leads, or the vote is still out.
    Waiting,
    /// This candidate leads, and signs what it does with this epoch.
    Leading(Epoch),
    /// This candidacy is over: stop acting for it, then stand again.
    Lost,
}

/// A candidacy, held until it is resigned, dropped or lost.
///
/// **COORD-LEASE**: its loss is signalled here before another can lead. Dropping it
/// resigns as well as that can be done without waiting.
#[must_use = "dropping a candidacy resigns it"]
pub struct Candidacy {
    standing: watch::Receiver<Standing>,
    held: Held,
}

impl Candidacy {
    /// `standing` only goes from waiting over leading to lost; a sender that goes means
    /// lost too.
    pub(crate) fn new(standing: watch::Receiver<Standing>, lease: impl Lease + 'static) -> Self {
        Self {
            standing,
            held: Held::new(lease),
        }
    }

    /// How it stands at this moment.
    #[must_use]
    pub fn standing(&self) -> Standing {
        if self.standing.has_changed().is_err() {
            return Standing::Lost;
        }
        *self.standing.borrow()
    }

    /// Waits for the standing to change and returns the newest; a change since the last
    /// call (since nomination, for the first) is returned at once, and so is
    /// [`Standing::Lost`], again and again. Cancelling it loses nothing.
    pub async fn changed(&mut self) -> Standing {
        match self.standing.changed().await {
            Ok(()) => *self.standing.borrow_and_update(),
            Err(_) => Standing::Lost,
        }
    }

    /// Waits until this candidate leads and returns its epoch; `None` if the candidacy is
    /// lost first. Cancelling it loses nothing.
    pub async fn leading(&mut self) -> Option<Epoch> {
        loop {
            match self.standing() {
                Standing::Leading(epoch) => return Some(epoch),
                Standing::Lost => return None,
                Standing::Waiting => self.changed().await,
            };
        }
    }

    /// Stands down, and returns when the next may lead. Stop acting as leader before.
    ///
    /// # Errors
    /// `Unavailable` if the store can't be told: the next leads once the lease ran out.
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
