//! Frames of requests: reads are answered from memory or the store, writes are sequenced.

mod member_reads;

use std::sync::Arc;

use bytes::Bytes;
use tierkv_coordination::directory::Presence;
use tierkv_rpc::{
    FrameHandler, OperationPermits, OperationTimes, Replies, TierTimes,
    proto::{
        convert,
        internal::{
            self, CommitIndexReply, Reply, ReplyFrame, Request, RequestFrame, VouchReply,
            WriteReply, reply, request,
        },
        v1,
    },
    tiers::{reply, reply_weight},
};
use tierkv_storage::{MemoryLimits, Storage};
use tierkv_types::{Code, Error, NodeId, Operation, OperationKind, Version, WriteRequest};
use tokio::{
    sync::{Mutex, watch},
    time::Instant,
};

use crate::{
    confirming::Confirming,
    orders::Orders,
    ownership::Owned,
    proposal::{Answer, Proposal, Sequenced},
    reads::{Basis, Missing, ReadView, load},
    sequencer::Sequencer,
    write_path::{Answers, WritePath},
};

/// Everything a request needs.
pub(crate) struct Service {
    pub(crate) node: Arc<NodeId>,
    pub(crate) cluster: String,
    pub(crate) sequencer: Arc<Sequencer>,
    pub(crate) orders: Orders,
    pub(crate) storage: Arc<Storage>,
    pub(crate) owned: Arc<Owned>,
    /// Proofs for reads.
    pub(crate) confirming: Arc<Confirming>,
    /// The memory tier's limits in force.
    pub(crate) memory: watch::Receiver<MemoryLimits>,
    /// This process.
    pub(crate) presence: Presence,
    /// How long operations take.
    pub(crate) times: TierTimes,
}

/// A frame's requests, by kind.
#[derive(Default)]
struct Sorted {
    writes: Vec<Proposal>,
    replies: Vec<Reply>,
    missing: Vec<Missing>,
    /// What `replies` answer.
    at_once: AtOnce,
}

/// Requests that are answered at once.
#[derive(Default)]
struct AtOnce {
    reads: usize,
    writes: usize,
    vouches: usize,
}

impl FrameHandler for Service {
    type RequestFrame = RequestFrame;
    type Reply = Reply;
    type ReplyFrame = ReplyFrame;

    async fn frame(self: &Arc<Self>, frame: RequestFrame, replies: &Replies<Reply>) {
        match self.sequencer.confirm_at_once() {
            Ok(Some(clock)) => self.answer(frame, self.view(Ok(clock)), replies).await,
            Ok(None) => {
                let clock = self.sequencer.acknowledged_now();
                self.among_others(frame, clock, replies).await;
            }
            Err(error) => self.among_others(frame, Err(error), replies).await,
        }
    }

    fn weight(reply: &Reply) -> usize {
        reply_weight(reply)
    }

    fn pack(&self, replies: Vec<Reply>) -> ReplyFrame {
        ReplyFrame { replies }
    }
}

/// Sends the answers of one frame's writes, and frees the permits that they took.
struct FrameAnswers {
    replies: Replies<Reply>,
    /// When the frame arrived.
    arrived: Instant,
    times: OperationTimes,
    places: Mutex<OperationPermits>,
}

impl Answers for FrameAnswers {
    async fn give(&self, answers: Vec<Answer>) {
        let count = answers.len();
        self.times.ended(self.arrived, count);
        let replies = answers.into_iter().map(|answer| {
            let applied = answer.result.map(|it| reply::Kind::Write(applied(it)));
            reply(answer.id, applied)
        });
        self.replies.send(replies.collect()).await;
        self.places.lock().await.answered(count);
    }
}

