//! The path of a frame down to the masters and back.
//!
//! Every request of a frame goes to its slot's master, in a frame with all other requests that go
//! there. Answers are sent back as they arrive. A request refused with `NotMaster`, `WrongOwner` or
//! `StaleEpoch` waits for a newer table within its deadline: users never see these codes. So does one
//! whose master is lost before it answers: a write may then have been applied ([`Doubt`]).

use std::{future::pending, sync::Arc, time::Duration};

use futures::stream::{FuturesUnordered, StreamExt};
use tierkv_rpc::{
    CallError, FrameHandler, Replies, TierTimes, last_attempt,
    proto::{
        convert,
        internal::{Reply, ReplyFrame, Request, RequestFrame, reply, request},
    },
    tiers::{reply, reply_weight},
};
use tierkv_types::{ClusterId, Code, Epoch, Error, NodeId, Slot};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{balanced_read, doubt::Doubt, routes::Routes, target::Target};

/// How long a refused request waits for a newer table before it is retried anyway: a master that is
/// taking over returns `NotMaster` until it is ready.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Maximum number of answers sent back in one frame.
const ANSWERS_TOGETHER: usize = 128;

/// The name of this tier, in metrics and in the path of a read.
pub(crate) const TIER: &str = "server-coordinator";

/// Routes the frames of client coordinators.
pub(crate) struct Router {
    /// The name of this coordinator's node.
    pub(crate) node: NodeId,
    pub(crate) routes: watch::Receiver<Arc<Routes>>,
    /// How long its operations take.
    pub(crate) times: TierTimes,
}

impl FrameHandler for Router {
    type RequestFrame = RequestFrame;
    type Reply = Reply;
    type ReplyFrame = ReplyFrame;

    async fn frame(self: &Arc<Self>, frame: RequestFrame, replies: &Replies<Reply>) {
        let arrived = Instant::now();
        let Some(mut permits) = replies.admit(frame.requests.len()).await else {
            return;
        };
        let (router, replies) = (Arc::clone(self), replies.clone());
        tokio::spawn(async move {
            let under_way: FuturesUnordered<_> = (frame.requests.into_iter())
                .map(|request| router.answer(request, arrived))
                .collect();
            let mut answered = under_way.ready_chunks(ANSWERS_TOGETHER);
            while let Some(chunk) = answered.next().await {
                let count = chunk.len();
                replies.send(chunk).await;
                // A slow request holds up no other.
                permits.answered(count);
            }
        });
    }

    fn weight(reply: &Reply) -> usize {
        reply_weight(reply)
    }

    fn pack(&self, replies: Vec<Reply>) -> ReplyFrame {
        ReplyFrame { replies }
    }
}

impl Router {
    async fn answer(&self, request: Request, arrived: Instant) -> Reply {
        let deadline = arrived + convert::timeout(request.timeout_ms);
        let explain = matches!(&request.kind, Some(request::Kind::Read(read)) if read.explain);
        let mut outcome = match request.kind {
            Some(kind) => {
                let times = self.times.of_kind(&kind);
                let outcome = self.forward(kind, deadline).await;
                times.ended(arrived, 1);
                outcome
            }
            None => Err(Error::invalid(
                "the request is neither a read, a write nor a vouch",
            )),
        };
        if explain && let Ok(reply::Kind::Read(read)) = &mut outcome {
            let hop = convert::hop(TIER, self.node.as_str(), arrived.elapsed());
            read.path.insert(0, hop);
        }
        reply(request.id, outcome)
    }

    async fn forward(&self, kind: request::Kind, deadline: Instant) -> Result<reply::Kind, Error> {
        let target = target(&kind)?;
        let mut routes = self.routes.clone();
        let last_attempt = last_attempt(deadline);
        let mut doubt = Doubt::default();
        loop {
            let table = Arc::clone(&routes.borrow_and_update());
            let replaced = replaced(&target, table.epoch_of(&target), routes.clone());
            let failure = tokio::select! {
                biased;
                answered = attempt(&kind, &target, &table, deadline) => match answered {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                },
                () = replaced => lost_master(&kind),
            };
            let failure = doubt.after(failure);
            if let Err(last) = next_table(failure, &mut routes, last_attempt).await {
                return Err(doubt.end(last));
            }
        }
    }
}

