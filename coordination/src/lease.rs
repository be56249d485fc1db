//! The backend's side of a membership or a candidacy: a claim that its holder can release.

use async_trait::async_trait;

use crate::error::CoordinationError;

/// A backend's side of one claim. Releasing a claim that was lost or released before has no effect,
/// so it can't hit a successor of the same name.
#[async_trait]
pub(crate) trait Lease: Send + Sync {
    /// Releases the claim and waits until it is released.
    async fn release(&self) -> Result<(), CoordinationError>;

    /// Starts to release the claim, without waiting.
    fn abandon(&self);

    /// Whether the claim is lost by the clock, even if its signal is still to come: a process that
    /// was paused may read its standing before its timers have run.
    fn is_over(&self) -> bool {
        false
    }
}

/// A claim that is abandoned when dropped before a successful release.
pub(crate) struct Held {
    lease: Box<dyn Lease>,
    released: bool,
}

impl Held {
    pub(crate) fn new(lease: impl Lease + 'static) -> Self {
        Self {
            lease: Box::new(lease),
            released: false,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.lease.is_over()
    }

    pub(crate) async fn release(mut self) -> Result<(), CoordinationError> {
        self.lease.release().await?;
        self.released = true;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.released {
            self.lease.abandon();
        }
    }
}
