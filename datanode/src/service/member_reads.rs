//! Reads at a node that is not alone in sync: a replica, or a master of several.
//!
//! ```text
//!   LATEST ───────────────► a proof from after the arrival (REP-CONFIRM), then read
//!   fills the cache ──────► the same, if that is soon done; else as below
//!   SESSION, of a write that this replica has not applied yet ───► the same
//!   CACHED, SESSION ──────► read at once, if the applied state is fresh enough (REP-AGE)
//!     not fresh enough ───► a master waits for a proof; a replica refuses, and the coordinator asks
//!                           the master
//! ```

use std::sync::Arc;

use tierkv_rpc::{
    Replies,
    proto::{
        convert,
        internal::{Read, Reply, Request, RequestFrame, request},
    },
};
use tierkv_types::{Code, Error, Version};
use tokio::time::{Instant, timeout_at};

use super::Service;
use crate::reads::{Basis, ReadView};

/// The reads of a frame, by what they wait for.
#[derive(Default)]
struct Ways {
    at_once: Vec<Request>,
    /// Preferably with a proof.
    soon: Vec<Request>,
    /// Only with a proof.
    proven: Vec<Request>,
}

impl Service {
    /// Answers the reads of a frame that arrived at `arrived`.
    pub(super) async fn read_among(
        self: &Arc<Self>,
        reads: Vec<Request>,
        arrived: Instant,
        replies: &Replies<Reply>,
    ) {
        let is_soon = !self.confirming.is_overdue();
        let soon = self.read_now(reads, is_soon, arrived, replies).await;
        if soon.is_empty() {
            return;
        }
        let Some(places) = replies.admit(soon.len()).await else {
            return;
        };
        let (service, replies) = (Arc::clone(self), replies.clone());
        tokio::spawn(async move {
            match service.confirming.soon().await {
                Some(clock) => {
                    let view = service.proven_view(Ok(clock), arrived);
                    let sorted = service.sort(RequestFrame { requests: soon }, &view);
                    service.read(view, sorted, places, &replies).await;
                }
                None => {
                    // They take places of their own.
                    drop(places);
                    service.read_now(soon, false, arrived, &replies).await;
                }
            }
        });
    }

    /// Answers reads at once or with a proof, as each needs it. Returns those that wait a little
    /// for a proof, if there are such.
    async fn read_now(
        self: &Arc<Self>,
        reads: Vec<Request>,
        is_soon: bool,
        arrived: Instant,
        replies: &Replies<Reply>,
    ) -> Vec<Request> {
        let view = self.unproven_view(&reads, arrived);
        let mut ways = Ways::default();
        for request in reads {
            let Some(request::Kind::Read(read)) = &request.kind else {
                continue;
            };
            let way = match read {
                Read {
                    max_staleness_ms: 0,
                    ..
                } => &mut ways.proven,
                Read { fills: true, .. } if is_soon => &mut ways.soon,
                // Its master's commit index covers the write, and costs the master less than the read
                // that it would get after a refusal.
                read if is_soon && view.is_behind(read) => &mut ways.soon,
                // A replica refuses those that it is not fresh enough for.
                read if view.is_replica || view.fits(read) => &mut ways.at_once,
                _ => &mut ways.proven,
            };
            way.push(request);
        }
        if !ways.at_once.is_empty() {
            let frame = RequestFrame {
                requests: ways.at_once,
            };
            self.answer(frame, view, replies).await;
        }
        if !ways.proven.is_empty() {
            self.read_proven(ways.proven, arrived, replies).await;
        }
        ways.soon
    }

    /// Answers reads once there is a proof.
    async fn read_proven(
        self: &Arc<Self>,
        reads: Vec<Request>,
        arrived: Instant,
        replies: &Replies<Reply>,
    ) {
        let Some(places) = replies.admit(reads.len()).await else {
            return;
        };
        let (service, replies) = (Arc::clone(self), replies.clone());
        tokio::spawn(async move {
            let confirmed = service.confirm(&reads, arrived).await;
            let view = service.proven_view(confirmed, arrived);
            let sorted = service.sort(RequestFrame { requests: reads }, &view);
            service.read(view, sorted, places, &replies).await;
        });
    }

    /// Waits for a proof until the last of the reads is late.
    async fn confirm(&self, reads: &[Request], arrived: Instant) -> Result<Version, Error> {
        let longest = reads.iter().map(|request| request.timeout_ms).max();
        let deadline = arrived + convert::timeout(longest.unwrap_or_default());
        let confirmed = timeout_at(deadline, self.confirming.confirm()).await;
        confirmed.unwrap_or_else(|_| {
            Err(Error::new(
                Code::DeadlineExceeded,
                "the cluster's other members did not confirm in time who is its master",
            ))
        })
    }

    fn proven_view(&self, confirmed: Result<Version, Error>, arrived: Instant) -> ReadView {
        ReadView {
            arrived,
            ..self.view(confirmed)
        }
    }

    /// The view for reads that need no proof. Their age counts from before everything else in it
    /// was sampled.
    fn unproven_view(&self, reads: &[Request], arrived: Instant) -> ReadView {
        // The latest clock that one of them carries: it shows what time it is.
        let shown = reads.iter().filter_map(|request| match &request.kind {
            Some(request::Kind::Read(read)) => Some(read.clock),
            _ => None,
        });
        let shown = Version::from_bits(shown.max().unwrap_or_default());
        let since = self.sequencer.fresh_since(shown);
        let clock = self.sequencer.unproven_clock();
        ReadView {
            basis: Ok(Basis::Applied(since)),
            arrived,
            ..self.view(Ok(clock))
        }
    }
}
