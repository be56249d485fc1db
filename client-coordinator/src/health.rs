//! Whether this coordinator can answer, as its health service and its readiness page report it.

use std::{sync::Arc, time::Duration};

use tierkv_types::Clock;
use tokio::{sync::watch, time::interval};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::views::SharedViews;

/// How often the health service looks whether the platform answers.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// The name under which the health service knows the API.
const KV_SERVICE: &str = "tierkv.v1.Kv";

/// Tells whether the masters of all clusters answered lately. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Readiness {
    pub(crate) views: SharedViews,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long ago an answer may be.
    pub(crate) bound: Duration,
}

impl Readiness {
    pub(crate) fn is_ready(&self) -> bool {
        self.views.are_fresh(self.clock.boot_time(), self.bound)
    }
}

/// Keeps the health service at what is so.
pub(crate) async fn watch_health(
    health: HealthReporter,
    readiness: Readiness,
    mut stop: watch::Receiver<bool>,
) {
    let mut ticks = interval(HEALTH_INTERVAL);
    loop {
        let status = match readiness.is_ready() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        health.set_service_status(KV_SERVICE, status).await;
        health.set_service_status("", status).await;
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
