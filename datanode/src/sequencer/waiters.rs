//! Who waits for the commit of which record.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tierkv_types::Index;
use tokio::sync::oneshot;

/// So many may wait before it is looked who gave up.
const FEW: usize = 1_024;

/// Who is told once the records up to an index are committed, applied and invalidated.
struct Waiter {
    index: Index,
    done: oneshot::Sender<()>,
}

/// Those who wait for one commit, which is applied, to be out of the cache too. Others may
/// join them until it is.
#[derive(Clone)]
pub(crate) struct Settling(Arc<Mutex<Option<Vec<oneshot::Sender<()>>>>>);

impl Settling {
    /// It is out of the cache, or was waited for long enough.
    pub(crate) fn done(self) {
        for waiter in self.lock().take().into_iter().flatten() {
            // A peer that went away needs no answer.
            let _ = waiter.send(());
        }
    }

    /// Waits as well; `None` if nobody has to wait any more.
    fn join(&self) -> Option<oneshot::Receiver<()>> {
        let (done, settled) = oneshot::channel();
        self.lock().as_mut()?.push(done);
        Some(settled)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<oneshot::Sender<()>>>> {
        // No step in between leaves it unsound.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those who wait.
#[derive(Default)]
pub(super) struct Waiters {
    /// For records that are not applied yet, in the order of their indexes.
    ahead: VecDeque<Waiter>,
    /// At so many of them, those who gave up are let go of.
    many: usize,
    /// For the last commit that was applied. Commits settle in their order.
    settling: Option<Settling>,
}

impl Waiters {
    /// Waits for a record that is not applied yet.
    pub(super) fn wait(&mut self, index: Index) -> oneshot::Receiver<()> {
        if self.ahead.len() >= self.many.max(FEW) {
            // While a disk stalls, those come and give up.
            self.ahead.retain(|waiter| !waiter.done.is_closed());
            self.many = 2 * self.ahead.len();
        }
        let (done, committed) = oneshot::channel();
        // Mostly the last.
        let place = self.ahead.partition_point(|waiter| waiter.index <= index);
        self.ahead.insert(place, Waiter { index, done });
        committed
    }

    /// Waits until everything that is applied is out of the cache too; `None` if it is.
    pub(super) fn wait_for_applied(&self) -> Option<oneshot::Receiver<()>> {
        self.settling.as_ref()?.join()
    }

    /// The records up to `index` are applied: those who wait for them wait for the cache
    /// alone.
    pub(super) fn applied(&mut self, index: Index) -> Settling {
        let count = self.ahead.partition_point(|waiter| waiter.index <= index);
        let rest = self.ahead.split_off(count);
        let applied = mem::replace(&mut self.ahead, rest);
        let waiters = applied.into_iter().map(|waiter| waiter.done).collect();
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
