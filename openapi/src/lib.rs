//! REST as data: the JSON models, and the one place where codes meet HTTP status.
//!
//! Reading order: [`octets`] and [`integer`] (what JSON can't hold as it is), [`object`],
//! [`requests`] and [`answers`], [`events`] (what a watch tells), [`problem`] (what every failed request
//! answers, RFC 9457), [`cluster`] (what `/v1/cluster` and `tierkv status --output json`
//! answer alike), [`ttl`] and [`timeout`] (how spans of time are written). For the document
//! alone: [`raw`], [`parameters`] and [`refusals`]. The document itself is `openapi.json` of this
//! folder; the gateway makes it of its routes, and a test there keeps the two equal.

pub mod answers;
pub mod cluster;
mod duration;
pub mod events;
pub mod integer;
pub mod object;
pub mod octets;
pub mod parameters;
pub mod problem;
pub mod raw;
pub mod refusals;
pub mod requests;
pub mod timeout;
pub mod ttl;

pub use answers::{Deleted, Written};
pub use cluster::ClusterReport;
pub use problem::{Problem, http_status};