impl Service {
    /// Handles a frame at a node that is not alone in sync. Its reads may wait for a proof of
    /// mastership, the rest does not. `clock`: the one by which the rest is dated, at a master.
    async fn among_others(
        self: &Arc<Self>,
        frame: RequestFrame,
        clock: Result<Version, Error>,
        replies: &Replies<Reply>,
    ) {
        let arrived = Instant::now();
        let is_read = |request: &Request| matches!(request.kind, Some(request::Kind::Read(_)));
        let (reads, others): (Vec<_>, Vec<_>) = frame.requests.into_iter().partition(is_read);
        if !others.is_empty() {
            let view = self.view(clock);
            self.answer(RequestFrame { requests: others }, view, replies)
                .await;
        }
        if !reads.is_empty() {
            self.read_among(reads, arrived, replies).await;
        }
    }

    /// Answers a frame of which nothing has to wait for a proof of mastership.
    async fn answer(
        self: &Arc<Self>,
        frame: RequestFrame,
        view: ReadView,
        replies: &Replies<Reply>,
    ) {
        let mut sorted = self.sort(frame, &view);
        let arrived = view.arrived;
        let writes = std::mem::take(&mut sorted.writes);
        self.time_answered(&sorted.at_once, arrived);
        replies.send(std::mem::take(&mut sorted.replies)).await;
        if !sorted.missing.is_empty() {
            let Some(places) = replies.admit(sorted.missing.len()).await else {
                return;
            };
            let (service, replies) = (Arc::clone(self), replies.clone());
            tokio::spawn(async move {
                let (storage, times) = (&service.storage, &service.times.reads);
                load(&view, sorted.missing, places, storage, times, &replies).await;
            });
        }
        if !writes.is_empty() {
            let Some(places) = replies.admit(writes.len()).await else {
                return;
            };
            let answers = FrameAnswers {
                replies: replies.clone(),
                arrived,
                times: self.times.writes.clone(),
                places: Mutex::new(places),
            };
            let path = self.write_path();
            tokio::spawn(async move {
                path.write(writes, &answers).await;
            });
        }
    }

    /// Answers reads that hold `places`.
    async fn read(
        &self,
        view: ReadView,
        sorted: Sorted,
        mut places: OperationPermits,
        replies: &Replies<Reply>,
    ) {
        self.time_answered(&sorted.at_once, view.arrived);
        places.answered(sorted.replies.len());
        replies.send(sorted.replies).await;
        if !sorted.missing.is_empty() {
            let (storage, times) = (&self.storage, &self.times.reads);
            load(&view, sorted.missing, places, storage, times, replies).await;
        }
    }

    fn time_answered(&self, at_once: &AtOnce, arrived: Instant) {
        self.times.reads.ended(arrived, at_once.reads);
        self.times.writes.ended(arrived, at_once.writes);
        self.times.vouches.ended(arrived, at_once.vouches);
    }

    pub(crate) fn write_path(&self) -> WritePath {
        WritePath {
            sequencer: Arc::clone(&self.sequencer),
            storage: Arc::clone(&self.storage),
        }
    }

    /// The view for all requests of a frame. `confirmed`: a proof from after the frame's arrival
    /// that this node is the master, as `LATEST`, confirmed reads and cache fills need it, with the
    /// clock to judge expiry by. One is enough for the whole frame.
    pub(crate) fn view(&self, confirmed: Result<Version, Error>) -> ReadView {
        let (basis, clock) = match confirmed {
            Ok(clock) => (Ok(Basis::Proven), clock),
            Err(error) => (Err(error), Version::ZERO),
        };
        ReadView {
            basis,
            is_replica: !self.sequencer.is_acting(),
            sequencer: Arc::clone(&self.sequencer),
            // Before any key is read: an absent key is absent as of this version.
            as_of: self.storage.applied().1,
            clock,
            owned: self.owned.now(),
            arrived: Instant::now(),
            node: Arc::clone(&self.node),
        }
    }

