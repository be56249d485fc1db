//! Watches: the committed changes of a prefix, in the order of this cluster's log.
//!
//! A watch reads the next records from its tail of the log, and makes the next reply, only when
//! its stream asks for it. A watch that nobody reads therefore blocks nothing, and holds one reply,
//! which counts against its stream's bytes until it is sent, besides the records that it read last.
//! A reply holds as many changes as fit into a frame. A record with more changes is sent in several
//! replies; the positions of all but the last of them are within the record.
//!
//! A watch also sends changes of slots that have moved to another cluster since: this cluster
//! owned them when it logged the change, and no other cluster's log has it.

use std::{cmp::Ordering, sync::Arc};

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, unfold};
use metrics::Gauge;
use tierkv_rpc::proto::internal::{WatchPosition, WatchReply, WatchRequest, WatchedChange};
use tierkv_storage::{Cursor, Effects, Entry, Storage, Stretch, Tail, TailError};
use tierkv_types::{
    Change, ClusterId, Code, Epoch, Error, Index, ItemRange, Position, Version,
    limits::{FRAME_BYTES, MAX_NODE_WATCHES},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::coop::consume_budget,
    time::{Duration, Instant, Interval, MissedTickBehavior, interval_at, sleep},
};

use crate::sequencer::Sequencer;

/// How often a watch of a quiet prefix reports the end of the log, so that its position
/// does not expire. At the same interval it checks that this node is still master.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The pause before opening the log's files is tried again, after all file descriptors were in
/// use.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(200);

/// The replies of a watch. An error ends the stream.
pub(crate) type WatchReplies = BoxStream<'static, Result<WatchReply, Error>>;

/// All watches of one data node.
pub(crate) struct Watches {
    cluster: ClusterId,
    sequencer: Arc<Sequencer>,
    storage: Arc<Storage>,
    seats: Arc<Semaphore>,
    open: Gauge,
}

impl Watches {
    pub(crate) fn new(
        cluster: ClusterId,
        sequencer: Arc<Sequencer>,
        storage: Arc<Storage>,
    ) -> Self {
        metrics::describe_gauge!("tierkv_node_watches", "Watches at the data node.");
        metrics::describe_gauge!(
            "tierkv_node_watches_limit",
            "The bound of tierkv_node_watches, over which new ones are refused."
        );
        #[allow(clippy::cast_precision_loss)]
        metrics::gauge!("tierkv_node_watches_limit").set(MAX_NODE_WATCHES as f64);
        Self {
            cluster,
            sequencer,
            storage,
            seats: Arc::new(Semaphore::new(MAX_NODE_WATCHES)),
            open: metrics::gauge!("tierkv_node_watches"),
        }
    }

