//! Snapshots: one state of a range, read while writes and checkpoints go on.
//!
//! ```text
//!   pinned entries, copied at the moment ──┐
//!                                          ├─ merged by key, the copy wins ──► items
//!   a read transaction of the store ───────┘
//! ```
//!
//! The transaction begins first, then the pinned entries are copied while nothing is being
//! applied. Everything applied up to the copy is then in one of the two, unless entries moved
//! from memory to the store after the transaction began. The generation shows that, and the
//! snapshot is retried. A pinned entry is never older than the transaction's row of its key, so
//! it hides the row: a checkpoint stores only applied changes, and an applied change is pinned
//! until it is settled.

pub(crate) mod open;

use std::{
    collections::VecDeque,
    iter::Peekable,
    sync::{Arc, Weak},
    vec,
};

use tierkv_types::{Index, ItemKey, ItemRange, Version};

#[cfg(test)]
pub(crate) use self::open::MAX_UNTIDY_TIME;
use self::open::Place;
use crate::{
    Entry, Item, StorageError,
    core::{Core, LOAD_ATTEMPTS},
    locked,
    memory::Pinned,
    store::StoreSnapshot,
};

/// An estimate of an item's bytes beside its key and value.
const ITEM_OVERHEAD_BYTES: usize = 64;

/// One state of a range, read once from its start to its end. The store can't truncate its
/// write-ahead file while a snapshot is open, so it must be dropped within a bounded time.
#[derive(Debug)]
pub struct Snapshot {
    index: Index,
    version: Version,
    pinned: Peekable<vec::IntoIter<(ItemKey, Entry)>>,
    /// Rows that were read and not returned yet.
    rows: VecDeque<(ItemKey, Item)>,
    /// `None` once it has no more rows.
    store: Option<Box<dyn StoreSnapshot>>,
    _place: Place,
}

impl Snapshot {
    /// Opens a snapshot; see [`Storage::snapshot`](crate::Storage::snapshot).
    pub(crate) async fn open(core: &Arc<Core>, range: ItemRange) -> Result<Self, StorageError> {
        let applied_bytes = core.memory.applied_bytes();
        let limit_bytes = core.settings.pinned_limit_bytes;
        let has_unstored = core.tails.applied().position != locked(&core.stored).applied;
        let open = &core.open_snapshots;
        let entered = open.enter(applied_bytes, limit_bytes, has_unstored);
        let mut place = entered.inspect_err(|error| {
            if matches!(error, StorageError::Untidy) && open.count() == 0 {
                // It waits only for a checkpoint.
                core.pressure.notify_one();
            }
        })?;
        // Dropped with this future: then the copy is not needed any more.
        let asker = Arc::new(());
        for _ in 0..LOAD_ATTEMPTS {
            let generation = core.memory.generation();
            let store = core.store.snapshot(&range).await?;
            let moment;
            (place, moment) = Copying {
                core: Arc::clone(core),
                range: range.clone(),
                generation,
                asker: Arc::downgrade(&asker),
                place,
            }
            .run()
            .await?;
            let Some(moment) = moment else {
                continue;
            };
            return Ok(Self {
                index: moment.index,
                version: moment.version,
                pinned: moment.pinned.into_iter().peekable(),
                rows: VecDeque::new(),
                store: Some(store),
                _place: place,
            });
        }
        Err(StorageError::Busy)
    }

    /// The last record applied at the snapshot's moment.
    #[must_use]
    pub const fn index(&self) -> Index {
        self.index
    }

    /// That record's version: all later changes have greater ones.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The next items in key order, expired ones too: about `bytes` of them; a larger item comes
    /// alone. Empty at the end.
    ///
    /// # Errors
    /// `Damaged` if a row's checksum does not match, and failures of the store. There are
    /// no more after an error.
    pub async fn next(&mut self, bytes: usize) -> Result<Vec<(ItemKey, Item)>, StorageError> {
        let mut items: Vec<(ItemKey, Item)> = Vec::new();
        let mut gathered = 0;
        loop {
            if self.rows.is_empty()
                && let Some(mut store) = self.store.take()
            {
                self.rows = store.next(bytes).await?.into();
                self.store = (!self.rows.is_empty()).then_some(store);
            }
            let Some(next) = self.peek() else {
                return Ok(items);
            };
            gathered += next;
            if !items.is_empty() && gathered > bytes {
                return Ok(items);
            }
            items.extend(self.take());
        }
    }

