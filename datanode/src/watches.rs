//! Watches: the committed changes of a prefix, in the order of this cluster's log.
//!
//! A watch asks its tail of the log for the next records when its stream is asked for the
//! next reply, and not before: one that nobody reads holds up nothing, and what it has read
//! counts for as long as it rests. A reply holds as many changes as go into a frame. Where a record has more, it comes in
//! several replies, and the position of each but the last one stands within it.
//!
//! What a log holds was this cluster's to change when it was logged, so nothing is left out
//! for a slot that has moved since: nobody else would tell it.

use std::{collections::VecDeque, mem, sync::Arc};

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, unfold};
use metrics::Gauge;
use tierkv_rpc::{
    HeldBytes, StreamShare,
    proto::internal::{WatchPosition, WatchReply, WatchRequest, WatchedChange},
};
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

/// How often a watch of a quiet prefix tells how far the log went on, so that its position
/// does not expire; and how often it looks whether this node is still master.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The pause before the log's files are tried again that could not be opened, because all
/// descriptors were in use.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(200);

/// The replies of a watch; an error is the last one.
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

    /// Begins a watch.
    ///
    /// # Errors
    /// `NotMaster`, `InvalidArgument`, `TokenExpired` if the log does not hold the records
    /// after the position, `ResourceExhausted` over the limit; so may the stream end.
    pub(crate) async fn watch(
        &self,
        request: WatchRequest,
        share: &StreamShare,
    ) -> Result<WatchReplies, Error> {
        let range = ItemRange::of_item_prefix(&request.prefix)?;
        let from = self.place(&request)?;
        let Ok(seat) = Arc::clone(&self.seats).try_acquire_owned() else {
            return Err(Error::exhausted(format!(
                "the data node serves {MAX_NODE_WATCHES} watches, which is the limit \
                 max_node_watches; end some, or retry later"
            )));
        };
        // A master has applied all that was ever committed, so nothing that is missing here
        // is merely late.
        self.sequencer.confirm(|_| ())?;
        let tail = match from {
            Some(Place { record, told: 1.. }) => self.storage.tail_with(record).await,
            from => self.storage.tail(from.map(|place| place.record)).await,
        };
        let tail = tail.map_err(|error| refused(&error))?;
        let mut ticks = interval_at(Instant::now() + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watch = Watch {
            told: from.unwrap_or_else(|| Place::after(tail.cursor())),
            pieces: VecDeque::new(),
            held: share.nothing(),
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

    /// Where to go on, if the request says so.
    fn place(&self, request: &WatchRequest) -> Result<Option<Place>, Error> {
        let [position] = request.positions.as_slice() else {
            return match request.positions.is_empty() {
                true => Ok(None),
                false => Err(Error::invalid("a data node is watched from one position")),
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
            told: position.changes_told,
        }))
    }
}

/// Where a watch stands: after a record, or within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    record: Cursor,
    /// How many of the record's changes were told, of any prefix; 0: all of them.
    told: u32,
}

impl Place {
    const fn after(record: Cursor) -> Self {
        Self { record, told: 0 }
    }
}

/// Changes that go into one reply, and where a watch stands behind them.
struct Piece {
    changes: Vec<WatchedChange>,
    bytes: usize,
    behind: Place,
}

/// A watch's seat among those that the node serves.
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
    /// What it is of.
    range: ItemRange,
    tail: Tail,
    /// Up to where replies have told.
    told: Place,
    /// What was read and not told yet.
    pieces: VecDeque<Piece>,
    /// Counts them.
    held: HeldBytes,
    ticks: Interval,
    has_begun: bool,
    _seat: Seat,
}

impl Watch {
    async fn next(&mut self) -> Result<WatchReply, Error> {
        if !self.has_begun {
            self.has_begun = true;
            return Ok(self.reply(Vec::new(), self.told));
        }
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                let Piece {
                    changes,
                    bytes,
                    behind,
                } = piece;
                self.held.give_back(bytes);
                return Ok(self.reply(changes, behind));
            }
            tokio::select! {
                // A busy log must not keep a lost mastership from being noticed.
                biased;
                _ = self.ticks.tick() => {
                    self.sequencer.confirm(|_| ())?;
                    let behind = Place::after(self.tail.cursor());
                    // Within a record, the tail stands before it until it was read.
                    if self.told.told == 0 && self.told != behind {
                        return Ok(self.reply(Vec::new(), behind));
                    }
                }
                () = self.tail.ready() => {
                    let stretch = match self.tail.read().await {
                        // The log's files can't be opened for now. The watch has time.
                        Err(TailError::Storage(error)) if error.is_shortage() => {
                            sleep(SHORTAGE_PAUSE).await;
                            continue;
                        }
                        read => read.map_err(|error| refused(&error))?,
                    };
                    self.pieces = self.cut(&stretch);
                    self.held.add(self.pieces.iter().map(|piece| piece.bytes).sum());
                    consume_budget().await;
                }
            }
        }
    }

    /// The changes of records that are of the prefix and were not told yet, cut into replies.
    fn cut(&self, stretch: &Stretch) -> VecDeque<Piece> {
        let mut pieces = VecDeque::new();
        let (mut changes, mut bytes) = (Vec::new(), 0);
        let mut last = None;
        for record in stretch.records() {
            let here = Cursor::of(record);
            // Of the first record some changes may have been told.
            let told = match here == self.told.record {
                true => self.told.told,
                false => 0,
            };
            for (nth, change) in (0..).zip(Effects::of(record).changes) {
                if nth < told || !self.range.contains(change.key.as_bytes()) {
                    continue;
                }
                let change = watched(change, record.version);
                let weight = weight(&change);
                if !changes.is_empty() && bytes + weight > FRAME_BYTES {
                    let behind = match last == Some(here) {
                        true => Place {
                            record: here,
                            told: nth,
                        },
                        // All of the records before this one.
                        false => Place::after(last.unwrap_or(here)),
                    };
                    pieces.push_back(Piece {
                        changes: mem::take(&mut changes),
                        bytes: mem::take(&mut bytes),
                        behind,
                    });
                }
                bytes += weight;
                changes.push(change);
                last = Some(here);
            }
        }
        if !changes.is_empty() || self.told.told > 0 {
            // Behind the whole stretch.
            let behind = Place::after(self.tail.cursor());
            pieces.push_back(Piece {
                changes,
                bytes,
                behind,
            });
        }
        pieces
    }

    fn reply(&mut self, changes: Vec<WatchedChange>, behind: Place) -> WatchReply {
        self.told = behind;
        let Place { record, told } = behind;
        let Cursor { position, version } = record;
        WatchReply {
            changes,
            position: Some(WatchPosition {
                cluster: self.cluster.to_string(),
                epoch: position.epoch.0,
                index: position.index.0,
                version: version.to_bits(),
                changes_told: told,
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

/// About how many bytes a change takes in a reply.
fn weight(change: &WatchedChange) -> usize {
    const FIXED: usize = 48;
    FIXED + change.item_key.len() + change.value.as_ref().map_or(0, Bytes::len)
}

fn refused(error: &TailError) -> Error {
    match error {
        TailError::Trimmed(_) | TailError::Unknown(_) => {
            tracing::info!(%error, "a watch can't go on");
        }
        TailError::Storage(error) if error.is_passing() => {
            tracing::warn!(%error, "a watch was refused");
        }
        TailError::Storage(error) => tracing::error!(%error, "a watch was refused"),
    }
    error.to_error()
}
