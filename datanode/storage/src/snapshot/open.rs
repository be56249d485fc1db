//! The open snapshots, and their limits: number, memory, and growth of the write-ahead file.

use std::{
    collections::BTreeMap,
    mem::size_of,
    sync::{Arc, Mutex},
    time::Duration,
};

use tierkv_types::ItemKey;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::{Entry, StorageError, locked, store::OPEN_SNAPSHOTS};

/// Bytes of an entry in a copy, beside its key and value, which are shared.
const COPIED_ENTRY_BYTES: u64 = size_of::<(ItemKey, Entry)>() as u64;
/// The limit of the copies' unshared bytes is the limit of pinned bytes, divided by this.
const UNSHARED_PART: u64 = 2;
/// How long checkpoints may end while snapshots are open, before new snapshots are refused. The
/// store's write-ahead file grows for so long, and until the last open snapshot is dropped.
pub(crate) const MAX_UNTIDY_TIME: Duration = Duration::from_secs(90);

/// The open snapshots, and the memory that they keep.
///
/// Copies share keys and values with the entries they were copied from. So what all of them keep
/// has two upper limits: the sum of all copies; and what was pinned when the oldest snapshot was
/// opened plus everything applied since. Another snapshot is opened if either is under the limit
/// of pinned bytes, so all together keep at most about twice that limit. The copies' own memory,
/// beside keys and values, is not shared and has a limit of its own.
#[derive(Debug)]
pub(crate) struct Open {
    places: Arc<Semaphore>,
    held: Arc<Mutex<Held>>,
    /// One copy of pinned entries is made at a time: several in a row would block `apply` for
    /// long.
    pub(super) copying: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Held {
    /// The sum of the entries copied, in bytes.
    copied: u64,
    /// The sum of the copies' own memory, in bytes.
    unshared: u64,
    /// By the number of each open snapshot, the bytes applied when it was opened.
    opened: BTreeMap<u64, u64>,
    /// The number of the next snapshot.
    next: u64,
    /// When a checkpoint first ended with a snapshot open, after the last one that ended with
    /// none. Since then the write-ahead file has only grown: it starts again with the first
    /// write after all of it was written back to the database.
    untidy_since: Option<Instant>,
}

/// An open snapshot's place among the open snapshots.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    held: Arc<Mutex<Held>>,
    number: u64,
    copied: u64,
    unshared: u64,
}

impl Open {
    pub(crate) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(OPEN_SNAPSHOTS)),
            held: Arc::default(),
            copying: Arc::new(Semaphore::new(1)),
        }
    }

    /// The number of open snapshots.
    pub(crate) fn count(&self) -> usize {
        OPEN_SNAPSHOTS - self.places.available_permits()
    }

    #[cfg(test)]
    pub(crate) fn is_copying(&self) -> bool {
        self.copying.available_permits() == 0
    }

    /// Records that a checkpoint has just ended.
    pub(crate) fn checkpointed(&self) {
        let mut held = locked(&self.held);
        match held.opened.is_empty() {
            true => held.untidy_since = None,
            false => {
                held.untidy_since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Takes a place, unless all are taken, the open snapshots keep `limit_bytes`, or the store
    /// must truncate its write-ahead file first. `applied_bytes` have been applied until now;
    /// `has_unstored` if the store lacks some of them.
    pub(super) fn enter(
        &self,
        applied_bytes: u64,
        limit_bytes: u64,
        has_unstored: bool,
    ) -> Result<Place, StorageError> {
        let permit = Arc::clone(&self.places).try_acquire_owned();
        let permit = permit.map_err(|_| StorageError::TooManyOpen {
            limit: "open_snapshots",
            count: OPEN_SNAPSHOTS,
        })?;
        let mut held = locked(&self.held);
        let is_untidy = (held.untidy_since).is_some_and(|at| at.elapsed() >= MAX_UNTIDY_TIME);
        if is_untidy {
            if has_unstored || !held.opened.is_empty() {
                return Err(StorageError::Untidy);
            }
            // Nothing to store: no checkpoint will truncate the file, and none will make it grow.
            held.untidy_since = None;
        }
        let oldest = held.opened.values().next().copied();
        let since = applied_bytes.saturating_sub(oldest.unwrap_or(applied_bytes));
        let is_shared_over = held.copied >= limit_bytes && since >= limit_bytes;
        if is_shared_over || held.unshared >= limit_bytes / UNSHARED_PART {
            return Err(StorageError::Exhausted {
                limit: "open_snapshot_bytes",
                bytes: limit_bytes,
            });
        }
        let number = held.next;
        held.next += 1;
        held.opened.insert(number, applied_bytes);
        Ok(Place {
            _permit: permit,
            held: Arc::clone(&self.held),
            number,
            copied: 0,
            unshared: 0,
        })
    }
}

impl Place {
    /// Records a copy of so many entries with `bytes` together.
    pub(super) fn copied(&mut self, entries: usize, bytes: u64) {
        let unshared = entries as u64 * COPIED_ENTRY_BYTES;
        self.copied += bytes;
        self.unshared += unshared;
        let mut held = locked(&self.held);
        held.copied += bytes;
        held.unshared += unshared;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = locked(&self.held);
        held.copied -= self.copied;
        held.unshared -= self.unshared;
        held.opened.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const NO_LIMIT: u64 = u64::MAX;

    #[tokio::test(start_paused = true)]
    async fn they_pause_once_checkpoints_have_ended_among_them_for_long() {
        let open = Open::new();
        let enter = |has_unstored| open.enter(0, NO_LIMIT, has_unstored);
        let first = enter(true).unwrap();
        // As long as nothing is written, nothing grows.
        advance(2 * MAX_UNTIDY_TIME).await;
        drop(enter(true).unwrap());
        open.checkpointed();
        advance(MAX_UNTIDY_TIME - Duration::from_millis(1)).await;
        let second = enter(true).unwrap();
        drop(first);
        // Only one that ends while none is open tidies up.
        open.checkpointed();
        advance(Duration::from_millis(1)).await;
        for has_unstored in [false, true] {
            let refused = enter(has_unstored).unwrap_err();
            assert!(matches!(refused, StorageError::Untidy), "{refused}");
        }
        drop(second);
        assert!(matches!(enter(true), Err(StorageError::Untidy)));
        open.checkpointed();
        let third = enter(true).unwrap();
        open.checkpointed();
        advance(MAX_UNTIDY_TIME).await;
        drop(third);
        assert!(matches!(enter(true), Err(StorageError::Untidy)));
        // It does not wait for a checkpoint that is not to come.
        drop(enter(false).unwrap());
        drop(enter(true).unwrap());
    }

    #[tokio::test]
    async fn what_copies_take_beside_what_they_share_is_bounded() {
        let open = Open::new();
        let limit_bytes = 10 * UNSHARED_PART * COPIED_ENTRY_BYTES;
        let enter = || open.enter(0, limit_bytes, false);
        let mut first = enter().unwrap();
        first.copied(9, 0);
        let mut second = enter().unwrap();
        second.copied(1, 0);
        let refused = enter().unwrap_err();
        assert!(
            refused.to_string().contains("open_snapshot_bytes"),
            "{refused}"
        );
        drop(second);
        drop(enter().unwrap());
    }
}
