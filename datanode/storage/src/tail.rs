//! [`Tail`]: applied records in order, for watchers.
//!
//! ```text
//!  apply ─┬─► history: the records applied last, in memory ─┐
//!         │                                                 ├─► Tail ──► a watcher
//!         └─► log's segments ──► reader: what is older ─────┘
//! ```
//!
//! A [`Tail`] returns the records after its [`Cursor`] and keeps none of them. A tail that is
//! not read costs nothing and keeps no records in the log: if they have left the log by its next
//! read, that returns an error.

pub(crate) mod cursor;
mod error;
mod history;
mod stretch;
pub(crate) mod tails;

use std::{cmp::Ordering, sync::Arc};

use tierkv_types::Position;
use tokio::sync::watch;

pub(crate) use self::history::STRETCH_BYTES;
use self::tails::Tails;
pub use self::{cursor::Cursor, error::TailError, stretch::Stretch};
use crate::{
    blocking::blocking,
    log::{Spot, find, find_record},
};

/// Reads the applied records of a log after a cursor.
#[derive(Debug)]
pub struct Tail {
    shared: Arc<Tails>,
    applied: watch::Receiver<Cursor>,
    cursor: Cursor,
    /// The next record's place in the log's files, if it was read from there.
    spot: Option<Spot>,
}

impl Tail {
    /// A tail after the last applied record.
    pub(crate) fn at_end(shared: Arc<Tails>) -> Self {
        shared.history.join();
        Self {
            applied: shared.subscribe(),
            cursor: shared.applied(),
            shared,
            spot: None,
        }
    }

    /// See [`Storage::tail`](crate::Storage::tail).
    pub(crate) async fn open(shared: Arc<Tails>, after: Cursor) -> Result<Self, TailError> {
        let tail = Self::open_after(shared, after.position).await?;
        match tail.cursor == after {
            true => Ok(tail),
            false => Err(TailError::Unknown(after.position)),
        }
    }

    /// See [`Storage::tail_after`](crate::Storage::tail_after).
    pub(crate) async fn open_after(shared: Arc<Tails>, after: Position) -> Result<Self, TailError> {
        let mut tail = Self::at_end(shared);
        tail.seek(after).await?;
        Ok(tail)
    }

    /// See [`Storage::tail_with`](crate::Storage::tail_with).
    pub(crate) async fn open_with(shared: Arc<Tails>, first: Cursor) -> Result<Self, TailError> {
        let mut tail = Self::at_end(shared);
        if first.position.index > tail.cursor.position.index {
            return Err(TailError::Unknown(first.position));
        }
        let find = move |shared: &Tails| find_record(&shared.place, first, &shared.waypoints);
        let spot = tail.on_disk(find).await?;
        (tail.cursor, tail.spot) = (spot.last(), Some(spot));
        Ok(tail)
    }

    /// The last record that was returned.
    #[must_use]
    pub const fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Waits until there are records to read. Safe to cancel.
    pub async fn ready(&mut self) {
        let index = self.cursor.position.index;
        let more = (self.applied).wait_for(|applied| applied.position.index > index);
        // The sender lives as long as `shared`.
        drop(more.await);
    }

    /// The next records, at least one and not much more than 64 KiB; waits for them. Safe to
    /// cancel: the cursor then stays where it was.
    ///
    /// # Errors
    /// `Trimmed` if the next records left the log; damage of the log and failures of the disk.
    pub async fn read(&mut self) -> Result<Stretch, TailError> {
        let mut is_sure = false;
        loop {
            self.ready().await;
            if let Some(stretch) = self.shared.history.after(self.cursor.position.index) {
                self.spot = None;
                self.cursor = stretch.end;
                return Ok(stretch);
            }
            let spot = match self.spot {
                Some(spot) if spot.last() == self.cursor => spot,
                _ => self.locate(self.cursor.position).await?,
            };
            if spot.last() != self.cursor {
                return Err(TailError::Unknown(self.cursor.position));
            }
            let up_to = self.shared.applied().position.index;
            let read = self
                .on_disk(move |shared| {
                    spot.read(&shared.place, &shared.waypoints, up_to, STRETCH_BYTES)
                })
                .await;
            let (records, next) = match read {
                // The place may be the end of a removed segment whose records were all returned.
                // Then the next record is at the start of the following segment.
                Err(TailError::Trimmed(_)) if !is_sure => {
                    is_sure = true;
                    self.spot = None;
                    continue;
                }
                read => read?,
            };
            self.spot = Some(next);
            self.cursor = next.last();
            if let Some(stretch) = Stretch::whole(records) {
                return Ok(stretch);
            }
        }
    }

    /// Seeks to a record that a client names as the last one it received.
    async fn seek(&mut self, after: Position) -> Result<(), TailError> {
        let (last, history) = (self.cursor, &self.shared.history);
        let known = match after.index.cmp(&last.position.index) {
            Ordering::Greater => return Err(TailError::Unknown(after)),
            Ordering::Equal => Some(last),
            Ordering::Less => history.find(after.index),
        };
        match known {
            Some(known) if known.position != after => return Err(TailError::Unknown(after)),
            Some(known) => self.cursor = known,
            None => {
                let spot = self.locate(after).await?;
                (self.cursor, self.spot) = (spot.last(), Some(spot));
            }
        }
        Ok(())
    }

    async fn locate(&self, after: Position) -> Result<Spot, TailError> {
        self.on_disk(move |shared| find(&shared.place, after, &shared.waypoints))
            .await
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tails) -> Result<T, TailError> + Send + 'static,
    ) -> Result<T, TailError> {
        let shared = Arc::clone(&self.shared);
        // The semaphore is never closed.
        let turn = Arc::clone(&shared.file_reads).acquire_owned().await;
        blocking(move || {
            let done = work(&shared);
            // The read continues if the caller is dropped, so it holds the permit until its end.
            drop(turn);
            Ok(done)
        })
        .await?
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.shared.history.leave();
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tokio::sync::oneshot;

    use super::{tails::MAX_FILE_READS, *};
    use crate::{
        RealDisk,
        tests::{deadline, open},
    };

    #[tokio::test]
    async fn a_read_of_the_files_keeps_its_turn_when_its_tail_goes_away() {
        let dir = TempDir::new().unwrap();
        let (storage, _) = open(dir.path(), RealDisk).await;
        let tail = storage.tail(None).await.unwrap();
        let turns = Arc::clone(&storage.core.tails.file_reads);
        let (begin, begun) = oneshot::channel();
        let (end, ended) = oneshot::channel::<()>();
        let reading = tokio::spawn(async move {
            let work = move |_: &Tails| {
                begin.send(()).unwrap();
                drop(ended.blocking_recv());
                Ok(())
            };
            tail.on_disk(work).await
        });
        deadline(begun).await.unwrap();
        reading.abort();
        assert!(deadline(reading).await.unwrap_err().is_cancelled());
        assert_eq!(turns.available_permits(), MAX_FILE_READS - 1);
        end.send(()).unwrap();
        let all = u32::try_from(MAX_FILE_READS).unwrap();
        drop(deadline(turns.acquire_many(all)).await.unwrap());
        storage.close().await.unwrap();
    }
}
