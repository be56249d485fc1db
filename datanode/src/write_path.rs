//! A frame's writes, from the wait for room in memory to their answers. No write waits for
//! another one of its frame: each is answered as soon as its own answer is ready.

use std::{future::Future, sync::Arc};

use futures::{
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use tierkv_storage::Storage;
use tierkv_types::{Code, Error};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{
    prior_rows::load,
    proposal::{Answer, PendingAnswers, Proposal, Rows, Verdicts},
    sequencer::Sequencer,
};

/// Receives answers, in any order.
pub(crate) trait Answers: Sync {
    /// Sends some answers; may wait for room in the stream.
    fn give(&self, answers: Vec<Answer>) -> impl Future<Output = ()> + Send;
}

/// The write path of one data node.
#[derive(Clone)]
pub(crate) struct WritePath {
    pub(crate) sequencer: Arc<Sequencer>,
    pub(crate) storage: Arc<Storage>,
}

/// The result of one of several concurrent waits.
enum Step {
    /// Answers were sent.
    Answered,
    /// Rows were read for these proposals, or reading failed.
    Loaded(Vec<Proposal>, Result<Rows, Error>),
    /// There is room for these proposals.
    HasRoom(Vec<Proposal>),
}

impl WritePath {
    /// Sequences writes and answers each of them by its deadline.
    pub(crate) async fn write(&self, proposals: Vec<Proposal>, answers: &impl Answers) {
        let proposals = self.await_room(proposals, 0, answers).await;
        if proposals.is_empty() {
            return;
        }
        let verdicts = self.sequencer.propose(proposals, &Rows::default());
        self.finish(verdicts, answers).await;
    }

    /// Waits until not too much waits for its commit (backpressure from slow or missing members),
    /// and the memory tier and the log have room (from a slow disk), the log for a record of so many
    /// `bytes`. Returns the writes whose deadlines have not passed.
    async fn await_room(
        &self,
        mut proposals: Vec<Proposal>,
        bytes: u64,
        answers: &impl Answers,
    ) -> Vec<Proposal> {
        let room = async {
            self.sequencer.room().await;
            self.storage.room_for(bytes).await;
        };
        tokio::pin!(room);
        while let Some(first) = proposals.iter().map(|proposal| proposal.deadline).min() {
            if timeout_at(first, &mut room).await.is_ok() {
                break;
            }
            let late;
            (late, proposals) = late_and_others(proposals, first, |proposal| proposal.deadline);
            let error = Error::new(
                Code::DeadlineExceeded,
                "the write waited for room until its deadline: the data node's disk is slow, or \
                 too few nodes of the cluster log its writes; nothing was done, retry later",
            );
            answers.give(refuse(late, &error)).await;
        }
        proposals
    }

    /// Splits off the refusals that show what keys hold: like a read, they need a proof from after
    /// their arrival that this node is the master, unless its log is alone in sync (REP-CONFIRM).
    fn to_prove(&self, settled: Vec<Answer>) -> (Vec<Answer>, Vec<Answer>) {
        if matches!(self.sequencer.confirm_at_once(), Ok(Some(_))) {
            return (Vec::new(), settled);
        }
        let shows = |answer: &Answer| {
            let refused = answer.result.as_ref().err();
            refused.is_some_and(|error| is_judged(error.code))
        };
        settled.into_iter().partition(shows)
    }

    /// Sends refusals once it is proven that this node is the master, each by its deadline.
    async fn prove(&self, mut judged: Vec<Answer>, answers: &impl Answers) {
        let proof = self.sequencer.confirm_read();
        tokio::pin!(proof);
        while let Some(first) = judged.iter().map(|answer| answer.deadline).min() {
            match timeout_at(first, &mut proof).await {
                Ok(Ok(_)) => return answers.give(judged).await,
                Ok(Err(error)) => return answers.give(instead(judged, &error)).await,
                Err(_) => {
                    let late;
                    (late, judged) = late_and_others(judged, first, |answer| answer.deadline);
                    let error = Error::unavailable(
                        "the cluster's other members did not confirm in time that this node is \
                         its master; nothing was done",
                    );
                    answers.give(instead(late, &error)).await;
                }
            }
        }
    }

    /// Reads the rows that proposals depend on; refuses those whose deadlines pass meanwhile.
    async fn load(&self, mut unknown: Vec<Proposal>, answers: &impl Answers) -> Step {
        while let Some(first) = unknown.iter().map(|proposal| proposal.deadline).min() {
            let loading = load(&self.storage, &unknown);
            if let Ok(rows) = timeout_at(first, loading).await {
                return Step::Loaded(unknown, rows);
            }
            let late;
            (late, unknown) = late_and_others(unknown, first, |proposal| proposal.deadline);
            let error = Error::new(
                Code::DeadlineExceeded,
                "the keys that the write depends on could not be read in time; nothing was done",
            );
            answers.give(refuse(late, &error)).await;
        }
        Step::Answered
    }

    /// Sends answers when they are ready. Judges unknown proposals once their rows are read, and
    /// others once the log has room for them; rows are not held meanwhile.
    async fn finish(&self, verdicts: Verdicts, answers: &impl Answers) {
        let mut steps: FuturesUnordered<BoxFuture<'_, Step>> = FuturesUnordered::new();
        let mut next = Some(verdicts);
        loop {
            if let Some(verdicts) = next.take() {
                let Verdicts {
                    settled,
                    pending,
                    unknown,
                    waiting,
                    waiting_bytes,
                } = verdicts;
                let (judged, settled) = self.to_prove(settled);
                if !settled.is_empty() {
                    answers.give(settled).await;
                }
                if !judged.is_empty() {
                    steps.push(Box::pin(async {
                        self.prove(judged, answers).await;
                        Step::Answered
                    }));
                }
                let is_all = unknown.is_empty() && waiting.is_empty() && steps.is_empty();
                if is_all && pending.len() <= 1 {
                    // Nearly always: nothing to load, only waits for commits.
                    for pending in pending {
                        settle(pending, answers).await;
                    }
                    return;
                }
                for pending in pending {
                    steps.push(Box::pin(async move {
                        settle(pending, answers).await;
                        Step::Answered
                    }));
                }
                if !unknown.is_empty() {
                    steps.push(Box::pin(self.load(unknown, answers)));
                }
                if !waiting.is_empty() {
                    steps.push(Box::pin(async move {
                        Step::HasRoom(self.await_room(waiting, waiting_bytes, answers).await)
                    }));
                }
            }
            match steps.next().await {
                None => return,
                Some(Step::Answered) => {}
                Some(Step::HasRoom(proposals)) if proposals.is_empty() => {}
                Some(Step::HasRoom(proposals)) => {
                    next = Some(self.sequencer.propose(proposals, &Rows::default()));
                }
                Some(Step::Loaded(proposals, Ok(rows))) => {
                    next = Some(self.sequencer.propose(proposals, &rows));
                }
                Some(Step::Loaded(proposals, Err(error))) => {
                    answers.give(refuse(proposals, &error)).await;
                }
            }
        }
    }
}

/// Splits off what is late at `now`.
fn late_and_others<T>(
    waiting: Vec<T>,
    now: Instant,
    deadline: impl Fn(&T) -> Instant,
) -> (Vec<T>, Vec<T>) {
    (waiting.into_iter()).partition(|waiting| deadline(waiting) <= now)
}

/// Sends answers once the record they depend on is committed, each by its deadline.
async fn settle(pending: PendingAnswers, answers: &impl Answers) {
    let PendingAnswers {
        answers: mut waiting,
        mut committed,
    } = pending;
    while let Some(first) = waiting.iter().map(|answer| answer.deadline).min() {
        let is_known = tokio::select! {
            biased;
            committed = &mut committed => committed.is_ok(),
            () = sleep_until(first) => {
                let late;
                (late, waiting) = late_and_others(waiting, first, |answer| answer.deadline);
                answers.give(doubt(late)).await;
                continue;
            }
        };
        let known = match is_known {
            true => waiting,
            false => doubt(waiting),
        };
        return answers.give(known).await;
    }
}

/// The answers when it is unknown whether the record they depend on is committed.
fn doubt(answers: Vec<Answer>) -> Vec<Answer> {
    let doubtful = answers.into_iter().map(|answer| Answer {
        result: Err(match answer.result {
            Ok(_) => Error::outcome_unknown(
                "the write was logged and not yet committed when its time was over; read the \
                 key, or send it again with the same request id",
            ),
            // The write it was judged by is not committed yet, and may never be (REP-APPLY).
            Err(error) if is_judged(error.code) => Error::unavailable(
                "an earlier write of the same keys was not committed in time; nothing was done",
            ),
            Err(error) => error,
        }),
        ..answer
    });
    doubtful.collect()
}

/// Whether an error of this code depends on what the keys held.
const fn is_judged(code: Code) -> bool {
    matches!(
        code,
        Code::ConditionFailed | Code::InvalidArgument | Code::NotFound | Code::AlreadyExists
    )
}

/// The same answers with an error in place of their results.
fn instead(answers: Vec<Answer>, error: &Error) -> Vec<Answer> {
    let refused = answers.into_iter().map(|answer| Answer {
        result: Err(error.clone()),
        ..answer
    });
    refused.collect()
}

fn refuse(proposals: Vec<Proposal>, error: &Error) -> Vec<Answer> {
    let refused = proposals.into_iter().map(|proposal| Answer {
        id: proposal.id,
        deadline: proposal.deadline,
        result: Err(error.clone()),
    });
    refused.collect()
}
