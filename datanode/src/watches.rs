//! Watches: the committed changes of a prefix, in the order of this cluster's log.
//!
//! A watch asks its tail of the log for the next records when its stream is asked for the
//! next reply, and not before: one that nobody reads holds a reply on its way and nothing
//! up. A reply holds whole records, so that the position it tells is one to go on from.
//!
//! What a log holds was this cluster's to change when it was logged, so nothing is left out
//! for a slot that has moved since: nobody else would tell it.

use std::sync::Arc;

use futures::stream::{BoxStream, StreamExt, unfold};
use metrics::Gauge;
use tierkv_rpc::proto::internal::{WatchPosition, WatchReply, WatchRequest, WatchedChange};
use tierkv_storage::{Cursor, Effects, Entry, Storage, Stretch, Tail, TailError};
use tierkv_types::{
    ClusterId, Code, Epoch, Error, Index, ItemRange, Position, Version, limits::MAX_NODE_WATCHES,
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
    places: Arc<Semaphore>,
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
            places: Arc::new(Semaphore::new(MAX_NODE_WATCHES)),
            open: metrics::gauge!("tierkv_node_watches"),
        }
    }

    /// Begins a watch.
    ///
    /// # Errors
    /// `NotMaster`, `InvalidArgument`, `TokenExpired` if the log does not hold the records
    /// after the position, `ResourceExhausted` over the limit; so may the stream end.
    pub(crate) async fn watch(&self, request: WatchRequest) -> Result<WatchReplies, Error> {
        let range = ItemRange::of_item_prefix(&request.prefix)?;
        let after = self.position(&request)?;
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(Error::exhausted(format!(
                "the data node serves {MAX_NODE_WATCHES} watches, which is the limit \
                 max_node_watches; end some, or retry later"
            )));
        };
        // A master has applied all that was ever committed, so nothing that is missing here
        // is merely late.
        self.sequencer.confirm(|_| ())?;
        let tail = self.storage.tail(after).await;
        let tail = tail.map_err(|error| refused(&error))?;
        let mut ticks = interval_at(Instant::now() + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watch = Watch {
            told: tail.cursor(),
            cluster: self.cluster.clone(),
            sequencer: Arc::clone(&self.sequencer),
            range,
            tail,
            ticks,
            has_begun: false,
            _place: Place::new(place, &self.open),
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

    /// After which record to go on, if the request says so.
    fn position(&self, request: &WatchRequest) -> Result<Option<Cursor>, Error> {
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
        Ok(Some(Cursor {
            position: Position {
                epoch: Epoch(position.epoch),
                index: Index(position.index),
            },
            version: Version::from_bits(position.version),
        }))
    }
}

/// A watch's place among those that the node serves.
struct Place {
    open: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit, open: &Gauge) -> Self {
        open.increment(1.0);
        Self {
            open: open.clone(),
            _permit: permit,
        }
    }
}

impl Drop for Place {
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
    told: Cursor,
    ticks: Interval,
    has_begun: bool,
    _place: Place,
}

impl Watch {
    async fn next(&mut self) -> Result<WatchReply, Error> {
        if !self.has_begun {
            self.has_begun = true;
            return Ok(self.reply(Vec::new()));
        }
        loop {
            tokio::select! {
                // A busy log must not keep a lost mastership from being noticed.
                biased;
                _ = self.ticks.tick() => {
                    self.sequencer.confirm(|_| ())?;
                    if self.told != self.tail.cursor() {
                        return Ok(self.reply(Vec::new()));
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
                    let changes = self.changes(&stretch);
                    if !changes.is_empty() {
                        return Ok(self.reply(changes));
                    }
                    consume_budget().await;
                }
            }
        }
    }

    /// The changes that are of the prefix.
    fn changes(&self, stretch: &Stretch) -> Vec<WatchedChange> {
        let changes = stretch.records().flat_map(|record| {
            let changes = Effects::of(record).changes.iter();
            changes.map(|change| (change, record.version))
        });
        changes
            .filter(|(change, _)| self.range.contains(change.key.as_bytes()))
            .map(|(change, version)| {
                let left = Entry::of(&change.kind, version);
                let item = left.item();
                WatchedChange {
                    item_key: change.key.as_bytes().clone(),
                    version: version.to_bits(),
                    value: item.map(|item| item.value.clone()),
                    expires: (item.and_then(|item| item.expires)).map_or(0, Version::to_bits),
                }
            })
            .collect()
    }

    fn reply(&mut self, changes: Vec<WatchedChange>) -> WatchReply {
        let Cursor { position, version } = self.tail.cursor();
        self.told = self.tail.cursor();
        WatchReply {
            changes,
            position: Some(WatchPosition {
                cluster: self.cluster.to_string(),
                epoch: position.epoch.0,
                index: position.index.0,
                version: version.to_bits(),
            }),
        }
    }
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