    /// Starts a watch.
    ///
    /// # Errors
    /// `NotMaster`, `InvalidArgument`, `TokenExpired` if the log no longer holds the records
    /// after the position, `ResourceExhausted` over the limit. The stream may end with them too.
    pub(crate) async fn watch(&self, request: WatchRequest) -> Result<WatchReplies, Error> {
        let range = ItemRange::of_item_prefix(&request.prefix)?;
        let from = self.place(&request)?;
        let Ok(seat) = Arc::clone(&self.seats).try_acquire_owned() else {
            return Err(Error::exhausted(format!(
                "the data node serves {MAX_NODE_WATCHES} watches, which is the limit \
                 max_node_watches; end some, or retry later"
            )));
        };
        // A master has applied everything committed, so a record that it lacks will not come.
        self.sequencer.confirm(|_| ())?;
        let tail = match from {
            Some(Place {
                record,
                changes_sent: 1..,
            }) => self.storage.tail_with(record).await,
            from => self.storage.tail(from.map(|place| place.record)).await,
        };
        let tail = tail.map_err(|error| refused(&error))?;
        let mut ticks = interval_at(Instant::now() + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watch = Watch {
            sent: from.unwrap_or_else(|| Place::after(tail.cursor())),
            stretch: None,
            cluster: self.cluster.clone(),
            sequencer: Arc::clone(&self.sequencer),
            range,
            tail,
            ticks,
            has_begun: false,
            _seat: Seat::new(seat, &self.open),
        };
        let replies = unfold(Some(watch), async |watch| {
            let mut watch = watch?;
            match watch.next().await {
                Ok(reply) => Some((Ok(reply), Some(watch))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(replies.boxed())
    }

    /// Where the watch resumes; `None` if the request names no position.
    fn place(&self, request: &WatchRequest) -> Result<Option<Place>, Error> {
        let [position] = request.positions.as_slice() else {
            return match request.positions.is_empty() {
                true => Ok(None),
                false => Err(Error::invalid(
                    "a watch at a data node resumes from one position",
                )),
            };
        };
        if position.cluster != self.cluster.as_str() {
            return Err(Error::new(
                Code::NotMaster,
                "this node belongs to another cluster",
            ));
        }
        Ok(Some(Place {
            record: Cursor {
                position: Position {
                    epoch: Epoch(position.epoch),
                    index: Index(position.index),
                },
                version: Version::from_bits(position.version),
            },
            changes_sent: position.changes_told,
        }))
    }
}

/// Where a watch stands: after a record, or within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    record: Cursor,
    /// How many of the record's changes, of any prefix, were sent; 0: all of them.
    changes_sent: u32,
}

impl Place {
    const fn after(record: Cursor) -> Self {
        Self {
            record,
            changes_sent: 0,
        }
    }

    /// How many changes of `record` come before it.
    fn changes_of(&self, record: Cursor) -> u32 {
        let (index, here) = (record.position.index, self.record.position.index);
        match index.cmp(&here) {
            Ordering::Less => u32::MAX,
            Ordering::Equal if self.changes_sent == 0 => u32::MAX,
            Ordering::Equal => self.changes_sent,
            Ordering::Greater => 0,
        }
    }
}

/// The changes of one reply, and the watch's place after them.
struct Piece {
    changes: Vec<WatchedChange>,
    behind: Place,
    /// Whether the stretch has no more changes.
    is_last: bool,
}

/// One of the [`MAX_NODE_WATCHES`] places for watches, held while a watch runs.
struct Seat {
    open: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Seat {
    fn new(permit: OwnedSemaphorePermit, open: &Gauge) -> Self {
        open.increment(1.0);
        Self {
            open: open.clone(),
            _permit: permit,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.open.decrement(1.0);
    }
}

/// One watch.
struct Watch {
    cluster: ClusterId,
    sequencer: Arc<Sequencer>,
    /// The keys it watches.
    range: ItemRange,
    tail: Tail,
    /// The place after the last change sent.
    sent: Place,
    /// Records that were read and may have changes that were not sent yet.
    stretch: Option<Stretch>,
    ticks: Interval,
    has_begun: bool,
    _seat: Seat,
}

impl Watch {
    async fn next(&mut self) -> Result<WatchReply, Error> {
        if !self.has_begun {
            self.has_begun = true;
            return Ok(self.reply(Vec::new(), self.sent));
        }
        loop {
            if let Some(stretch) = self.stretch.take() {
                let piece = self.cut(&stretch);
                if !piece.is_last {
                    self.stretch = Some(stretch);
                }
                // An end within a record must be followed by one after it.
                if !piece.changes.is_empty() || self.sent.changes_sent > 0 {
                    return Ok(self.reply(piece.changes, piece.behind));
                }
            }
            tokio::select! {
                // First, so that a lost mastership is noticed also while the log is busy.
                biased;
                _ = self.ticks.tick() => {
                    self.sequencer.confirm(|_| ())?;
                    let behind = Place::after(self.tail.cursor());
                    // Within a record: the tail's cursor is before the record until it is read.
                    if self.sent.changes_sent == 0 && self.sent != behind {
                        return Ok(self.reply(Vec::new(), behind));
                    }
                }
                () = self.tail.ready() => {
                    let stretch = match self.tail.read().await {
                        // All file descriptors are in use: retry later.
                        Err(TailError::Storage(error)) if error.is_shortage() => {
                            sleep(SHORTAGE_PAUSE).await;
                            continue;
                        }
                        read => read.map_err(|error| refused(&error))?,
                    };
                    self.stretch = Some(stretch);
                    consume_budget().await;
                }
            }
        }
    }

    /// The first changes of the prefix that were not sent yet, up to one reply.
    fn cut(&self, stretch: &Stretch) -> Piece {
        let (mut changes, mut bytes) = (Vec::new(), 0);
        let mut last = self.sent.record;
        for record in stretch.records() {
            let here = Cursor::of(record);
            let sent = self.sent.changes_of(here);
            for (nth, change) in (0..).zip(Effects::of(record).changes) {
                if nth < sent || !self.range.contains(change.key.as_bytes()) {
                    continue;
                }
                let change = watched(change, record.version);
                let weight = weight(&change);
                if !changes.is_empty() && bytes + weight > FRAME_BYTES {
                    let behind = match last == here {
                        true => Place {
                            record: here,
                            changes_sent: nth,
                        },
                        // After the last record that gave a change.
                        false => Place::after(last),
                    };
                    return Piece {
                        changes,
                        behind,
                        is_last: false,
                    };
                }
                bytes += weight;
                changes.push(change);
                last = here;
            }
        }
        Piece {
            changes,
            // After the whole stretch.
            behind: Place::after(self.tail.cursor()),
            is_last: true,
        }
    }

    fn reply(&mut self, changes: Vec<WatchedChange>, behind: Place) -> WatchReply {
        self.sent = behind;
        let Place {
            record,
            changes_sent,
        } = behind;
        let Cursor { position, version } = record;
        WatchReply {
            changes,
            position: Some(WatchPosition {
                cluster: self.cluster.to_string(),
                epoch: position.epoch.0,
                index: position.index.0,
                version: version.to_bits(),
                changes_told: changes_sent,
            }),
        }
    }
}

fn watched(change: &Change, version: Version) -> WatchedChange {
    let left = Entry::of(&change.kind, version);
    let item = left.item();
    WatchedChange {
        item_key: change.key.as_bytes().clone(),
        version: version.to_bits(),
        value: item.map(|item| item.value.clone()),
        expires: (item.and_then(|item| item.expires)).map_or(0, Version::to_bits),
    }
}

/// An estimate of a change's bytes in a reply.
fn weight(change: &WatchedChange) -> usize {
    const FIXED: usize = 48;
    FIXED + change.item_key.len() + change.value.as_ref().map_or(0, Bytes::len)
}

fn refused(error: &TailError) -> Error {
    match error {
        TailError::Trimmed(_) | TailError::Unknown(_) => {
            tracing::info!(%error, "a watch can't resume");
        }
        TailError::Storage(error) if error.is_passing() => {
            tracing::warn!(%error, "a watch was refused");
        }
        TailError::Storage(error) => tracing::error!(%error, "a watch was refused"),
    }
    error.to_error()
}
