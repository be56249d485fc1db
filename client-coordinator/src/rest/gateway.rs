//! The shared state of the gateway's operations.

use std::sync::Arc;

use tokio::sync::watch;

use super::admission::Admission;
use crate::{admin::Admin, health::Readiness, operations::Operations, settings::MetricsPage};

/// Everything that the gateway needs.
pub(crate) struct Gateway<C> {
    pub(crate) operations: Arc<Operations<C>>,
    pub(crate) admin: Arc<Admin<C>>,
    pub(crate) metrics: MetricsPage,
    pub(crate) readiness: Readiness,
    /// The admission rules of requests.
    pub(crate) admission: Arc<Admission>,
    /// Ends the watches when it becomes true.
    pub(crate) stop: watch::Receiver<bool>,
}