    fn sort(&self, frame: RequestFrame, view: &ReadView) -> Sorted {
        let mut sorted = Sorted::default();
        for Request {
            id,
            timeout_ms,
            kind,
        } in frame.requests
        {
            match kind {
                Some(request::Kind::Write(write)) => match self.admit(write, view) {
                    Ok(write) => {
                        let deadline = view.arrived + convert::timeout(timeout_ms);
                        sorted.writes.push(Proposal::new(id, write, deadline));
                    }
                    Err(error) => {
                        sorted.at_once.writes += 1;
                        sorted.replies.push(reply(id, Err(error)));
                    }
                },
                Some(request::Kind::Read(read)) => match view.read(id, read, &self.storage) {
                    Ok(answer) => {
                        sorted.at_once.reads += 1;
                        sorted.replies.push(answer);
                    }
                    Err(miss) => sorted.missing.push(miss),
                },
                Some(request::Kind::Vouch(vouch)) => {
                    sorted.at_once.vouches += 1;
                    let answer = self.vouch(&vouch.cluster, view);
                    sorted.replies.push(reply(id, answer));
                }
                None => sorted.replies.push(reply(id, Err(no_kind(view)))),
            }
        }
        sorted
    }

    fn admit(&self, write: internal::Write, view: &ReadView) -> Result<WriteRequest, Error> {
        // A node that is no master may not have applied what its cluster owns.
        view.basis.clone()?;
        let routed_by = write.placement_version;
        let write = write.into_request()?;
        let conditions = write.conditions.iter().map(|condition| &condition.key);
        let operations = write.operations.iter().map(|operation| &operation.key);
        for key in conditions.chain(operations) {
            view.owned.check(key.slot(), routed_by)?;
        }
        Ok(detached(write))
    }

    /// Answers a replica's question: the index up to which it must have applied the log to answer a
    /// read from before the question.
    ///
    /// # Errors
    /// `NotMaster` if this node may not act as master.
    pub(crate) async fn commit_index(&self) -> Result<CommitIndexReply, Error> {
        let clock = self.sequencer.confirm_read().await?;
        // Every acknowledged write is applied, and so is everything that a read has shown.
        let (index, _) = self.storage.applied();
        Ok(CommitIndexReply {
            index: index.0,
            clock: clock.to_bits(),
        })
    }

    fn vouch(&self, cluster: &str, view: &ReadView) -> Result<reply::Kind, Error> {
        // Under the lock: a round that has started must not be missed.
        let (epoch, round) = (self.sequencer).confirm(|term| (term.epoch(), term.started()))?;
        if cluster != self.cluster {
            return Err(Error::new(
                Code::NotMaster,
                "this node belongs to another cluster",
            ));
        }
        Ok(reply::Kind::Vouch(VouchReply {
            epoch: epoch.0,
            round: round.0,
            placement_version: view.owned.version(),
            // The embedded pool always has one node.
            pool_version: 1,
            slots: view.owned.runs().to_vec(),
            clock: view.clock.to_bits(),
        }))
    }
}

/// The answer to a request without a kind.
fn no_kind(view: &ReadView) -> Error {
    let unknown = || Error::invalid("a request has neither a read nor a write nor a vouch");
    view.basis.clone().err().unwrap_or_else(unknown)
}

/// Copies the write's bytes: what the memory tier keeps must not keep the whole frame in
/// memory.
fn detached(write: WriteRequest) -> WriteRequest {
    let operations = (write.operations.into_iter())
        .map(|operation| Operation {
            key: operation.key.detached(),
            kind: match operation.kind {
                OperationKind::Put { value, ttl } => OperationKind::Put {
                    value: Bytes::copy_from_slice(&value),
                    ttl,
                },
                kind @ (OperationKind::Delete
                | OperationKind::Increment { .. }
                | OperationKind::Touch { .. }) => kind,
            },
        })
        .collect();
    WriteRequest {
        operations,
        ..write
    }
}

/// A write's answer as a wire message.
fn applied(sequenced: Sequenced) -> WriteReply {
    let results = (sequenced.effects.into_iter()).map(|effect| {
        let (value, version) = effect.previous.unzip();
        v1::WriteResult {
            existed: effect.existed,
            previous_value: value,
            previous_version: version.map_or(0, Version::to_bits),
            number: effect.number.unwrap_or(0),
        }
    });
    WriteReply {
        version: sequenced.version.to_bits(),
        results: results.collect(),
        replayed: sequenced.replayed,
    }
}
