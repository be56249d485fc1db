//! Writes on their way through the sequencer: as they come, and as they are answered.

use tierkv_types::{Error, Version, WriteRequest};
use tokio::{sync::oneshot, time::Instant};

use crate::judgement::{Effect, Priors};

/// A write with its deadline, as a frame brought it.
pub(crate) struct Proposal {
    /// The number under which its answer is expected.
    pub(crate) id: u64,
    pub(crate) write: WriteRequest,
    /// Of what is asked for; computed before anybody has to wait for it.
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

/// What the store said of keys that memory does not know.
#[derive(Default)]
pub(crate) struct Rows {
    /// How many checkpoints had ended before the store was asked.
    pub(crate) generation: u64,
    /// What each key holds.
    pub(crate) priors: Priors,
}

/// What is answered to a write that is applied.
pub(crate) struct Sequenced {
    pub(crate) version: Version,
    /// What each operation does, in their order.
    pub(crate) effects: Vec<Effect>,
    /// It had been applied before; what keys held then is not remembered.
    pub(crate) replayed: bool,
}

/// An answer, and until when it is waited for.
pub(crate) struct Answer {
    pub(crate) id: u64,
    pub(crate) deadline: Instant,
    pub(crate) result: Result<Sequenced, Error>,
}

/// Answers that may be given once a record is committed, applied and out of the cache.
pub(crate) struct PendingAnswers {
    pub(crate) answers: Vec<Answer>,
    /// Over once they may be given; an error means that nobody will know.
    pub(crate) committed: oneshot::Receiver<()>,
}

/// What became of some proposals. Each of them is in one of these, none waits for another.
#[derive(Default)]
pub(crate) struct Verdicts {
    /// Answers that depend on nothing uncommitted.
    pub(crate) settled: Vec<Answer>,
    /// Answers that wait, those for one record together.
    pub(crate) pending: Vec<PendingAnswers>,
    /// Those that only the store can help to judge: load what they need and propose again.
    pub(crate) unknown: Vec<Proposal>,
}
