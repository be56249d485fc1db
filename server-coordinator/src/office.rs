//! The election of the primary, and the work that only the primary does.

use std::sync::Arc;

use tierkv_coordination::{
    Candidacy, Coordination, CoordinationError, Standing, Swap,
    directory::{PLACEMENT, PRIMARY, Presence},
};
use tierkv_protocol::placement::{PlacementError, PlacementMap, WeightedCluster};
use tierkv_rpc::{Pace, Worker};
use tierkv_types::Epoch;
use tokio::{
    sync::watch,
    time::{Duration, sleep},
};

/// Pause before a retry at coordination.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The role of this coordinator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Office {
    /// The epoch of its primacy; `None` for a backup.
    pub(crate) primary: Option<Epoch>,
}

/// Stands for primary again and again, and does the primary's work while it is primary.
pub(crate) struct OfficeKeeper {
    pub(crate) node: String,
    pub(crate) presence: Presence,
    pub(crate) coordination: Arc<dyn Coordination>,
    pub(crate) initial_clusters: Vec<WeightedCluster>,
    pub(crate) office: watch::Sender<Office>,
}

impl Worker for OfficeKeeper {
    fn name(&self) -> &'static str {
        "office"
    }

    fn is_cancellable(&self) -> bool {
        // Cancelling resigns, so that a backup need not wait.
        true
    }

    async fn work(&mut self) -> Pace {
        let ended = self.one_candidacy().await;
        self.office.send_replace(Office::default());
        match ended {
            Ok(()) => Pace::Busy,
            Err(error) => {
                tracing::warn!(%error, "the candidacy for primary ended");
                match error {
                    CoordinationError::Closed => Pace::Done,
                    _ => Pace::Retry(RETRY_PAUSE),
                }
            }
        }
    }
}

impl OfficeKeeper {
    /// One candidacy, from nomination to its loss. Dropping it resigns.
    async fn one_candidacy(&self) -> Result<(), CoordinationError> {
        let data = self.presence.encode();
        let mut candidacy = self
            .coordination
            .nominate(PRIMARY, &self.node, data)
            .await?;
        let Some(epoch) = candidacy.leading().await else {
            return Ok(());
        };
        tracing::info!(node = self.node, %epoch, "elected primary");
        self.office.send_replace(Office {
            primary: Some(epoch),
        });
        tokio::select! {
            // A coordinator that lost the election is not primary; other errors no longer matter.
            biased;
            () = lost(&mut candidacy) => {}
            ended = self.serve_as_primary() => ended?,
        }
        lost(&mut candidacy).await;
        Ok(())
    }

    /// Creates the placement map if there is none; a later primary finds it.
    async fn serve_as_primary(&self) -> Result<(), CoordinationError> {
        let map = match PlacementMap::initial(self.initial_clusters.clone()) {
            Ok(map) => map,
            Err(error @ PlacementError::NoCluster) => {
                return Err(CoordinationError::InvalidArgument(error.to_string()));
            }
            Err(error) => return Err(CoordinationError::Storage(error.to_string())),
        };
        loop {
            match self
                .coordination
                .put_if_absent(PLACEMENT, map.encode())
                .await
            {
                Ok(Swap::Won(_)) => tracing::info!(version = map.version, "founded the placement"),
                Ok(Swap::Lost) => {}
                Err(CoordinationError::Unavailable(_) | CoordinationError::OutcomeUnknown(_)) => {
                    // A retry settles it: if our change was made, the next one loses.
                    sleep(RETRY_PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            return Ok(());
        }
    }
}

async fn lost(candidacy: &mut Candidacy) {
    while candidacy.standing() != Standing::Lost {
        candidacy.changed().await;
    }
}
