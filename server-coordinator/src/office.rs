//! The election of the primary.

use std::sync::Arc;

use tierkv_coordination::{
    Candidacy, Coordination, CoordinationError, Standing,
    directory::{PRIMARY, Presence},
};
use tierkv_rpc::{Pace, Worker};
use tierkv_types::Epoch;
use tokio::{sync::watch, time::Duration};

/// Pause before a retry at coordination.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The role of this coordinator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Office {
    /// The epoch of its primacy; `None` for a backup.
    pub(crate) primary: Option<Epoch>,
}

/// Stands for primary again and again.
pub(crate) struct OfficeKeeper {
    pub(crate) node: String,
    pub(crate) presence: Presence,
    pub(crate) coordination: Arc<dyn Coordination>,
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
        lost(&mut candidacy).await;
        Ok(())
    }
}

async fn lost(candidacy: &mut Candidacy) {
    while candidacy.standing() != Standing::Lost {
        candidacy.changed().await;
    }
}
