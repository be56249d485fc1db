//! The one failure that ends a node's storage.

use tokio::sync::watch;

use crate::StorageError;

/// Set once, by whoever finds that storage can't go on: a failed write or fsync leaves
/// the state of the file unknown, so nothing is retried and the process must stop.
#[derive(Debug)]
pub(crate) struct Failure(watch::Sender<Option<StorageError>>);

impl Failure {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Records the failure, unless one is recorded already.
    pub(crate) fn set(&self, error: StorageError) {
        self.0.send_if_modified(|failure| {
            let first = failure.is_none();
            if first {
                tracing::error!(%error, "storage has failed, the node must stop");
                *failure = Some(error);
            }
            first
        });
    }

    pub(crate) fn get(&self) -> Option<StorageError> {
        self.0.borrow().clone()
    }

    /// Resolves when storage has failed, and only then.
    pub(crate) async fn wait(&self) -> StorageError {
        let mut failure = self.0.subscribe();
        match failure.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(error)) => error.clone(),
            // The sender is `self`, so it can't be gone.
            Ok(None) | Err(_) => StorageError::Closed,
        }
    }
}
