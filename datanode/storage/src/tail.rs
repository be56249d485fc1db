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

mod history;

use std::{cmp::Ordering, sync::Arc};

use tierkv_types::{Code, Error, Index, Position, Record, Version};
use tokio::sync::{Semaphore, watch};

use self::history::History;
pub(crate) use self::history::{Chunk, STRETCH_BYTES};
use crate::{
    Storage, StorageError,
    log::{LogPlace, Spot, Waypoints, find},
    storage::blocking,
};

/// Reads of the log's files for tails at the same time; more wait. Those at the end of the
/// log need none.
const MAX_FILE_READS: usize = 4;

/// A place in a log: after this record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Where the record stands.
    pub position: Position,
    /// Its version. With its position, it tells the record from any that another history
    /// of the cluster (an emptied directory, a restored backup) has in its place.
    pub version: Version,
}

impl Cursor {
    /// After this record.
    #[must_use]
    pub const fn of(record: &Record) -> Self {
        Self {
            position: record.position,
            version: record.version,
        }
    }
}

/// Why a tail can't go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TailError {
    /// The records after this one left the log.
    #[error("the log does not hold the records after {0} any more")]
    Trimmed(Position),
    /// This log never held the record.
    #[error("record {0} is none of this log, or not yet")]
    Unknown(Position),
    /// Damage, and failures of the disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl TailError {
    /// The error as other tiers see it; details of this machine stay in its log.
    #[must_use]
    pub fn to_error(&self) -> Error {
        match self {
            Self::Trimmed(_) => Error::new(
                Code::TokenExpired,
                "the log does not go back that far any more; read the keys anew, then watch \
                 from now",
            ),
            Self::Unknown(_) => Error::new(
                Code::TokenExpired,
                "the place to go on from is of another history of the data; read the keys \
                 anew, then watch from now",
            ),
            Self::Storage(error) => error.to_error(),
        }
    }
}

/// Some records that follow one another.
#[derive(Debug)]
pub struct Stretch {
    chunks: Vec<Arc<[Record]>>,
    /// Records of the first chunk that don't belong to it.
    skip: usize,
    end: Cursor,
}

impl Stretch {
    /// What is after `index` in chunks of which the first one holds the next record; `None`
    /// if that is nothing.
    fn after(index: Index, chunks: Vec<Arc<[Record]>>) -> Option<Self> {
        let skip = index.next().0 - chunks.first()?.first()?.position.index.0;
        Some(Self {
            skip: usize::try_from(skip).ok()?,
            end: Cursor::of(chunks.last()?.last()?),
            chunks,
        })
    }

    fn whole(records: Vec<Record>) -> Option<Self> {
        let end = Cursor::of(records.last()?);
        Some(Self {
            chunks: vec![records.into()],
            skip: 0,
            end,
        })
    }

    /// The records, in order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        let records = self.chunks.iter().flat_map(|chunk| chunk.iter());
        records.skip(self.skip)
    }
}

/// What all tails of a storage share, and what applying tells them.
#[derive(Debug)]
pub(crate) struct Tails {
    place: LogPlace,
    history: History,
    waypoints: Waypoints,
    /// The last record applied.
    applied: watch::Sender<Cursor>,
    file_reads: Arc<Semaphore>,
}

impl Tails {
    pub(crate) fn new(place: LogPlace, applied: Cursor) -> Self {
        Self {
            place,
            history: History::default(),
            waypoints: Waypoints::default(),
            applied: watch::Sender::new(applied),
            file_reads: Arc::new(Semaphore::new(MAX_FILE_READS)),
        }
    }

    /// The last record applied.
    pub(crate) fn applied(&self) -> Cursor {
        *self.applied.borrow()
    }

    /// Prepares what [`Tails::publish`] takes in: a copy of records, if anybody follows.
    pub(crate) fn prepare(&self, records: &[Record]) -> Vec<Chunk> {
        self.history.prepare(records)
    }

    /// Takes in records whose effects are visible from now on, up to `last`.
    pub(crate) fn publish(&self, prepared: Vec<Chunk>, last: Cursor) {
        self.history.push(prepared);
        self.applied.send_replace(last);
    }

    #[cfg(test)]
    pub(crate) fn history_bytes(&self) -> usize {
        self.history.bytes()
    }
}

/// Follows the applied records of a log, from a cursor on.
#[derive(Debug)]
pub struct Tail {
    shared: Arc<Tails>,
    applied: watch::Receiver<Cursor>,
    cursor: Cursor,
    /// Where the next record is in the log's files, if it was looked for.
    spot: Option<Spot>,
}

impl Storage {
    /// Follows the log after `after`, which must be a record of it that is applied; without
    /// one, after the last record applied. The default cursor is the log's beginning.
    ///
    /// # Errors
    /// `Unknown` if it is none, `Trimmed` if the records after it are gone; failures of the
    /// disk.
    pub async fn tail(&self, after: Option<Cursor>) -> Result<Tail, TailError> {
        let shared = Arc::clone(&self.core.tails);
        shared.history.join();
        let mut tail = Tail {
            applied: shared.applied.subscribe(),
            cursor: shared.applied(),
            shared,
            spot: None,
        };
        if let Some(after) = after {
            tail.seek(after).await?;
        }
        Ok(tail)
    }
}

impl Tail {
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

    use super::*;
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