    /// Counts the items that are not expired at `now` and were not returned yet. Values are not
    /// read, and the checksums of their rows are not verified.
    ///
    /// # Errors
    /// Failures of the store.
    pub async fn count(self, now: Version) -> Result<u64, StorageError> {
        let Some(mut store) = self.store else {
            return Ok(0);
        };
        let mut pinned = Vec::with_capacity(self.pinned.len());
        let mut count = 0;
        for (key, entry) in self.pinned {
            let is_live = entry.item().is_some_and(|item| item.is_live(now));
            count += u64::from(is_live);
            pinned.push(key);
        }
        // Pinned keys are counted from memory, so their rows are subtracted.
        let covered = store.count_among(&pinned, now).await?;
        let stored = store.count(now).await?;
        Ok(count + stored - covered)
    }

    /// An estimate of the bytes of the next item or tombstone.
    fn peek(&mut self) -> Option<usize> {
        let row = self.rows.front();
        let pinned = self.pinned.peek();
        let pinned_first = match (&row, &pinned) {
            (Some((row, _)), Some((pinned, _))) => pinned <= row,
            (_, pinned) => pinned.is_some(),
        };
        let (key, item) = match pinned_first {
            true => pinned.map(|(key, entry)| (key, entry.item()))?,
            false => row.map(|(key, item)| (key, Some(item)))?,
        };
        let value = item.map_or(0, |item| item.value.len());
        Some(key.as_bytes().len() + value + ITEM_OVERHEAD_BYTES)
    }

    /// Takes the next key; `None` if it is deleted. A pinned entry hides the row.
    fn take(&mut self) -> Option<(ItemKey, Item)> {
        let Some((row, _)) = self.rows.front() else {
            return self.pinned.next().and_then(item);
        };
        match self.pinned.next_if(|(key, _)| key <= row) {
            Some(pinned) => {
                if pinned.0 == *row {
                    self.rows.pop_front();
                }
                item(pinned)
            }
            None => self.rows.pop_front(),
        }
    }
}

fn item((key, entry): (ItemKey, Entry)) -> Option<(ItemKey, Item)> {
    match entry {
        Entry::Value(item) => Some((key, item)),
        Entry::Tombstone(_) => None,
    }
}

/// The pinned entries of a range between two records.
struct Moment {
    index: Index,
    version: Version,
    pinned: Vec<(ItemKey, Entry)>,
}

/// The copying of a range's pinned entries. It continues after its caller is dropped, so it
/// owns its place among the open snapshots.
struct Copying {
    core: Arc<Core>,
    range: ItemRange,
    /// Memory's generation before the store's transaction began.
    generation: u64,
    asker: Weak<()>,
    place: Place,
}

impl Copying {
    /// Makes the copy after the copies before it. Returns the place, and `None` if entries have
    /// moved to the store since `generation`.
    async fn run(mut self) -> Result<(Place, Option<Moment>), StorageError> {
        // The semaphore is never closed.
        let turn = Arc::clone(&self.core.open_snapshots.copying)
            .acquire_owned()
            .await;
        // There may be a million entries.
        let blocking = self.core.blocking;
        let copying = move || {
            if self.asker.strong_count() == 0 {
                // The caller is gone, so no one receives this error.
                return Err(StorageError::Closed);
            }
            let moment = self.copy().map(|(index, version, pinned)| {
                let (pinned, bytes) = pinned.sorted(&self.range);
                self.place.copied(pinned.len(), bytes);
                Moment {
                    index,
                    version,
                    pinned,
                }
            });
            drop(turn);
            Ok((self.place, moment))
        };
        blocking.run(copying).await
    }

    fn copy(&self) -> Option<(Index, Version, Pinned)> {
        let memory = &self.core.memory;
        let applying = locked(&self.core.applying);
        // Checked before the copy too, so that no useless copy delays `apply`.
        if memory.generation() != self.generation {
            return None;
        }
        let pinned = memory.pinned(&self.range);
        let (index, version) = (
            applying.progress().position.index,
            applying.progress().clock,
        );
        drop(applying);
        // Entries leave memory only after the generation has changed. If the copy missed one, the
        // generation changed before the copy.
        (memory.generation() == self.generation).then_some((index, version, pinned))
    }
}
