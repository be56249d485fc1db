//! Reads that any member in sync may answer: `CACHED` and `SESSION`, within their bound (REP-AGE).
//!
//! ```text
//!  read ──► one of two members ──► answer ─────────────────────────────► reader
//!             │ refused: not applied yet, too old ──► the master ──► answer ──►
//!             │ takes longer than nearly all others ──► one more member ──►     (the first answer
//!             │ answers nothing ──► one more member ──►                          counts)
//! ```
//!
//! Each member is asked once at most. A member that does not answer gets no more reads, but for a
//! copy of one now and then, by which it is seen to be back.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use metrics::{counter, describe_counter};
use tierkv_rpc::{
    CallError,
    proto::internal::{Read, reply, request},
    tiers::{Peer, ToDataNode},
};
use tierkv_types::{Clock, Code, Error, SystemClock, Version};
use tokio::time::{Instant, sleep_until};

use crate::{
    choice::choose,
    cluster_clock::ClusterClock,
    hedging::Hedging,
    load::{End, Load},
};

/// How often a read that could not be hedged is looked at again.
const RECHECK: Duration = Duration::from_millis(5);
/// How long a copy of a read that is sent as a probe is waited for.
const PROBE_TIME: Duration = Duration::from_secs(1);

/// Describes the metrics of these reads.
pub(crate) fn describe_metrics() {
    describe_counter!(
        "tierkv_reads_hedged_total",
        "Reads that were sent to one more member because the first took long."
    );
    // Shown from the start.
    counter!("tierkv_reads_hedged_total").increment(0);
}

/// A process that can be asked for a read.
pub(crate) trait Ask: Clone + Send + Sync + 'static {
    /// Sends a read and waits for its answer until `deadline`.
    fn ask(
        &self,
        read: Read,
        deadline: Instant,
    ) -> impl Future<Output = Result<reply::Kind, CallError>> + Send + 'static;
}

impl Ask for Peer<ToDataNode> {
    fn ask(
        &self,
        read: Read,
        deadline: Instant,
    ) -> impl Future<Output = Result<reply::Kind, CallError>> + Send + 'static {
        let peer = self.clone();
        async move { peer.call(request::Kind::Read(read), deadline).await }
    }
}

/// The load of one process, shared by all its reads.
pub(crate) type SharedLoad = Arc<Mutex<Load>>;

/// One member of a cluster.
#[derive(Clone)]
pub(crate) struct Member<P> {
    pub(crate) peer: P,
    pub(crate) load: SharedLoad,
    pub(crate) is_master: bool,
}

/// What all reads of one cluster share. It outlives the routing table.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    hedging: Mutex<Hedging>,
    clock: ClusterClock,
}

impl Balance {
    fn hedging(&self) -> MutexGuard<'_, Hedging> {
        // The code under the lock is arithmetic and does not panic.
        self.hedging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of the cluster's clock in an answer.
    pub(crate) fn learn_clock(&self, answer: &reply::Kind) {
        let shown = match answer {
            reply::Kind::Read(read) => read.clock,
            reply::Kind::Vouch(vouch) => vouch.clock,
            reply::Kind::Write(_) | reply::Kind::Error(_) => 0,
        };
        let now = SystemClock.boot_time();
        self.clock.learn(now, Version::from_bits(shown));
    }
}

/// Has one of the members answer a read.
///
/// # Errors
/// That of the last member that was asked; all others refused, or don't answer.
pub(crate) async fn read<P: Ask>(
    members: &[Member<P>],
    balance: &Arc<Balance>,
    mut read: Read,
    deadline: Instant,
) -> Result<reply::Kind, Error> {
    let known = balance.clock.at(SystemClock.boot_time());
    read.clock = read.clock.max(known.to_bits());
    let hedge_after = balance.hedging().begin();
    let mut asking = Asking {
        members,
        balance,
        read,
        deadline,
        is_asked: vec![false; members.len()],
        under_way: FuturesUnordered::new(),
    };
    asking.probe();
    let answer = asking.run(hedge_after).await;
    asking.leave();
    if let Ok(answer) = &answer {
        balance.learn_clock(answer);
    }
    answer
}

/// The outcome of asking the member with this index.
type Asked = (usize, Result<reply::Kind, CallError>);

/// One read, and the members that were asked for it.
struct Asking<'a, P> {
    members: &'a [Member<P>],
    balance: &'a Arc<Balance>,
    read: Read,
    deadline: Instant,
    is_asked: Vec<bool>,
    under_way: FuturesUnordered<BoxFuture<'static, Asked>>,
}

