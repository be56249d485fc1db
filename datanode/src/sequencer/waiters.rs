//! [`Waiters`]: the answers that wait for the commit of a record.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tierkv_types::Index;
use tokio::sync::oneshot;

/// With fewer waiters than this, those that gave up are not looked for.
const FEW: usize = 1_024;

/// Is notified once the records up to an index are committed, applied and invalidated.
struct Waiter {
    index: Index,
    done: oneshot::Sender<()>,
}

/// The waiters of one commit that is applied: they wait until its keys are deleted from the
/// cache. More waiters may join until then.
#[derive(Clone)]
pub(crate) struct Settling(Arc<Mutex<Option<Vec<oneshot::Sender<()>>>>>);

impl Settling {
    /// Notifies them: the keys are deleted from the cache, or the wait for that timed out.
    pub(crate) fn done(self) {
        for waiter in self.lock().take().into_iter().flatten() {
            // A dropped receiver needs no answer.
            let _ = waiter.send(());
        }
    }

    /// Adds a waiter; `None` if the waiters were already notified.
    fn join(&self) -> Option<oneshot::Receiver<()>> {
        let (done, settled) = oneshot::channel();
        self.lock().as_mut()?.push(done);
        Some(settled)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<oneshot::Sender<()>>>> {
        // A panic between steps leaves the value valid.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All waiters of a sequencer.
#[derive(Default)]
pub(super) struct Waiters {
    /// For records that are not applied yet, in the order of their indexes.
    ahead: VecDeque<Waiter>,
    /// At this length of `ahead`, waiters that gave up are removed.
    many: usize,
    /// Those of the last applied commit. Commits settle in order.
    settling: Option<Settling>,
}

impl Waiters {
    /// Adds a waiter for a record that is not applied yet.
    pub(super) fn wait(&mut self, index: Index) -> oneshot::Receiver<()> {
        if self.ahead.len() >= self.many.max(FEW) {
            // While a disk stalls, waiters come and give up.
            self.ahead.retain(|waiter| !waiter.done.is_closed());
            self.many = 2 * self.ahead.len();
        }
        let (done, committed) = oneshot::channel();
        // Mostly at the end.
        let place = self.ahead.partition_point(|waiter| waiter.index <= index);
        self.ahead.insert(place, Waiter { index, done });
        committed
    }

    /// Waits until all applied changes are deleted from the cache; `None` if they are.
    pub(super) fn wait_for_applied(&self) -> Option<oneshot::Receiver<()>> {
        self.settling.as_ref()?.join()
    }

    /// Ends all waits for records that are not applied yet: whether they commit is unknown.
    pub(super) fn give_up(&mut self) {
        self.ahead.clear();
    }

    /// Records that the records up to `index` are applied: their waiters now wait only for the
    /// cache.
    pub(super) fn applied(&mut self, index: Index) -> Settling {
        let count = self.ahead.partition_point(|waiter| waiter.index <= index);
        let waiters = self.ahead.drain(..count).map(|waiter| waiter.done);
        let waiters = waiters.collect();
        let settling = Settling(Arc::new(Mutex::new(Some(waiters))));
        self.settling = Some(settling.clone());
        settling
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_gave_up_are_not_kept() {
        let mut waiters = Waiters::default();
        let patient: Vec<_> = (0..700).map(|_| waiters.wait(Index(5))).collect();
        for _ in 0..100 * FEW {
            drop(waiters.wait(Index(3)));
            assert!(waiters.ahead.len() <= 2 * FEW);
        }
        waiters.applied(Index(5)).done();
        for mut waiter in patient {
            assert_eq!(waiter.try_recv(), Ok(()));
        }
    }
}
