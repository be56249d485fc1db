//! A master that stops hands its mastership over first, so that writes wait for milliseconds and
//! not for F (REP-HANDOVER).

use std::time::Duration;

use tierkv_protocol::replication::{HandoverError, Replica};
use tokio::time::{sleep, timeout};

use crate::{orders::Orders, service::Service};

/// Longest time that a stopping master waits for its successor. After it the node stops all the
/// same, and the others elect a master once they have not heard one for F.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);
/// Pause between two attempts, and between two looks at the successor's progress.
const PAUSE: Duration = Duration::from_millis(20);

/// Hands over, if this node is master and another one is in sync, and stays until it is not needed
/// any more. Takes at most [`LEAVE_LIMIT`].
pub(crate) async fn leave(service: &Service) {
    let Service {
        cluster,
        sequencer,
        orders,
        ..
    } = service;
    if sequencer.look(|replica, _| !has_successor(replica)) {
        return;
    }
    let leaving = async {
        hand_over(cluster, orders).await;
        // Where too few others are in sync it stays listed: the new master commits nothing without
        // this log, so it must not stop before the new term has begun.
        while sequencer.look(|replica, _| is_needed(replica)) {
            sleep(PAUSE).await;
        }
    };
    if timeout(LEAVE_LIMIT, leaving).await.is_err() {
        tracing::warn!(
            %cluster,
            limit_ms = LEAVE_LIMIT.as_millis(),
            "the handover before the stop took too long; the node stops, and the others elect a \
             master"
        );
    }
}

/// Hands over to whoever is best; a passing failure is tried again.
async fn hand_over(cluster: &str, orders: &Orders) {
    loop {
        match orders.hand_over(None, true).await {
            Ok(Ok(master)) => {
                tracing::info!(%cluster, %master, "handed mastership over before the stop");
                return;
            }
            Ok(Err(error @ (HandoverError::NotMaster | HandoverError::NoSuccessor))) => {
                tracing::warn!(%cluster, %error, "stops without a handover");
                return;
            }
            Ok(Err(error)) => {
                tracing::warn!(%cluster, %error, "the handover before the stop is tried again");
            }
            Err(error) => {
                tracing::warn!(%cluster, %error, "stops without a handover");
                return;
            }
        }
        sleep(PAUSE).await;
    }
}

/// Whether it is a master that is not alone.
fn has_successor(replica: &Replica) -> bool {
    let term = replica.mastership();
    term.is_some_and(|term| term.record().in_sync.len() > 1)
}

/// Whether the term of another master waits for this node's log.
fn is_needed(replica: &Replica) -> bool {
    replica.mastership().is_none() && replica.is_in_sync() && !replica.has_begun_term()
}
