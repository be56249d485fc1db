//! Random delays of answers.

use std::{future::poll_fn, task::Poll};

use tokio::time::{Duration, sleep};

use super::chance::Chance;

/// The delays of a simulated part before and after a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Most steps of other tasks during a delay.
    pub(super) steps: u64,
    /// Long delays of a hundred.
    pub(super) late: u32,
    /// The longest of these, in milliseconds of virtual time; not 0.
    pub(super) late_millis: u64,
}

impl Pace {
    /// Without delays.
    pub(super) const PROMPT: Self = Self {
        steps: 0,
        late: 0,
        late_millis: 1,
    };

    /// Waits for a random time.
    pub(super) async fn wait(self, chance: &Chance) {
        for _ in 0..chance.below(self.steps + 1) {
            give_way().await;
        }
        if chance.percent(self.late) {
            sleep(Duration::from_millis(1 + chance.below(self.late_millis))).await;
        }
    }
}

/// Pending once and woken at once, so that any other task may be polled first.
pub(super) async fn give_way() {
    let mut gave_way = false;
    poll_fn(|context| {
        if std::mem::replace(&mut gave_way, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
