//! Watches: a listener always ends on the newest state (COORD-WATCH).

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{config::Versioned, error::CoordinationError};

/// Notification of changes of records.
#[async_trait]
pub trait Watch: Send + Sync {
    /// Follows one record; `None` while it is absent.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad key; `Unavailable` or `Closed` if the first state can't be read.
    async fn watch(&self, key: &str) -> Result<Watched<Option<Versioned>>, CoordinationError>;

    /// Follows all records whose keys begin with `prefix`, as plain text; an empty prefix follows
    /// all records.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    async fn watch_prefix(
        &self,
        prefix: &str,
    ) -> Result<Watched<BTreeMap<String, Versioned>>, CoordinationError>;
}

/// A state that changes elsewhere, with notification of changes.
///
/// The usual loop: read [`current`](Self::current), act on it, await [`changed`](Self::changed),
/// repeat. It may skip states and may see one twice, but it always ends on the newest
/// (COORD-WATCH).
pub struct Watched<T> {
    receiver: watch::Receiver<Arc<T>>,
}

impl<T> Watched<T> {
    pub(crate) const fn new(receiver: watch::Receiver<Arc<T>>) -> Self {
        Self { receiver }
    }

    /// A watch fed by the caller through the sender, for backends of tests.
    #[cfg(feature = "conformance")]
    #[must_use]
    pub fn channel(state: T) -> (watch::Sender<Arc<T>>, Self) {
        let (sender, receiver) = watch::channel(Arc::new(state));
        (sender, Self::new(receiver))
    }

    /// The newest state received. It stays readable after the end of the watch.
    #[must_use]
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.receiver.borrow())
    }

    /// Waits for a change since the last call (at first, since the start of the watch). Cancelling
    /// it loses nothing.
    ///
    /// # Errors
    /// `Closed` when the store is gone and its last state was returned.
    pub async fn changed(&mut self) -> Result<(), CoordinationError> {
        self.receiver
            .changed()
            .await
            .map_err(|_| CoordinationError::Closed)
    }

    /// Waits for a state that satisfies `wanted` and returns it; the current one counts.
    ///
    /// # Errors
    /// `Closed` when the store is gone and its last state did not satisfy `wanted`.
    pub async fn wait_for(
        &mut self,
        mut wanted: impl FnMut(&T) -> bool,
    ) -> Result<Arc<T>, CoordinationError> {
        match self.receiver.wait_for(|state| wanted(state)).await {
            Ok(state) => Ok(Arc::clone(&state)),
            Err(_) => Err(CoordinationError::Closed),
        }
    }
}

impl<T> Clone for Watched<T> {
    /// An independent listener that has seen the same states as this one.
    fn clone(&self) -> Self {
        Self {
            receiver: self.receiver.clone(),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watched").field(&self.current()).finish()
    }
}
