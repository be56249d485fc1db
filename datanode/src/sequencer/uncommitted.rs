//! The bound of what is appended and not committed.

use tierkv_storage::Waiting;

use super::{Sequencer, State};

/// Memory of records that are appended and not applied, in bytes, over which writes wait. Without a
/// bound, a master whose records can't be committed, because too few nodes of the cluster log them,
/// would fill its memory and its disk with writes whose outcome is unknown.
const UNCOMMITTED_LIMIT: u64 = 64 << 20;

impl Sequencer {
    /// Waits while too much is appended and not committed; no longer than this node is master.
    pub(crate) async fn room(&self) {
        // Nearly always, and cheaper than a subscription.
        if !*self.is_behind.borrow() {
            return;
        }
        let waiting = Waiting::for_commits();
        let mut is_behind = self.is_behind.subscribe();
        // The sender lives as long as the sequencer.
        drop(is_behind.wait_for(|is_behind| !is_behind).await);
        waiting.done();
    }

    /// Publishes to writers, under the lock, whether they have to wait for commits.
    pub(super) fn publish_behind(&self, state: &State) {
        let now = is_behind(state);
        if *self.is_behind.borrow() != now {
            self.is_behind.send_replace(now);
        }
    }
}

/// Whether writes have to wait until more is committed. If this node is no master, they don't: they
/// are refused.
pub(super) fn is_behind(state: &State) -> bool {
    state.appended.bytes() >= UNCOMMITTED_LIMIT && state.replica.confirm().is_ok()
}
