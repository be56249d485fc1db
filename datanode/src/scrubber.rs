//! Has the storage read everything again, once a day, and tells what is damaged.

use std::{sync::Arc, time::Duration};

use metrics::{Gauge, gauge};
use tierkv_rpc::{Pace, Worker};
use tierkv_storage::{Scrubbed, Storage};

/// How long after its start a node reads everything for the first time: by then its caches
/// are warm.
const FIRST_SCRUB: Duration = Duration::from_secs(600);
/// How often it does so again.
const SCRUB_INTERVAL: Duration = Duration::from_secs(24 * 3_600);
/// How much of the disk's time a scrub may take.
const BYTES_PER_SECOND: u64 = 16 << 20;

/// The scrubber of one data node. Damage is reported and stops nobody: what is damaged is
/// refused where it is asked for, all else is served.
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
        // It only reads, and for hours if there is much.
        true
    }

    async fn work(&mut self) -> Pace {
        match self.storage.scrub(BYTES_PER_SECOND).await {
            Ok(scrubbed) => self.report(&scrubbed),
            Err(error) => tracing::warn!(%error, "a scrub of the disk broke off"),
        }
        Pace::Idle(SCRUB_INTERVAL)
    }
}
