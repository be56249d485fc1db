//! What stands behind a membership or a candidacy: a claim that its holder can give back.

use async_trait::async_trait;

use crate::error::CoordinationError;

/// A backend's side of one claim. A claim that was lost or given back already is given
/// back again without effect, so neither call can hit a successor of the same name.
#[async_trait]
pub(crate) trait Lease: Send + Sync {
    /// Gives the claim back and waits until it is.
    async fn release(&self) -> Result<(), CoordinationError>;

    /// Gives the claim back without waiting, as well as that can be done.
    fn abandon(&self);
}

/// A claim that is abandoned when it is dropped before its release succeeded.
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
