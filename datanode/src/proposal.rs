//! Writes on their way through the sequencer: [`Proposal`] in, [`Answer`] out.

use tierkv_types::{Error, Version, WriteRequest};
use tokio::{sync::oneshot, time::Instant};

use crate::judgement::{Effect, Priors};

/// A write from a frame, with its deadline.
#[derive(Clone)]
pub(crate) struct Proposal {
    /// The request's number in its frame, for the answer.
    pub(crate) id: u64,
    pub(crate) write: WriteRequest,
    /// Of the write's content; computed before the sequencer's lock is taken.
    pub(crate) fingerprint: u32,
    pub(crate) deadline: Instant,
}

impl Proposal {
    pub(crate) fn new(id: u64, write: WriteRequest, deadline: Instant) -> Self {
        Self {
            id,
            fingerprint: write.fingerprint(),
            write,
            deadline,
        }
    }
}

/// What the store holds of keys that are not in memory.
#[derive(Default)]
pub(crate) struct Rows {
    /// The number of checkpoints that had ended before the store was read.
    pub(crate) generation: u64,
    /// What each key holds.
    pub(crate) priors: Priors,
}

/// The answer to a write that is applied.
pub(crate) struct Sequenced {
    pub(crate) version: Version,
    /// What each operation does, in their order.
    pub(crate) effects: Vec<Effect>,
    /// A retry of a write that was applied before; previous values are not remembered.
    pub(crate) replayed: bool,
}

/// An answer, and its deadline.
pub(crate) struct Answer {
    pub(crate) id: u64,
    pub(crate) deadline: Instant,
    pub(crate) result: Result<Sequenced, Error>,
}

/// Answers to send once a record is committed, applied and its keys deleted from the cache.
pub(crate) struct PendingAnswers {
    pub(crate) answers: Vec<Answer>,
    /// Resolves when they may be sent. An error: whether the record commits is unknown.
    pub(crate) committed: oneshot::Receiver<()>,
}

/// The outcomes of some proposals. Each is in one of these lists; none waits for another.
#[derive(Default)]
pub(crate) struct Verdicts {
    /// Answers that depend on nothing uncommitted.
    pub(crate) settled: Vec<Answer>,
    /// Answers that wait for a commit, grouped by record.
    pub(crate) pending: Vec<PendingAnswers>,
    /// Proposals that depend on rows of the store: load the rows and propose again.
    pub(crate) unknown: Vec<Proposal>,
    /// Proposals that the log has no room for: wait for room and propose again.
    pub(crate) waiting: Vec<Proposal>,
    /// The bytes of the largest record of these, as far as they were judged.
    pub(crate) waiting_bytes: u64,
}