impl<P: Ask> Asking<'_, P> {
    async fn run(&mut self, hedge_after: Duration) -> Result<reply::Kind, Error> {
        let Some(first) = self.choose(|_| true) else {
            return Err(nobody());
        };
        self.ask(first);
        let mut check_at = Instant::now() + hedge_after;
        loop {
            tokio::select! {
                biased;
                Some((at, outcome)) = self.under_way.next() => {
                    let failure = match outcome {
                        Ok(answer) => return Ok(answer),
                        Err(error) => error.for_read(),
                    };
                    if !self.goes_on(at, &failure) {
                        return Err(failure);
                    }
                    match self.after_refusal() {
                        Some(next) => {
                            self.ask(next);
                            check_at = Instant::now() + hedge_after;
                        }
                        None if self.under_way.is_empty() => return Err(failure),
                        None => {}
                    }
                }
                () = sleep_until(check_at), if self.is_asked.contains(&false) => {
                    check_at = match self.hedge() {
                        true => Instant::now() + hedge_after,
                        false => Instant::now() + RECHECK,
                    };
                }
            }
        }
    }

    /// Asks one more member, if one answers and the budget allows it. A read whose members answer
    /// nothing at all costs the budget nothing: they get no more reads.
    fn hedge(&mut self) -> bool {
        let Some(next) = self.choose_answering() else {
            return false;
        };
        let now = Instant::now();
        let mut asked = (self.is_asked.iter().zip(self.members)).filter(|(is_asked, _)| **is_asked);
        let are_silent = asked.all(|(_, member)| load(&member.load).standing(now).is_out);
        if !are_silent && !self.balance.hedging().take() {
            return false;
        }
        counter!("tierkv_reads_hedged_total").increment(1);
        self.ask(next);
        true
    }

    fn ask(&mut self, at: usize) {
        self.is_asked[at] = true;
        let balance = Some(Arc::clone(self.balance));
        let asked = send(&self.members[at], balance, self.read.clone(), self.deadline);
        self.under_way
            .push(Box::pin(async move { (at, asked.await) }));
    }

    /// Whether another member may succeed where this one has not.
    fn goes_on(&self, at: usize, failure: &Error) -> bool {
        match failure.code {
            Code::InvalidArgument | Code::DeadlineExceeded => false,
            Code::Unavailable => true,
            // What a replica has not, or has damaged, its master may have.
            code => code.is_misrouted() || !self.members[at].is_master,
        }
    }

    /// Whom to ask after a refusal: the master has everything.
    fn after_refusal(&self) -> Option<usize> {
        let mut places = 0..self.members.len();
        let master = places.find(|at| self.members[*at].is_master && !self.is_asked[*at]);
        master.or_else(|| self.choose(|at| !self.is_asked[at]))
    }

    /// One that was not asked yet and answers.
    fn choose_answering(&self) -> Option<usize> {
        let now = Instant::now();
        self.choose(|at| !self.is_asked[at] && !load(&self.members[at].load).standing(now).is_out)
    }

    fn choose(&self, may_be: impl Fn(usize) -> bool) -> Option<usize> {
        let now = Instant::now();
        let standings: Vec<_> = (self.members.iter())
            .map(|member| load(&member.load).standing(now))
            .collect();
        choose(&standings, may_be, |below| rand::random_range(0..below))
    }

    /// Sends a copy of the read to each member that does not answer, if a probe is due.
    fn probe(&self) {
        let now = Instant::now();
        for member in self.members {
            if load(&member.load).begin_probe(now) {
                let deadline = self.deadline.min(now + PROBE_TIME);
                tokio::spawn(send(member, None, self.read.clone(), deadline));
            }
        }
    }

    /// The read is answered. What is still under way shows how long its members take.
    fn leave(&mut self) {
        let mut under_way = std::mem::take(&mut self.under_way);
        if !under_way.is_empty() {
            tokio::spawn(async move { while under_way.next().await.is_some() {} });
        }
    }
}

/// Sends a read to a member and counts it in the member's load. `balance`: unless it is a probe.
fn send<P: Ask>(
    member: &Member<P>,
    balance: Option<Arc<Balance>>,
    read: Read,
    deadline: Instant,
) -> impl Future<Output = Result<reply::Kind, CallError>> + Send + 'static {
    let since = Instant::now();
    load(&member.load).begin(since);
    let counted = Counted {
        load: Arc::clone(&member.load),
        since,
        end: None,
    };
    let asked = member.peer.ask(read, deadline);
    async move {
        let mut counted = counted;
        let outcome = asked.await;
        counted.end = end(&outcome);
        if let Some(balance) = balance.filter(|_| outcome.is_ok()) {
            balance.hedging().answered(since.elapsed());
        }
        outcome
    }
}

/// How a call ended for the member's standing; `None`: that shows nothing.
fn end(outcome: &Result<reply::Kind, CallError>) -> Option<End> {
    match outcome {
        Ok(_) => Some(End::Answered),
        // The reader's time was over.
        Err(CallError::Lost(error) | CallError::Unsent(error))
            if error.code == Code::DeadlineExceeded || error.code == Code::ResourceExhausted =>
        {
            None
        }
        Err(CallError::Lost(_) | CallError::Unsent(_)) => Some(End::Failed),
        // Another process is there.
        Err(CallError::Refused(error)) if error.code == Code::WrongNode => Some(End::Failed),
        Err(CallError::Refused(_)) => Some(End::Refused),
    }
}

/// A read in a member's load, until it is dropped.
struct Counted {
    load: SharedLoad,
    since: Instant,
    end: Option<End>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut load = load(&self.load);
        match self.end {
            Some(end) => load.end(Instant::now(), self.since, end),
            None => load.abandon(),
        }
    }
}

fn load(load: &SharedLoad) -> MutexGuard<'_, Load> {
    // The code under the lock is arithmetic and does not panic.
    load.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nobody() -> Error {
    Error::unavailable("no member of the key's cluster could be reached; try again")
}

#[cfg(test)]
mod tests;
