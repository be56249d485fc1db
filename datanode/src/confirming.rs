//! [`Confirming`]: proofs that a read sees everything from before its arrival (REP-CONFIRM), at a
//! master and at a replica.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tierkv_storage::Storage;
use tierkv_types::{Error, Version};
use tokio::time::{sleep, timeout};

use crate::{commit_index::CommitIndex, sequencer::Sequencer};

/// How long a read that can do without a proof waits for one. Users would notice a longer wait, and
/// one miss more costs less.
pub(crate) const SOON: Duration = Duration::from_millis(20);
/// Pause before a proof is tried again while it takes longer than that.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The proofs of one node.
pub(crate) struct Confirming {
    sequencer: Arc<Sequencer>,
    storage: Arc<Storage>,
    commit_index: CommitIndex,
    /// Whether the last proof took too long. Until one succeeds, reads that can do without don't
    /// wait.
    is_overdue: AtomicBool,
}

impl Confirming {
    pub(crate) fn new(
        sequencer: Arc<Sequencer>,
        storage: Arc<Storage>,
        commit_index: CommitIndex,
    ) -> Self {
        Self {
            sequencer,
            storage,
            commit_index,
            is_overdue: AtomicBool::new(false),
        }
    }

    /// Waits until this node has applied everything from before the call, as its master proves.
    /// Returns the clock by which the read judges expiry.
    ///
    /// # Errors
    /// `NotMaster` if this node neither is master nor hears one.
    pub(crate) async fn confirm(&self) -> Result<Version, Error> {
        if self.sequencer.is_acting() {
            return self.sequencer.confirm_read().await;
        }
        let confirmed = self.commit_index.ask().await?;
        self.sequencer.until_applied(confirmed.index).await;
        Ok(confirmed.clock.max(self.storage.applied().1))
    }

    /// As [`Confirming::confirm`], for reads that can do without a proof; `None` if it takes longer
    /// than [`SOON`].
    pub(crate) async fn soon(self: &Arc<Self>) -> Option<Version> {
        if self.is_overdue() {
            return None;
        }
        match timeout(SOON, self.confirm()).await {
            Ok(confirmed) => confirmed.ok(),
            Err(_) => {
                self.overdue();
                None
            }
        }
    }

    /// Whether a proof takes long now.
    pub(crate) fn is_overdue(&self) -> bool {
        self.is_overdue.load(Ordering::Acquire)
    }

    /// A proof took too long: tries in the background until one does not.
    fn overdue(self: &Arc<Self>) {
        if self.is_overdue.swap(true, Ordering::AcqRel) {
            return;
        }
        let confirming = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(confirming) = confirming.upgrade() {
                if let Ok(Ok(_)) = timeout(SOON, confirming.confirm()).await {
                    confirming.is_overdue.store(false, Ordering::Release);
                    return;
                }
                drop(confirming);
                sleep(RETRY_PAUSE).await;
            }
        });
    }
}
