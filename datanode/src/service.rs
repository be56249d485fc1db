//! The gRPC door of a data node.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tierkv_rpc::{
    Admitted, Answered, FrameHandler, Replies, StatusStream, answer_frames, deadline_or,
    proto::{
        convert,
        internal::{
            CountReply, CountRequest, InspectRequest, InspectResponse, Reply, ReplyFrame, Request,
            RequestFrame, ScanReply, ScanRequest, VouchReply, WatchReply, WatchRequest, WriteReply,
            data_node_server, reply, request,
        },
        status::to_status,
        v1,
    },
    tiers::{reply, reply_weight},
    until_stopped,
};
use tierkv_storage::{Item, MemoryLimits, Storage, StorageError};
use tierkv_types::{
    Code, Error, ItemKey, NodeId, Operation, OperationKind, Version, WriteRequest,
    limits::{MAX_PEER_IN_FLIGHT, MAX_TIMEOUT},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tonic::{Response, Status, Streaming};

use crate::{
    judgement::{Need, Prior, Priors},
    ownership::Owned,
    reads::{Missing, ReadView},
    sequencer::{Known, Proposal, Proposed, Sequenced, Sequencer, needs},
    watches::Watches,
};

/// Keys that one read of the store asks for.
const KEYS_PER_LOAD: usize = 50;

/// Bytes of values that are read from the store for what writes of one frame are to be
/// told or judged by. Over it those that need more are refused.
const PRIOR_BYTES: usize = 64 << 20;

/// Everything a request needs.
pub(crate) struct Service {
    pub(crate) node: Arc<NodeId>,
    pub(crate) cluster: String,
    pub(crate) sequencer: Arc<Sequencer>,
    pub(crate) storage: Arc<Storage>,
    pub(crate) owned: Arc<Owned>,
    /// What is in force in the memory tier.
    pub(crate) memory: watch::Receiver<MemoryLimits>,
}

/// The service as tonic wants it.
pub(crate) struct Door {
    pub(crate) service: Arc<Service>,
    pub(crate) watches: Watches,
    /// Ends the streams when the node stops.
    pub(crate) stop: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl data_node_server::DataNode for Door {
    type ExchangeStream = Answered<Service>;
    type ScanStream = StatusStream<ScanReply>;
    type WatchStream = StatusStream<WatchReply>;

    async fn exchange(
        &self,
        request: tonic::Request<Streaming<RequestFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let stream = answer_frames(
            request.into_inner(),
            Arc::clone(&self.service),
            None,
            MAX_PEER_IN_FLIGHT,
            self.stop.clone(),
        );
        Ok(Response::new(stream))
    }

    async fn scan(
        &self,
        request: tonic::Request<ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let deadline = deadline_or(&request, MAX_TIMEOUT);
        let (request, stop) = (request.into_inner(), self.stop.clone());
        let replies = self.service.scan(request, deadline, stop).await;
        let replies = replies.map_err(|error| to_status(&error))?;
        let replies = replies.map_err(|error| to_status(&error));
        Ok(Response::new(replies.boxed()))
    }

    async fn count(
        &self,
        request: tonic::Request<CountRequest>,
    ) -> Result<Response<CountReply>, Status> {
        let deadline = deadline_or(&request, MAX_TIMEOUT);
        let counted = self.service.count(request.into_inner(), deadline).await;
        counted
            .map(Response::new)
            .map_err(|error| to_status(&error))
    }

    async fn watch(
        &self,
        request: tonic::Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let replies = self.watches.watch(request.into_inner()).await;
        let replies = replies.map_err(|error| to_status(&error))?;
        Ok(Response::new(until_stopped(replies, self.stop.clone())))
    }

    async fn inspect(
        &self,
        _: tonic::Request<InspectRequest>,
    ) -> Result<Response<InspectResponse>, Status> {
        Ok(Response::new(self.service.inspect()))
    }
}

/// A frame's requests, by kind.
#[derive(Default)]
struct Sorted {
    writes: Vec<(u64, Proposal)>,
    replies: Vec<Reply>,
}

impl FrameHandler for Service {
    type RequestFrame = RequestFrame;
    type Reply = Reply;
    type ReplyFrame = ReplyFrame;

    async fn frame(self: &Arc<Self>, frame: RequestFrame, replies: &Replies<Reply>) {
        let arrived = Instant::now();
        // `LATEST`, confirmed reads and cache fills all need a master that may confirm
        // now; one question answers for the frame, since it was asked after it arrived.
        let confirmed = self
            .sequencer
            .confirm(|term| (term.epoch(), term.started()));
        let view = ReadView {
            // Before any key is read: what is absent then is absent as of this version.
            as_of: self.storage.applied().1,
            clock: self.sequencer.now(),
            owned: self.owned.now(),
            arrived,
            node: Arc::clone(&self.node),
        };
        let mut sorted = Sorted::default();
        let mut missing = Vec::new();
        for Request {
            id,
            timeout_ms,
            kind,
        } in frame.requests
        {
            let refused = |error: &Error| reply(id, Err(error.clone()));
            match (kind, &confirmed) {
                (Some(request::Kind::Write(write)), _) => match self.admit(write, &view) {
                    Ok(write) => {
                        let deadline = arrived + convert::timeout(timeout_ms);
                        sorted.writes.push((id, Proposal { write, deadline }));
                    }
                    Err(error) => sorted.replies.push(refused(&error)),
                },
                (Some(_), Err(error)) => sorted.replies.push(refused(error)),
                (Some(request::Kind::Read(read)), Ok(_)) => {
                    match view.read(id, read, &self.storage) {
                        Ok(answer) => sorted.replies.push(answer),
                        Err(miss) => missing.push(miss),
                    }
                }
                (Some(request::Kind::Vouch(vouch)), Ok((epoch, round))) => {
                    let answer = self.vouch(&vouch.cluster, epoch.0, round.0, &view);
                    sorted.replies.push(reply(id, answer));
                }
                (None, _) => sorted.replies.push(refused(&Error::invalid(
                    "a request says neither read nor write nor vouch",
                ))),
            }
        }
        replies.send(sorted.replies).await;
        if !missing.is_empty() {
            let Some(admitted) = replies.admit(missing.len()).await else {
                return;
            };
            let (storage, replies) = (Arc::clone(&self.storage), replies.clone());
            tokio::spawn(async move {
                load(&view, missing, admitted, &storage, &replies).await;
            });
        }
        if !sorted.writes.is_empty() {
            let Some(permit) = replies.admit(sorted.writes.len()).await else {
                return;
            };
            let (service, replies) = (Arc::clone(self), replies.clone());
            tokio::spawn(async move {
                replies.send(service.write(sorted.writes).await).await;
                drop(permit);
            });
        }
    }

    fn weight(reply: &Reply) -> usize {
        reply_weight(reply)
    }

    fn pack(replies: Vec<Reply>) -> ReplyFrame {
        ReplyFrame { replies }
    }
}

impl Service {
    fn admit(
        &self,
        write: tierkv_rpc::proto::internal::Write,
        view: &ReadView,
    ) -> Result<WriteRequest, Error> {
        let routed_by = write.placement_version;
        let write = write.into_request()?;
        let conditions = write.conditions.iter().map(|condition| &condition.key);
        let operations = write.operations.iter().map(|operation| &operation.key);
        for key in conditions.chain(operations) {
            view.owned.check(key.slot(), routed_by)?;
        }
        Ok(detached(write))
    }

    /// Sequences a frame's writes; their answers are there once they are committed, or once
    /// nobody waits for them any more.
    async fn write(&self, writes: Vec<(u64, Proposal)>) -> Vec<Reply> {
        let Some(last) = writes.iter().map(|(_, proposal)| proposal.deadline).max() else {
            return Vec::new();
        };
        let (ids, proposals): (Vec<u64>, Vec<Proposal>) = writes.into_iter().unzip();
        let refuse = |error: &Error| {
            ids.iter()
                .map(|id| reply(*id, Err(error.clone())))
                .collect()
        };
        // The memory tier's bound: a slow disk slows writers and never fills memory.
        if timeout_at(last, self.storage.room()).await.is_err() {
            return refuse(&Error::new(
                Code::DeadlineExceeded,
                "the disk did not keep up with the writes before this one; nothing was done",
            ));
        }
        let Proposed { answers, committed } = match self.propose(proposals, last).await {
            Ok(proposed) => proposed,
            Err(error) => return refuse(&error),
        };
        let known = matches!(timeout_at(last, committed).await, Ok(Ok(())));
        let outcome = |answer: Result<Sequenced, Error>| match (answer, known) {
            (Ok(sequenced), true) => Ok(reply::Kind::Write(applied(sequenced))),
            (Ok(_), false) => Err(Error::outcome_unknown(
                "the write was logged and not yet committed when its time was over; read the \
                 key, or send it again with the same request id",
            )),
            (Err(error), true) => Err(error),
            (Err(error), false) => Err(match error.code {
                // What it was judged by is not committed yet, and may never be (REP-APPLY).
                Code::ConditionFailed | Code::InvalidArgument => Error::unavailable(
                    "what the write was judged by was not committed in time; nothing was done",
                ),
                _ => error,
            }),
        };
        ids.iter()
            .zip(answers)
            .map(|(id, answer)| reply(*id, outcome(answer)))
            .collect()
    }

    /// What the store has of keys that memory does not know, a few keys at a time, so that
    /// many large values are never held together. A row that is damaged is there: it may be
    /// deleted, and keeps no other write of the frame back.
    async fn load_priors(&self, needs: Vec<(ItemKey, Need)>) -> Result<Priors, Error> {
        let mut priors = Priors::with_capacity(needs.len());
        let mut bytes = 0;
        for needs in needs.chunks(KEYS_PER_LOAD) {
            let keys: Vec<ItemKey> = needs.iter().map(|(key, _)| key.clone()).collect();
            let loaded = self.load_some(&keys).await?;
            for ((key, need), prior) in needs.iter().zip(loaded) {
                let mut prior = prior.reduced_to(*need);
                bytes += prior.bytes();
                if bytes > PRIOR_BYTES {
                    bytes -= prior.bytes();
                    prior = Prior::Untold(Error::exhausted(format!(
                        "writes that arrived together ask for over {PRIOR_BYTES} bytes of \
                         previous values, which is the limit prior_bytes; nothing was done, try \
                         again"
                    )));
                }
                priors.insert(key.clone(), prior);
            }
        }
        Ok(priors)
    }

    async fn load_some(&self, keys: &[ItemKey]) -> Result<Vec<Prior>, Error> {
        let prior = |item: Option<Item>| item.map_or(Prior::Absent, Prior::Held);
        if let Ok(items) = self.storage.load(keys).await {
            return Ok(items.into_iter().map(prior).collect());
        }
        let mut priors = Vec::with_capacity(keys.len());
        for key in keys {
            let item = self.storage.load(std::slice::from_ref(key)).await;
            priors.push(match item {
                Ok(mut item) => prior(item.pop().flatten()),
                Err(error @ StorageError::Damaged { .. }) => Prior::Untold(error.to_error()),
                Err(error) => return Err(error.to_error()),
            });
        }
        Ok(priors)
    }

    /// Loads what the answers need to know of the store, then sequences; until `last`.
    async fn propose(
        &self,
        mut proposals: Vec<Proposal>,
        last: Instant,
    ) -> Result<Proposed, Error> {
        loop {
            let unknown: Vec<(ItemKey, Need)> = needs(&proposals)
                .into_iter()
                .filter(|(key, _)| self.sequencer.is_unknown(key))
                .map(|(key, need)| (key.clone(), need))
                .collect();
            let generation = self.storage.generation();
            let priors = self.load_priors(unknown).await?;
            match self
                .sequencer
                .propose(proposals, &Known { generation, priors })
            {
                Ok(proposed) => return Ok(proposed),
                Err(_) if Instant::now() >= last => {
                    return Err(Error::new(
                        Code::DeadlineExceeded,
                        "what the write depends on could not be read in time; nothing was done",
                    ));
                }
                Err(again) => proposals = again,
            }
        }
    }

    fn vouch(
        &self,
        cluster: &str,
        epoch: u64,
        round: u64,
        view: &ReadView,
    ) -> Result<reply::Kind, Error> {
        if cluster != self.cluster {
            return Err(Error::new(
                Code::NotMaster,
                "this node belongs to another cluster",
            ));
        }
        Ok(reply::Kind::Vouch(VouchReply {
            epoch,
            round,
            placement_version: view.owned.version(),
            // The embedded pool has one node for ever.
            pool_version: 1,
            slots: view.owned.runs().to_vec(),
            clock: view.clock.to_bits(),
        }))
    }

    fn inspect(&self) -> InspectResponse {
        let (last, commit, mastership) = self.sequencer.standing();
        let confirmed = self.sequencer.confirm(|_| ()).is_ok();
        let role = match (&mastership, confirmed) {
            (Some(_), true) => "master",
            (Some(_), false) => "taking over",
            (None, _) => "starting",
        };
        let presence = tierkv_coordination::directory::Presence::of_this_process(String::new());
        InspectResponse {
            host: presence.host,
            pid: presence.pid,
            role: role.to_owned(),
            epoch: mastership.map_or(0, |term| term.epoch().0),
            log_index: last.index.0,
            commit_index: commit.0,
            age_ms: 0,
            memory: Some(in_force(*self.memory.borrow())),
        }
    }
}

/// What is in force in memory, as it goes over the wire.
fn in_force(limits: MemoryLimits) -> v1::MemoryLimits {
    let policy = convert::policy(&limits.policy.to_string());
    v1::MemoryLimits {
        policy: policy.unwrap_or_default().into(),
        max_records: limits.said_records(),
        max_bytes: limits.max_bytes,
    }
}

/// Asks the store for what memory does not know, a few keys at a time, so that many large
/// values are never held together.
async fn load(
    view: &ReadView,
    mut missing: Vec<Missing>,
    mut admitted: Admitted,
    storage: &Storage,
    replies: &Replies<Reply>,
) {
    while !missing.is_empty() {
        let count = missing.len().min(KEYS_PER_LOAD);
        let rest = missing.split_off(count);
        let some = std::mem::replace(&mut missing, rest);
        let keys: Vec<ItemKey> = some.iter().map(|miss| miss.key.clone()).collect();
        match storage.load(&keys).await {
            Ok(items) => replies.send(view.answer(some, items)).await,
            // A row that can't be read must not take its neighbours with it.
            Err(_) => {
                for (miss, key) in some.into_iter().zip(keys) {
                    let answer = match storage.load(&[key]).await {
                        Ok(items) => view.answer(vec![miss], items),
                        Err(error) => {
                            tracing::error!(%error, "a read was refused");
                            vec![reply(miss.id, Err(error.to_error()))]
                        }
                    };
                    replies.send(answer).await;
                }
            }
        }
        admitted.answered(count);
    }
}

/// The write in memory of its own: what the memory tier keeps must not pin the frame it
/// came in.
fn detached(write: WriteRequest) -> WriteRequest {
    let operations = (write.operations.into_iter())
        .map(|operation| Operation {
            key: operation.key.detached(),
            kind: match operation.kind {
                OperationKind::Put { value, ttl } => OperationKind::Put {
                    value: Bytes::copy_from_slice(&value),
                    ttl,
                },
                kind @ (OperationKind::Delete | OperationKind::Increment { .. }) => kind,
            },
        })
        .collect();
    WriteRequest {
        operations,
        ..write
    }
}

/// A write's answer as it goes over the wire.
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
