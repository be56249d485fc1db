//! [`Link`]: sends a node's messages to another node.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tierkv_protocol::replication::{Append, Message, Process};
use tierkv_rpc::{
    AddressedChannel, ProcessName, channel,
    proto::internal::{MemberFrame, MemberMessage, member_client::MemberClient},
};
use tierkv_storage::{Storage, Tail, TailError};
use tierkv_types::{
    Epoch, Error, Index, NodeId, Record, Round,
    record::{MAX_RECORD_BYTES, encoded_len},
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{outbox::Outbox, wire};
use crate::{
    platform_clock::PlatformClock,
    sequencer::{NextAppend, Sequencer},
};

/// About the bytes of records in one frame.
const FRAME_BYTES: usize = 1 << 20;
/// Largest frame, in bytes: the records of a full one, the last of them of limit size, and small
/// messages.
pub(crate) const MAX_MEMBER_FRAME_BYTES: usize = MAX_RECORD_BYTES + 2 * FRAME_BYTES;
/// Bytes of records that may be under way to a node, or not be durable there. It bounds what the
/// node holds in memory, whatever its disk does.
const WINDOW_BYTES: usize = 8 << 20;
/// Frames that wait for the connection.
const WAITING_FRAMES: usize = 2;
/// Pause after a connection was lost.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// The sender of one node's messages to the process of another.
pub(super) struct Link {
    own: Process,
    to: NodeId,
    client: MemberClient<AddressedChannel>,
    outbox: Arc<Outbox>,
    sequencer: Arc<Sequencer>,
    storage: Arc<Storage>,
    time: Arc<PlatformClock>,
    news: watch::Receiver<()>,
    under_way: UnderWay,
    /// The last round that was sent, and its term.
    round: (Epoch, Round),
    /// The place in the log of the records that the node lacks.
    tail: Option<Tail>,
}

impl Link {
    /// A link from the process `own` to the process `name` at `address`.
    ///
    /// # Errors
    /// `InvalidArgument` if the address is not `host:port`.
    pub(super) fn new(
        (own, name): (ProcessName, ProcessName),
        address: &str,
        outbox: Arc<Outbox>,
        sequencer: Arc<Sequencer>,
        storage: Arc<Storage>,
        time: Arc<PlatformClock>,
    ) -> Result<Self, Error> {
        let channel = AddressedChannel::new(channel(address)?, &name);
        Ok(Self {
            own: Process {
                node: own.node,
                incarnation: own.incarnation,
            },
            to: name.node,
            client: MemberClient::new(channel).max_encoding_message_size(MAX_MEMBER_FRAME_BYTES),
            outbox,
            news: sequencer.news(),
            sequencer,
            storage,
            time,
            under_way: UnderWay::default(),
            round: (Epoch::ZERO, Round::ZERO),
            tail: None,
        })
    }

    /// Sends for as long as the task lives.
    pub(super) async fn run(mut self) {
        loop {
            let first = self.next_frame().await;
            let error = self.deliver(first).await;
            tracing::debug!(to = %self.to, ?error, "a link to a member ended");
            self.under_way = UnderWay::default();
            self.round = (Epoch::ZERO, Round::ZERO);
            sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Sends frames over one stream, until it ends.
    async fn deliver(&mut self, first: MemberFrame) -> Option<Status> {
        let (frames, stream) = mpsc::channel(WAITING_FRAMES);
        // The channel has room for the first.
        drop(frames.try_send(first));
        let mut client = self.client.clone();
        let delivering = client.deliver(ReceiverStream::new(stream));
        tokio::pin!(delivering);
        loop {
            let sending = async {
                // Made when it can be sent, so that it has the newest of everything.
                let Ok(place) = frames.reserve().await else {
                    std::future::pending().await
                };
                place.send(self.next_frame().await);
            };
            tokio::select! {
                biased;
                ended = &mut delivering => return ended.err(),
                () = sending => {}
            }
        }
    }

    /// The next frame; waits until there is something to send. Cancelling it may lose messages, as
    /// the end of a stream does.
    async fn next_frame(&mut self) -> MemberFrame {
        loop {
            self.news.mark_unchanged();
            let mut messages: Vec<MemberMessage> =
                self.outbox.take().iter().map(wire::encode).collect();
            if let Some(append) = self.next_append().await {
                messages.push(wire::encode(&Message::Append(append)));
            }
            if !messages.is_empty() {
                return wire::frame(&self.own, &self.time.member_time(), messages);
            }
            tokio::select! {
                () = self.outbox.filled() => {}
                // The sender lives as long as the sequencer.
                _ = self.news.changed() => {}
            }
        }
    }

    /// The master's next message, with as many records as may be under way.
    async fn next_append(&mut self) -> Option<Append> {
        loop {
            let next = self.sequencer.next_append(&self.to, |durable| {
                self.under_way.durable(durable);
                self.under_way.room().min(FRAME_BYTES)
            });
            let append = match next? {
                NextAppend::Ready(append) => append,
                NextAppend::FromLog(mut append) => match self.logged_after(&append).await {
                    Ok(records) => {
                        append.records = records;
                        self.sequencer.sent(&self.to, &append);
                        append
                    }
                    Err(TailError::Trimmed(_)) => {
                        self.sequencer.lies_beyond_log(&self.to);
                        continue;
                    }
                    Err(error) => {
                        // A term has ended, or the disk failed, which stops the node.
                        tracing::debug!(to = %self.to, %error, "no records for a member");
                        append
                    }
                },
            };
            let round = (append.epoch, append.round);
            if append.records.is_empty() && self.round == round {
                // Its records wait: for room, or for the log.
                return None;
            }
            self.round = round;
            self.under_way.sent(&append);
            return Some(append);
        }
    }

    /// The next records after the message's `prev`, all of them applied here.
    async fn logged_after(&mut self, append: &Append) -> Result<Vec<Arc<Record>>, TailError> {
        let mut tail = match self.tail.take() {
            Some(tail) if tail.cursor().position == append.prev => tail,
            _ => self.storage.tail_after(append.prev).await?,
        };
        let stretch = tail.read().await?;
        self.tail = Some(tail);
        Ok(stretch.shared().cloned().collect())
    }
}

/// The records that were sent to a node and are not known to be durable there.
#[derive(Debug, Default)]
struct UnderWay {
    /// The index of each, and its bytes.
    records: VecDeque<(Index, usize)>,
    bytes: usize,
}

impl UnderWay {
    /// How many bytes more may be sent.
    const fn room(&self) -> usize {
        WINDOW_BYTES.saturating_sub(self.bytes)
    }

    /// The node's log is durable up to this index.
    fn durable(&mut self, index: Index) {
        while let Some((first, bytes)) = self.records.front().copied()
            && first <= index
        {
            self.records.pop_front();
            self.bytes -= bytes;
        }
    }

    /// The message is sent. Its records may have been sent before.
    fn sent(&mut self, append: &Append) {
        while let Some((last, bytes)) = self.records.back().copied()
            && last > append.prev.index
        {
            self.records.pop_back();
            self.bytes -= bytes;
        }
        for record in &append.records {
            let bytes = encoded_len(record);
            self.records.push_back((record.position.index, bytes));
            self.bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use tierkv_types::{Epoch, Payload, Position, Version};

    use super::*;

    fn append(after: u64, count: u64) -> Append {
        let position = |index| Position {
            epoch: Epoch(1),
            index: Index(index),
        };
        let records = (after + 1..=after + count).map(|index| {
            Arc::new(Record {
                position: position(index),
                commit: Index::ZERO,
                version: Version::from_bits(index),
                payload: Payload::Noop,
            })
        });
        Append {
            epoch: Epoch(1),
            prev: position(after),
            records: records.collect(),
            commit: Index::ZERO,
            round: Round(1),
            clock: Version::ZERO,
            acknowledged_clock: Version::ZERO,
            echo: None,
            lacking: None,
        }
    }

    #[test]
    fn what_is_under_way_takes_room_until_it_is_durable() {
        let mut under_way = UnderWay::default();
        under_way.sent(&append(4, 10));
        let ten = under_way.bytes;
        assert_eq!(under_way.room(), WINDOW_BYTES - ten);
        under_way.durable(Index(9));
        assert_eq!(under_way.bytes, ten / 2);
        // The second half is sent again, and more.
        under_way.sent(&append(9, 15));
        assert_eq!(under_way.bytes, ten / 10 * 15);
        under_way.durable(Index(24));
        assert_eq!((under_way.bytes, under_way.room()), (0, WINDOW_BYTES));
    }
}
