//! Runs blocking work outside of async tasks.

use crate::StorageError;

/// Where blocking work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocking {
    /// On a thread for blocking work.
    Threads,
    /// On the caller's thread: a simulation has one thread, and its disk never blocks.
    #[cfg_attr(not(any(test, feature = "conformance")), allow(dead_code))]
    Here,
}

impl Blocking {
    /// Runs the work and waits for it; see [`blocking`].
    pub(crate) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        match self {
            Self::Threads => blocking(work).await,
            Self::Here => work(),
        }
    }
}

/// Runs blocking work on a thread for it. The work runs to its end even if the caller is
/// dropped, unless the runtime shuts down.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(StorageError::Closed),
    }
}
