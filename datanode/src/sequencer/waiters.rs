//! Who waits for the commit of which record.

use std::collections::VecDeque;

use tierkv_types::Index;
use tokio::sync::oneshot;

/// Told once the records up to an index are committed, applied and invalidated.
pub(crate) struct Waiter {
    index: Index,
    done: oneshot::Sender<()>,
}

impl Waiter {
    pub(crate) fn done(self) {
        // A peer that went away needs no answer.
        let _ = self.done.send(());
    }
}

/// Those who wait, in the order of their indexes.
#[derive(Default)]
pub(super) struct Waiters(VecDeque<Waiter>);

impl Waiters {
    /// Waits for a record.
    pub(super) fn wait(&mut self, index: Index) -> oneshot::Receiver<()> {
        let (done, committed) = oneshot::channel();
        // Mostly the last.
        let place = self.0.partition_point(|waiter| waiter.index <= index);
        self.0.insert(place, Waiter { index, done });
        committed
    }

    /// Those who wait for records up to `index`; they wait no more.
    pub(super) fn take_up_to(&mut self, index: Index) -> Vec<Waiter> {
        let count = self.0.partition_point(|waiter| waiter.index <= index);
        self.0.drain(..count).collect()
    }
}
