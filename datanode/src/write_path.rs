//! A frame's writes, from room in memory to their answers. None waits for another of its
//! frame: each is answered as soon as its own answer may be given.

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

/// Takes answers in, in any order.
pub(crate) trait Answers: Sync {
    /// Passes some on; may wait until there is room for them.
    fn give(&self, answers: Vec<Answer>) -> impl Future<Output = ()> + Send;
}

/// The way of writes through one data node.
#[derive(Clone)]
pub(crate) struct WritePath {
    pub(crate) sequencer: Arc<Sequencer>,
    pub(crate) storage: Arc<Storage>,
}

/// What came of one of several things that are waited for at the same time.
enum Step {
    /// Answers were given.
    Answered,
    /// Rows were read for these, or could not be.
    Loaded(Vec<Proposal>, Result<Rows, Error>),
}

impl WritePath {
    /// Sequences writes and answers each of them; at its deadline at the latest.
    pub(crate) async fn write(&self, proposals: Vec<Proposal>, answers: &impl Answers) {
        let proposals = self.await_room(proposals, answers).await;
        if proposals.is_empty() {
            return;
        }
        let verdicts = self.sequencer.propose(proposals, &Rows::default());
        self.finish(verdicts, answers).await;
    }

    /// Waits for the memory tier's bound: a slow disk slows writers and never fills memory.
    /// Hands out the writes that still have time then.
    async fn await_room(
        &self,
        mut proposals: Vec<Proposal>,
        answers: &impl Answers,
    ) -> Vec<Proposal> {
        let room = self.storage.room();
        tokio::pin!(room);
        while let Some(first) = proposals.iter().map(|proposal| proposal.deadline).min() {
            if timeout_at(first, &mut room).await.is_ok() {
                break;
            }
            let late;
            (late, proposals) = late_and_others(proposals, first, |proposal| proposal.deadline);
            let error = Error::new(
                Code::DeadlineExceeded,
                "the disk did not keep up with the writes before this one; nothing was done",
            );
            answers.give(refuse(late, &error)).await;
        }
        proposals
    }

    /// Reads the rows that proposals depend on; those that are late by then are refused.
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
                "what the write depends on could not be read in time; nothing was done",
            );
            answers.give(refuse(late, &error)).await;
        }
        Step::Answered
    }

    /// Gives the answers as they come, and judges what is unknown once its rows are read.
    async fn finish(&self, verdicts: Verdicts, answers: &impl Answers) {
        let mut steps: FuturesUnordered<BoxFuture<'_, Step>> = FuturesUnordered::new();
        let mut next = Some(verdicts);
        loop {
            if let Some(verdicts) = next.take() {
                let Verdicts {
                    settled,
                    pending,
                    unknown,
                } = verdicts;
                if !settled.is_empty() {
                    answers.give(settled).await;
                }
                let is_all = unknown.is_empty() && steps.is_empty();
                if is_all && pending.len() <= 1 {
                    // Nearly always: one wait, and no other beside it.
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
            }
            match steps.next().await {
                None => return,
                Some(Step::Answered) => {}
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

/// Parts what is late at `now` from what is not.
fn late_and_others<T>(
    waiting: Vec<T>,
    now: Instant,
    deadline: impl Fn(&T) -> Instant,
) -> (Vec<T>, Vec<T>) {
    (waiting.into_iter()).partition(|waiting| deadline(waiting) <= now)
}

/// Gives answers once what they depend on is committed, each at its deadline at the latest.
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

/// What is answered where nobody knows whether what an answer depends on is committed.
fn doubt(answers: Vec<Answer>) -> Vec<Answer> {
    let doubtful = answers.into_iter().map(|answer| Answer {
        result: Err(match answer.result {
            Ok(_) => Error::outcome_unknown(
                "the write was logged and not yet committed when its time was over; read the \
                 key, or send it again with the same request id",
            ),
            // What it was judged by is not committed yet, and may never be (REP-APPLY).
            Err(error) if is_judged(error.code) => Error::unavailable(
                "what the write was judged by was not committed in time; nothing was done",
            ),
            Err(error) => error,
        }),
        ..answer
    });
    doubtful.collect()
}

/// Whether a refusal of this code says something of what the write was judged by.
const fn is_judged(code: Code) -> bool {
    matches!(
        code,
        Code::ConditionFailed | Code::InvalidArgument | Code::NotFound | Code::AlreadyExists
    )
}

fn refuse(proposals: Vec<Proposal>, error: &Error) -> Vec<Answer> {
    let refused = proposals.into_iter().map(|proposal| Answer {
        id: proposal.id,
        deadline: proposal.deadline,
        result: Err(error.clone()),
    });
    refused.collect()
}
