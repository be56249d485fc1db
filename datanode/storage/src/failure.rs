//! [`Failure`]: the first failure that stops a node's storage.

use tokio::sync::watch;

use crate::StorageError;

/// Set once, when storage can't continue: after a failed write or fsync the state of the file
/// is unknown, so nothing is retried and the process must stop.
#[derive(Debug)]
pub(crate) struct Failure(watch::Sender<Option<StorageError>>);

impl Failure {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Records the failure, unless there is an earlier one.
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

    /// Waits until storage has failed.
    pub(crate) async fn wait(&self) -> StorageError {
        let mut failure = self.0.subscribe();
        match failure.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(error)) => error.clone(),
            // The sender is in `self`, so it is not dropped.
            Ok(None) | Err(_) => StorageError::Closed,
        }
    }
}
