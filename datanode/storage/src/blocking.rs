//! Work that blocks, out of the way of tasks.

use crate::StorageError;

/// Where work that blocks is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocking {
    /// On a thread that may block.
    Threads,
    /// Where it is asked for: a simulation has one thread, and a disk that answers at once.
    #[cfg_attr(not(any(test, feature = "conformance")), allow(dead_code))]
    Here,
}

impl Blocking {
    /// Does the work and waits for its end; see [`blocking`].
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

/// Runs what blocks on a thread that may. It runs to its end, also when the caller goes
/// away; it does not when the runtime is shutting down.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(StorageError::Closed),
    }
}
