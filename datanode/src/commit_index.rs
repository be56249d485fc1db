//! [`CommitIndex`]: a replica's question for its master's commit index (REP-CONFIRM).
//!
//! All reads that arrive while a question is under way share the next one. So at most one is under
//! way and one waits, however many reads there are:
//!
//! ```text
//!   reads ──► question 7 under way ──► answers the reads from before it was sent
//!   reads ──► question 8 waits     ──► answers those that arrived meanwhile
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tierkv_rpc::{
    proto::{
        internal::{CommitIndexRequest, commit_index_client::CommitIndexClient},
        status::read_error,
    },
    within,
};
use tierkv_types::{Code, Error, Index, Version};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

use crate::{members::Peers, sequencer::Sequencer};

/// Timeout of a question.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// A master's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Confirmed {
    /// Everything up to here must be applied before the read.
    pub(crate) index: Index,
    /// The clock by which the read judges expiry.
    pub(crate) clock: Version,
}

/// The questions of one node.
pub(crate) struct CommitIndex {
    sequencer: Arc<Sequencer>,
    peers: Peers,
    /// The number of the last question that was sent.
    sent: AtomicU64,
    /// The last answer, with the number of its question. Who holds the lock asks.
    last: Mutex<(u64, Result<Confirmed, Error>)>,
}

impl CommitIndex {
    pub(crate) fn new(sequencer: Arc<Sequencer>, peers: Peers) -> Self {
        Self {
            sequencer,
            peers,
            sent: AtomicU64::new(0),
            last: Mutex::new((0, Err(no_master()))),
        }
    }

    /// The answer to a question that was sent after the call.
    ///
    /// # Errors
    /// `NotMaster` if this node hears no master, or the one it hears is none any more; otherwise
    /// that of the call.
    pub(crate) async fn ask(&self) -> Result<Confirmed, Error> {
        let before = self.sent.load(Ordering::Acquire);
        // A caller that goes away lets the next one ask.
        let mut last = self.last.lock().await;
        let (number, answer) = &*last;
        if *number > before {
            return answer.clone();
        }
        let number = self.sent.fetch_add(1, Ordering::AcqRel) + 1;
        let answer = self.question().await;
        *last = (number, answer.clone());
        answer
    }

    async fn question(&self) -> Result<Confirmed, Error> {
        let master = self.sequencer.master().ok_or_else(no_master)?;
        let channel = self.peers.channel(&master).ok_or_else(no_master)?;
        let deadline = Instant::now() + ANSWER_TIME;
        let mut client = CommitIndexClient::new(channel);
        let asked = client.ask(within(CommitIndexRequest {}, deadline));
        let answer = timeout_at(deadline, asked).await.map_err(|_| {
            Error::unavailable("the cluster's master did not return its commit index in time")
        })?;
        let answer = answer.map_err(|status| read_error(&status))?.into_inner();
        Ok(Confirmed {
            index: Index(answer.index),
            clock: Version::from_bits(answer.clock),
        })
    }
}

fn no_master() -> Error {
    Error::new(
        Code::NotMaster,
        "this node is a replica and hears no master that could confirm the read",
    )
}
