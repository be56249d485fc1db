//! REST as data: the JSON models, and the one place where codes meet HTTP status.
//!
//! [`problem`] is what every failed request answers (RFC 9457), [`cluster`] what
//! `/v1/cluster` and `tierkv status --output json` answer alike, [`answers`] the rest;
//! [`ttl`] is how a time to live is written.

pub mod answers;
pub mod cluster;
pub mod problem;
pub mod ttl;

pub use answers::{Deleted, Written};
pub use cluster::ClusterReport;
pub use problem::{Problem, http_status};
