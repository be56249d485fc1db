//! Applied records in their order, for whoever follows the log.
//!
//! ```text
//!  apply ─┬─► history: the records applied last, in memory ─┐
//!         │                                                 ├─► Tail ──► a watcher
//!         └─► log's segments ──► reader: what is older ─────┘
//! ```
//!
//! A [`Tail`] is asked for records and hands out what comes after its [`Cursor`]; it keeps
//! nothing of what it handed out. One that does not ask costs nothing and holds nothing
//! back: when it asks again and the log has let go of its records, it is told so.

pub(crate) mod cursor;
mod error;
mod history;
mod stretch;
pub(crate) mod tails;

use std::{cmp::Ordering, sync::Arc};

use tokio::sync::watch;

pub(crate) use self::history::STRETCH_BYTES;
use self::tails::Tails;
pub use self::{cursor::Cursor, error::TailError, stretch::Stretch};
use crate::{
    blocking::blocking,
    log::{Spot, find, find_record},
};

/// Follows the applied records of a log, from a cursor on.
#[derive(Debug)]
pub struct Tail {
    shared: Arc<Tails>,
    applied: watch::Receiver<Cursor>,
    cursor: Cursor,
    /// Where the next record is in the log's files, if it was looked for.
    spot: Option<Spot>,
}

impl Tail {
    /// Begins to follow; see [`Storage::tail`](crate::Storage::tail).
    pub(crate) async fn open(shared: Arc<Tails>, after: Option<Cursor>) -> Result<Self, TailError> {
        shared.history.join();
        let mut tail = Self {
            applied: shared.subscribe(),
            cursor: shared.applied(),
            shared,
            spot: None,
        };
        if let Some(after) = after {
            tail.seek(after).await?;
        }
        Ok(tail)
    }

    /// Begins to follow with a record; see [`Storage::tail_with`](crate::Storage::tail_with).
    pub(crate) async fn open_with(shared: Arc<Tails>, first: Cursor) -> Result<Self, TailError> {
        let mut tail = Self::open(shared, None).await?;
        if first.position.index > tail.cursor.position.index {
            return Err(TailError::Unknown(first.position));
        }
        let find = move |shared: &Tails| find_record(&shared.place, first, &shared.waypoints);
        let spot = tail.on_disk(find).await?;
        (tail.cursor, tail.spot) = (spot.last(), Some(spot));
        Ok(tail)
    }

    /// After which record it stands: everything up to it was handed out.
    #[must_use]
    pub const fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Waits until there are records to read. May be dropped at any time.
    pub async fn ready(&mut self) {
        let index = self.cursor.position.index;
        let more = (self.applied).wait_for(|applied| applied.position.index > index);
        // The sender lives as long as `shared`.
        drop(more.await);
    }

    /// The next records, at least one and not much more than 64 KiB of them; waits for
    /// them. May be dropped at any time, and then has handed nothing out.
    ///
    /// # Errors
    /// `Trimmed` if they left the log; damage of the log and failures of the disk.
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
                _ => self.locate(self.cursor).await?,
            };
            let up_to = self.shared.applied().position.index;
            let read = self
                .on_disk(move |shared| {
                    spot.read(&shared.place, &shared.waypoints, up_to, STRETCH_BYTES)
                })
                .await;
            let (records, next) = match read {
                // The spot may be the end of a segment that left the log, all of which was
                // handed out: then the next record is at the beginning of the one after it.
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

    /// Goes to a record of which a client says that it was handed out to it.
    async fn seek(&mut self, after: Cursor) -> Result<(), TailError> {
        let last = self.cursor;
        let (index, found) = (after.position.index, &self.shared.history);
        let known = match index.cmp(&last.position.index) {
            Ordering::Greater => return Err(TailError::Unknown(after.position)),
            Ordering::Equal => Some(last),
            Ordering::Less => found.find(index),
        };
        match known {
            Some(known) if known != after => return Err(TailError::Unknown(after.position)),
            Some(_) => {}
            None => self.spot = Some(self.locate(after).await?),
        }
        self.cursor = after;
        Ok(())
    }

    async fn locate(&self, after: Cursor) -> Result<Spot, TailError> {
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
            // The work goes on when whoever asked goes away: the turn lasts as long as it.
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