/// Sends a request by one table.
async fn attempt(
    kind: &request::Kind,
    target: &Target,
    table: &Routes,
    deadline: Instant,
) -> Result<reply::Kind, Error> {
    let mut kind = kind.clone();
    let master = match target {
        Target::Cluster(cluster) => table.of_cluster(cluster)?,
        Target::Slot(_) | Target::Slots(_) => {
            if let request::Kind::Read(read) = &mut kind
                && read.max_staleness_ms > 0
                && let Some(route) = table.readers_of(Slot::of(&read.item_key))?
            {
                read.placement_version = route.placement_version;
                let read = std::mem::take(read);
                return balanced_read::read(&route.members, &route.balance, read, deadline).await;
            }
            let route = table.of_slots(target.slots())?;
            match &mut kind {
                request::Kind::Read(read) => read.placement_version = route.placement_version,
                request::Kind::Write(write) => write.placement_version = route.placement_version,
                request::Kind::Vouch(_) => {}
            }
            route.master
        }
    };
    let is_write = matches!(kind, request::Kind::Write(_));
    let answered = master.call(kind, deadline).await;
    let answer = answered
        .map_err(unreachable_in_words)
        .map_err(match is_write {
            true => CallError::for_write,
            false => CallError::for_read,
        })?;
    if let Target::Cluster(cluster) = target {
        table.learn_clock(cluster, &answer);
    }
    Ok(answer)
}

/// Waits until another master than that of `epoch` has the target. A lost one may keep its
/// connections open for long.
pub(crate) async fn replaced(
    target: &Target,
    epoch: Epoch,
    mut routes: watch::Receiver<Arc<Routes>>,
) {
    while routes.changed().await.is_ok() {
        if routes.borrow().epoch_of(target) > epoch {
            return;
        }
    }
    pending().await
}

/// The failure of a request to a master that was replaced before it answered.
fn lost_master(kind: &request::Kind) -> Error {
    match kind {
        request::Kind::Write(_) => Error::outcome_unknown(
            "the key's cluster changed its master before the write was answered; read the key, or \
             send it again with the same request id",
        ),
        request::Kind::Read(_) | request::Kind::Vouch(_) => {
            Error::unavailable("the key's cluster changed its master; try again")
        }
    }
}

/// A request that could not be sent in time did nothing, whatever kept the connection from opening:
/// the last known address of a lost machine, for example.
fn unreachable_in_words(error: CallError) -> CallError {
    match error {
        CallError::Unsent(unsent) if unsent.code == Code::DeadlineExceeded => {
            CallError::Unsent(Error::unavailable(
                "the master of the key's cluster could not be reached in time; nothing was done, \
                 try again",
            ))
        }
        error => error,
    }
}

/// Waits for a newer table, or a short time, before a retry.
///
/// # Errors
/// The failure in its form for users, if it is final or no time is left.
pub(crate) async fn next_table(
    failure: Error,
    routes: &mut watch::Receiver<Arc<Routes>>,
    last_attempt: Instant,
) -> Result<(), Error> {
    let again = failure.code.is_misrouted() || failure.code == Code::Unavailable;
    if !again || Instant::now() >= last_attempt {
        return Err(for_users(failure));
    }
    if let Ok(Err(_)) = timeout(RETRY_PAUSE, routes.changed()).await {
        // The table is no longer updated, so no change will wake this.
        sleep(RETRY_PAUSE).await;
    }
    Ok(())
}

/// The slots of the request's keys, or the cluster it names.
fn target(kind: &request::Kind) -> Result<Target, Error> {
    match kind {
        request::Kind::Read(read) => Ok(Target::Slot(Slot::of(&read.item_key))),
        request::Kind::Vouch(vouch) => Ok(Target::Cluster(ClusterId::new(&vouch.cluster)?)),
        request::Kind::Write(write) => {
            let mut slots: Vec<Slot> = write.item_keys().map(|key| Slot::of(key)).collect();
            slots.sort_unstable();
            slots.dedup();
            match slots.as_slice() {
                [] => Err(Error::invalid("a write has at least one change")),
                [slot] => Ok(Target::Slot(*slot)),
                _ => Ok(Target::Slots(slots)),
            }
        }
    }
}

/// To users, the codes between tiers mean only that nothing was done.
pub(crate) fn for_users(error: Error) -> Error {
    match error.code.is_misrouted() {
        true => Error::unavailable("the key's cluster had no ready master in time; try again"),
        false => error,
    }
}
