//! Lets storage read and verify all data once a day, and reports damage.

use std::{sync::Arc, time::Duration};

use metrics::{Gauge, gauge};
use tierkv_rpc::{Pace, Worker};
use tierkv_storage::{Scrubbed, Storage};

/// The time from a node's start to its first scrub: by then its caches are warm.
const FIRST_SCRUB: Duration = Duration::from_secs(600);
/// The time between two scrubs.
const SCRUB_INTERVAL: Duration = Duration::from_secs(24 * 3_600);
/// The rate limit of a scrub.
const BYTES_PER_SECOND: u64 = 16 << 20;

/// The scrubber of one data node. Damage is reported and does not stop the node: reads of
/// damaged keys are refused, all others are served.
pub(crate) struct Scrubber {
    storage: Arc<Storage>,
    damaged: Gauge,
}

impl Scrubber {
    pub(crate) fn new(storage: Arc<Storage>) -> Self {
        metrics::describe_gauge!(
            "tierkv_damaged_places",
            "Damaged records and rows that the last scrub of the disk found; see the log for them."
        );
        Self {
            storage,
            damaged: gauge!("tierkv_damaged_places"),
        }
    }

    fn report(&self, scrubbed: &Scrubbed) {
        for damage in &scrubbed.damage {
            tracing::error!(%damage, "the disk is damaged");
        }
        #[allow(clippy::cast_precision_loss)]
        self.damaged.set(scrubbed.damage.len() as f64);
        tracing::info!(
            segments = scrubbed.segments,
            records = scrubbed.records,
            rows = scrubbed.rows,
            damaged = scrubbed.damage.len(),
            "read everything on disk again"
        );
    }
}

impl Worker for Scrubber {
    fn name(&self) -> &'static str {
        "scrubber"
    }

    fn first_after(&self) -> Duration {
        FIRST_SCRUB
    }

    fn is_cancellable(&self) -> bool {
        // It only reads, and may take hours.
        true
    }

    async fn work(&mut self) -> Pace {
        match self.storage.scrub(BYTES_PER_SECOND).await {
            Ok(scrubbed) => self.report(&scrubbed),
            Err(error) => tracing::warn!(%error, "a scrub of the disk failed before its end"),
        }
        Pace::Idle(SCRUB_INTERVAL)
    }
}
