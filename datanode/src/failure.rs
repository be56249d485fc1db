//! [`Failure`]: why a node must stop, reported by the tasks that it can't do without.

use std::{future::Future, panic::AssertUnwindSafe};

use futures::FutureExt;
use tokio::sync::watch;

/// The reason why a node must stop. Cheap to clone; the first reason that a task reports stays.
#[derive(Clone, Debug)]
pub(crate) struct Failure(watch::Sender<Option<String>>);

impl Failure {
    /// No failure yet.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Gets the reason once there is one.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<String>> {
        self.0.subscribe()
    }

    /// Runs a task that the node can't do without: its error is the node's failure, and so is a
    /// panic in it. (Where a panic aborts, the process is gone.)
    pub(crate) async fn watch(
        self,
        name: &'static str,
        task: impl Future<Output = Result<(), String>> + Send,
    ) {
        let why = match AssertUnwindSafe(task).catch_unwind().await {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why,
            Err(_) => format!("the data node's {name} panicked; standard error has the message"),
        };
        self.report(why);
    }

    /// Reports a reason.
    pub(crate) fn report(&self, why: String) {
        tracing::error!(why, "the data node stops");
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(why);
            is_first
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_error_or_panic_is_the_reason() {
        let failure = Failure::new();
        let reason = failure.subscribe();
        failure.clone().watch("driver", async { Ok(()) }).await;
        assert_eq!(*reason.borrow(), None);
        let panics = async { panic!("this panic is part of a test") };
        failure.clone().watch("driver", panics).await;
        let first = reason.borrow().clone().unwrap();
        assert!(first.contains("the data node's driver panicked"), "{first}");
        let fails = async { Err("no disk".to_owned()) };
        failure.watch("listener", fails).await;
        assert_eq!(*reason.borrow(), Some(first));
    }

    #[tokio::test]
    async fn an_error_is_the_reason() {
        let failure = Failure::new();
        let reason = failure.subscribe();
        let fails = async { Err("no disk".to_owned()) };
        failure.watch("driver", fails).await;
        assert_eq!(reason.borrow().as_deref(), Some("no disk"));
    }
}
