//! Whether this coordinator can answer, for its health service and its readiness page.

use std::{sync::Arc, time::Duration};

use tierkv_rpc::{Pace, Worker};
use tierkv_types::Clock;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::views::SharedViews;

/// How often the health service checks whether the platform answers.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// The name of the API in the health service.
const KV_SERVICE: &str = "tierkv.v1.Kv";

/// Reports whether the master of at least one cluster has answered recently: while some are silent,
/// the keys of the others are served. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Readiness {
    views: SharedViews,
    clock: Arc<dyn Clock>,
    bound: Duration,
}

impl Readiness {
    /// `bound`: the maximum age of an answer.
    pub(crate) fn new(views: SharedViews, clock: Arc<dyn Clock>, bound: Duration) -> Self {
        Self {
            views,
            clock,
            bound,
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.views.is_one_fresh(self.clock.boot_time(), self.bound)
    }
}

/// Keeps the health service up to date.
pub(crate) struct Health {
    pub(crate) reporter: HealthReporter,
    pub(crate) readiness: Readiness,
}

impl Worker for Health {
    fn name(&self) -> &'static str {
        "health"
    }

    async fn work(&mut self) -> Pace {
        let status = match self.readiness.is_ready() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        for service in [KV_SERVICE, ""] {
            self.reporter.set_service_status(service, status).await;
        }
        Pace::Idle(HEALTH_INTERVAL)
    }
}
