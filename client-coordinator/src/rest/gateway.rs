//! What the operations of the gateway work with.

use std::sync::Arc;

use tokio::sync::watch;

use super::admission::Admission;
use crate::{admin::Admin, health::Readiness, operations::Operations, settings::MetricsPage};

/// Everything the gateway needs.
pub(crate) struct Gateway<C> {
    pub(crate) operations: Arc<Operations<C>>,
    pub(crate) admin: Arc<Admin<C>>,
    pub(crate) metrics: MetricsPage,
    pub(crate) readiness: Readiness,
    /// What requests must fulfil.
    pub(crate) admission: Arc<Admission>,
    /// Ends the watches.
    pub(crate) stop: watch::Receiver<bool>,
}
