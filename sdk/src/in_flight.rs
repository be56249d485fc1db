//! The attempts of one write that are not answered yet.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use tokio::time::{Instant, timeout_at};

/// At most one attempt at each coordinator.
pub(crate) struct InFlight<F> {
    attempts: Vec<(usize, Pin<Box<F>>)>,
}

impl<F: Future> InFlight<F> {
    pub(crate) const fn none() -> Self {
        Self {
            attempts: Vec::new(),
        }
    }

    /// Adds the attempt at the coordinator of this place.
    pub(crate) fn push(&mut self, place: usize, attempt: F) {
        self.attempts.push((place, Box::pin(attempt)));
    }

    /// Whether an attempt at the coordinator of this place is not answered yet.
    pub(crate) fn is_at(&self, place: usize) -> bool {
        self.attempts.iter().any(|(at, _)| *at == place)
    }

    pub(crate) fn len(&self) -> usize {
        self.attempts.len()
    }

    /// Waits for the next answer, until `patience`; `None` if none came.
    pub(crate) async fn next(&mut self, patience: Option<Instant>) -> Option<F::Output> {
        let answered = poll_fn(|context| {
            for at in 0..self.attempts.len() {
                if let Poll::Ready(answer) = self.attempts[at].1.as_mut().poll(context) {
                    self.attempts.swap_remove(at);
                    return Poll::Ready(answer);
                }
            }
            Poll::Pending
        });
        match patience {
            Some(patience) => timeout_at(patience, answered).await.ok(),
            None => Some(answered.await),
        }
    }
}
