//! [`Relief`]: a master whose state is damaged can't send it to a node that joins. It hands mastership
//! over, because another member in sync has all of the state, too.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use metrics::counter;
use tierkv_rpc::proto::internal::{SnapshotPart, snapshot_part::Kind};
use tierkv_types::{ClusterId, Code, Error};
use tokio::time::Instant;

use crate::orders::Orders;

/// How often a master hands over for this reason at most. Were all members damaged, mastership would
/// go round between them with every attempt of the joining node.
const RELIEF_INTERVAL: Duration = Duration::from_secs(600);

/// Counts what came of snapshots.
const SENT: &str = "tierkv_snapshots_sent_total";

/// Reports the ends of transfers, and hands over if one shows damage. Clones share their state.
#[derive(Clone)]
pub(crate) struct Relief {
    cluster: ClusterId,
    orders: Orders,
    /// When this node began to hand over last.
    begun_at: Arc<Mutex<Option<Instant>>>,
}

impl Relief {
    pub(crate) fn new(cluster: ClusterId, orders: Orders) -> Self {
        metrics::describe_counter!(
            SENT,
            "Snapshots of this node's state that were sent to nodes that join, or could not be."
        );
        for result in ["sent", "failed", "damaged"] {
            counter!(SENT, "result" => result).increment(0);
        }
        Self {
            cluster,
            orders,
            begun_at: Arc::default(),
        }
    }

    /// A part was sent.
    pub(super) fn is_sent(&self, part: &SnapshotPart) {
        if let Some(Kind::End(_)) = part.kind {
            counter!(SENT, "result" => "sent").increment(1);
        }
    }

    /// A transfer has failed. Must be called within a tokio runtime.
    pub(super) fn failed(&self, error: &Error) {
        if error.code != Code::DataLoss {
            counter!(SENT, "result" => "failed").increment(1);
            return;
        }
        counter!(SENT, "result" => "damaged").increment(1);
        if self.is_due() {
            let relief = self.clone();
            tokio::spawn(async move { relief.hand_over().await });
        }
    }

    fn is_due(&self) -> bool {
        let mut begun_at = self.begun_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = begun_at.is_none_or(|at| at.elapsed() >= RELIEF_INTERVAL);
        if is_due {
            *begun_at = Some(Instant::now());
        }
        is_due
    }

    async fn hand_over(&self) {
        let cluster = &self.cluster;
        match self.orders.hand_over(None, false).await {
            Ok(Ok(master)) => tracing::warn!(
                %cluster,
                %master,
                "this node's stored data is damaged, so it handed mastership over to one that can \
                 send its state to a node that joins"
            ),
            Ok(Err(error)) => tracing::error!(
                %cluster,
                %error,
                "this node's stored data is damaged, so no node can join the cluster, and mastership \
                 could not be handed over"
            ),
            Err(error) => tracing::debug!(%cluster, %error, "the node stops"),
        }
    }
}
