//! Has the storage read everything again, once a day, and tells what is damaged.

use std::{sync::Arc, time::Duration};

use tierkv_storage::Storage;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};

/// How long after its start a node reads everything for the first time.
const FIRST_SCRUB: Duration = Duration::from_secs(60);
/// How often it does so again.
const SCRUB_INTERVAL: Duration = Duration::from_secs(24 * 3_600);
/// How much of the disk's time a scrub may take.
const BYTES_PER_SECOND: u64 = 16 << 20;

/// Runs until `stop` says so. Damage is reported and stops nobody: what is damaged is
/// refused where it is asked for, all else is served.
pub(crate) async fn run(storage: Arc<Storage>, mut stop: watch::Receiver<bool>) {
    metrics::describe_gauge!(
        "tierkv_damaged_places",
        "Damaged records and rows that the last scrub of the disk found; see the log for them."
    );
    let mut scrubs = interval_at(Instant::now() + FIRST_SCRUB, SCRUB_INTERVAL);
    scrubs.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = scrubs.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let scrubbed = tokio::select! {
            scrubbed = storage.scrub(BYTES_PER_SECOND) => scrubbed,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match scrubbed {
            Ok(scrubbed) => {
                for damage in &scrubbed.damage {
                    tracing::error!(%damage, "the disk is damaged");
                }
                #[allow(clippy::cast_precision_loss)]
                metrics::gauge!("tierkv_damaged_places").set(scrubbed.damage.len() as f64);
                tracing::info!(
                    segments = scrubbed.segments,
                    records = scrubbed.records,
                    rows = scrubbed.rows,
                    damaged = scrubbed.damage.len(),
                    "read everything on disk again"
                );
            }
            Err(error) => tracing::warn!(%error, "a scrub of the disk broke off"),
        }
    }
}
