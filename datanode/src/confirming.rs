//! [`Confirming`]: proofs that a read sees everything from before its arrival (REP-CONFIRM), at a
//! master and at a replica.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tierkv_storage::Storage;
use tierkv_types::{Error, Version, moving_average};
use tokio::time::{Instant, sleep, timeout};

use crate::{commit_index::CommitIndex, sequencer::Sequencer};

/// A read that can do without a proof waits for one for so many times as long as proofs usually take,
/// within these bounds. Users would notice a longer wait, and one more miss costs less. Where members
/// are far from each other, all proofs take long, and without them nothing would be cached.
const SOON_TIMES: u32 = 2;
const SOON: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(20)..=Duration::from_millis(250);
/// A new duration counts this part in the moving average. It is small, so that the second in which a
/// member is silent does not count as usual.
const AVERAGE_PART: u32 = 32;
/// How long a proof that is late is tried at once, and the pause before it is tried again.
const LATE_TIME: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The proofs of one node.
pub(crate) struct Confirming {
    sequencer: Arc<Sequencer>,
    storage: Arc<Storage>,
    commit_index: CommitIndex,
    /// Whether the last proof took too long. Until one succeeds, reads that can do without don't
    /// wait.
    is_overdue: AtomicBool,
    usual: Usual,
}

/// A moving average of how long proofs take, in microseconds.
#[derive(Debug, Default)]
struct Usual(AtomicU64);

impl Usual {
    fn sample(&self, took: Duration) {
        // Of two that write together one may be lost.
        let average = moving_average(self.average(), took, AVERAGE_PART);
        let micros = u64::try_from(average.as_micros()).unwrap_or(u64::MAX);
        self.0.store(micros, Ordering::Relaxed);
    }

    fn average(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }

    /// How long is soon.
    fn soon(&self) -> Duration {
        (self.average() * SOON_TIMES).clamp(*SOON.start(), *SOON.end())
    }
}

impl Confirming {
    pub(crate) fn new(
        sequencer: Arc<Sequencer>,
        storage: Arc<Storage>,
        commit_index: CommitIndex,
    ) -> Self {
        Self {
            sequencer,
            storage,
            commit_index,
            is_overdue: AtomicBool::new(false),
            usual: Usual::default(),
        }
    }

    /// Waits until this node has applied everything from before the call, as its master proves.
    /// Returns the clock by which the read judges expiry.
    ///
    /// # Errors
    /// `NotMaster` if this node neither is master nor hears one.
    pub(crate) async fn confirm(&self) -> Result<Version, Error> {
        if self.sequencer.is_acting() {
            return self.sequencer.confirm_read().await;
        }
        let confirmed = self.commit_index.ask().await?;
        self.sequencer.until_applied(confirmed.index).await;
        Ok(confirmed.clock.max(self.storage.applied().1))
    }

    /// As [`Confirming::confirm`], for reads that can do without a proof; `None` if there is none
    /// soon.
    pub(crate) async fn soon(self: &Arc<Self>) -> Option<Version> {
        if self.is_overdue() {
            return None;
        }
        match timeout(self.usual.soon(), self.timed()).await {
            Ok(confirmed) => confirmed.ok(),
            Err(_) => {
                self.overdue();
                None
            }
        }
    }

    async fn timed(&self) -> Result<Version, Error> {
        let begun = Instant::now();
        let confirmed = self.confirm().await?;
        self.usual.sample(begun.elapsed());
        Ok(confirmed)
    }

    /// Whether a proof takes long now.
    pub(crate) fn is_overdue(&self) -> bool {
        self.is_overdue.load(Ordering::Acquire)
    }

    /// A proof took too long: tries in the background until one does not.
    fn overdue(self: &Arc<Self>) {
        if self.is_overdue.swap(true, Ordering::AcqRel) {
            return;
        }
        let confirming = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(confirming) = confirming.upgrade() {
                let begun = Instant::now();
                let confirmed = timeout(LATE_TIME, confirming.timed()).await;
                if matches!(confirmed, Ok(Ok(_))) && begun.elapsed() <= confirming.usual.soon() {
                    confirming.is_overdue.store(false, Ordering::Release);
                    return;
                }
                drop(confirming);
                sleep(RETRY_PAUSE).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn soon_follows_what_is_usual_slowly() {
        let usual = Usual::default();
        assert_eq!(usual.soon(), *SOON.start());
        for _ in 0..200 {
            usual.sample(MILLI);
        }
        assert_eq!(usual.soon(), *SOON.start());
        // The second in which a member is silent.
        for _ in 0..6 {
            usual.sample(150 * MILLI);
        }
        assert!(usual.soon() < 60 * MILLI, "{:?}", usual.soon());
        // Members on two continents.
        for _ in 0..200 {
            usual.sample(80 * MILLI);
        }
        assert!(usual.soon() > 150 * MILLI, "{:?}", usual.soon());
        for _ in 0..500 {
            usual.sample(2_000 * MILLI);
        }
        assert_eq!(usual.soon(), *SOON.end());
    }
}
